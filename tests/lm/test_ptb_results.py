import hashlib
import importlib
import json
import math
import shlex
import shutil
from pathlib import Path

import pytest
from tiny_runs import CASES, contents, epoch_ends, tiny

from eru.lm.evaluation import evaluate_tokens
from eru.lm.loop import train
from eru.lm.recipes import make_recipe, parse_field, read_recipe, shape_of
from eru.lm.run import open_run
from eru.lm.text.tokens import encode_corpus
from eru.training import RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def ptb():
    """The program, which takes the tests' text for the Penn Treebank's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield importlib.import_module("ptb")


@pytest.fixture
def call(ptb, corpus, monkeypatch):
    """``call(*arguments)`` runs the program; a usage error comes back as its last line."""
    monkeypatch.setattr(ptb, "load_corpus", lambda name, data_dir: corpus)
    return lambda *arguments: ptb.main([str(argument) for argument in arguments])


def refused(call, capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """Three of five epochs in two calls."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    recipe = tiny(**CASES["sgd, averaged"])
    train(recipe, corpus, folder.with_name("whole"), quiet=True)
    for steps in (3, epoch_ends(folder.with_name("whole"))[2]):
        train(recipe, corpus, folder, resume=True, max_steps=steps, quiet=True)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results" / "ptb"


def result(out):
    return json.loads((out / "tiny.json").read_text())


def test_a_result_says_what_was_trained_and_how_well_it_does(call, trained, corpus, out, tmp_path):
    before = contents(trained)
    call(trained, "--out", out)
    assert contents(trained) == before
    found, run = result(out), open_run(trained)
    ids = encode_corpus(corpus, run.tokenizer)["valid"].ids
    assert found["exact_valid_perplexity"] == round(evaluate_tokens(run.load_model(), ids).perplexity, 2)
    assert "exact_test_perplexity" not in found
    assert found["parameters"] == sum(p.numel() for p in run.load_model().parameters())
    records = [record for record in run.folder.metrics() if record["event"] == "epoch"]
    assert [row["epoch"] for row in found["course"]] == [1, 2, 3] == list(range(1, found["epochs"] + 1))
    for row, record in zip(found["course"], records, strict=True):
        assert row["valid_perplexity"] == round(math.exp(record["valid_loss"]), 2)
        assert row["train_perplexity"] == round(math.exp(record["train_loss"]), 2)
    assert found["seconds"] == pytest.approx(records[-1]["seconds"], abs=0.2)
    training = found["training"]
    assert training["fingerprint"] == corpus.fingerprint
    assert training["recipe"] == json.loads((trained / "config.json").read_text())["recipe"]
    assert training["places"] == [
        {name: value for name, value in found["environment"].items() if name not in ("python", "command")}
    ]  # both calls alike, on the machine that evaluates now
    assert found["environment"]["command"] == "python benchmarks/ptb.py runs/tiny"
    assert str(tmp_path.parent) not in json.dumps(found)


def test_its_command_trains_the_same(call, trained, corpus, out, tmp_path):
    call(trained, "--out", out)
    python, program, command, *words = shlex.split(result(out)["training"]["command"])
    options = list(zip(words[::2], words[1::2], strict=True))
    changes = dict(parse_field(value) for name, value in options if name == "--set")
    given = {name: value for name, value in options if name != "--set"}
    assert (python, program, command, given.pop("--data")) == ("python", "cli.py", "lm-train", "ptb")
    recipe = make_recipe(given.pop("--recipe"), **changes)
    assert recipe == open_run(trained).recipe
    again = tmp_path / given.pop("--out")
    again.parent.mkdir()
    max_steps, precision = int(given.pop("--max-steps")), given.pop("--precision")
    train(recipe, corpus, again, max_steps=max_steps, precision=precision, quiet=True)
    assert given == {}
    assert (again / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_the_command_of_a_run_from_another_names_it(call, ptb, trained, corpus, out, tmp_path, monkeypatch):
    run = tmp_path / "finetuned"
    train(tiny(epochs=1), corpus, run, start=trained, quiet=True)
    for packaged, name in ((tmp_path / "none", "runs/tiny"), (trained.parent, "tiny")):
        monkeypatch.setattr(ptb, "TRAINED", packaged)
        call(run, "--out", out)
        training = json.loads((out / "finetuned.json").read_text())["training"]
        assert training["command"].endswith(f"--from {name} --out runs/finetuned")
        assert training["start"] == RunFolder.open(run).config["start"]


def test_another_run_of_the_name_of_a_packaged_one_is_told_from_it(ptb, trained, monkeypatch):
    monkeypatch.setattr(ptb, "TRAINED", trained.parent)
    assert ptb.start_name("tiny", "another digest") == "runs/tiny"


def test_the_test_text_is_looked_at_once(call, ptb, trained, corpus, out, monkeypatch, capsys):
    call(trained, "--out", out)
    call(trained, "--out", out, "--test")
    run = open_run(trained)
    ids = encode_corpus(corpus, run.tokenizer)["test"].ids
    assert result(out)["exact_test_perplexity"] == round(evaluate_tokens(run.load_model(), ids).perplexity, 2)
    assert result(out)["environment"]["command"].endswith("--test")
    before = contents(out)
    monkeypatch.setattr(ptb, "evaluate", lambda *_, **__: pytest.fail("the text was looked at again"))
    for again in ([], ["--test"]):
        assert "holds a test figure" in refused(call, capsys, trained, "--out", out, *again)
    assert contents(out) == before


def test_reports_are_added_and_kept(call, trained, out, tmp_path, capsys):
    reports = []
    for split in ("valid", "test"):
        weights = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
        report = {"run": str(trained), "weights": weights, "split": split, "perplexity": 3.5}
        file = tmp_path / f"{split}.json"
        file.write_text(json.dumps(report) + "\n")
        reports.append((file, {**report, "run": "tiny"}))
    call(trained, "--out", out)
    call(trained, "--out", out, "--reports", reports[0][0])
    call(trained, "--out", out)  # no test figure yet: the file is made anew, the report stays
    assert result(out)["evaluations"] == [reports[0][1]]
    call(trained, "--out", out, "--reports", reports[1][0])
    assert result(out)["evaluations"] == [reports[0][1], reports[1][1]]
    assert "holds a test figure" in refused(call, capsys, trained, "--out", out)
    assert "already" in refused(call, capsys, trained, "--out", out, "--reports", reports[1][0])


def test_what_is_no_report_of_the_run_is_refused(call, trained, out, tmp_path, capsys):
    file = tmp_path / "report.json"
    for content, message in (
        ("{", "not valid JSON"),
        ("[]", "holds no report of lm-eval"),
        ('{"run": "tiny"}', "holds no report of lm-eval"),
        ('{"run": "tiny", "split": "valid", "perplexity": 2}', "holds no report of lm-eval"),
        ('{"run": "b", "weights": "1f", "split": "valid", "perplexity": 2}', "of other weights, those of b, than"),
    ):
        file.write_text(content)
        assert "cannot read" in refused(call, capsys, trained, "--out", tmp_path, "--reports", file)
        call(trained, "--out", out)
        before = contents(out)
        assert message in refused(call, capsys, trained, "--out", out, "--reports", file)
        assert contents(out) == before
    assert "--reports takes one run" in refused(call, capsys, trained, "--reports", file, "--test")


def test_what_cannot_be_published_is_refused(call, ptb, trained, make_corpus, corpus, out, tmp_path, capsys):
    train(tiny(), corpus, tmp_path / "short", max_steps=1, quiet=True)
    assert "no complete epoch" in refused(call, capsys, tmp_path / "short", "--out", out)
    assert "no run in" in refused(call, capsys, tmp_path / "nowhere", "--out", out)
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    del config["sha256"]
    config["data"]["fingerprint"] = "0" * 64
    (other / "config.json").write_text(json.dumps(config))
    assert "trained on another text" in refused(call, capsys, other, "--out", out)
    assert not out.exists()


PUBLISHED = sorted((Path(__file__).parents[2] / "benchmarks" / "results" / "ptb").rglob("*.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_command_still_gives_its_recipe(path):
    """Recipes change; the commands of what was trained with the older ones must not change their meaning."""
    training = json.loads(path.read_text())["training"]
    words = iter(shlex.split(training["command"]))
    options = [(word, next(words)) for word in words if word.startswith("--")]
    changes = dict(parse_field(value) for option, value in options if option == "--set")
    # A field that is younger than the file means its default there, whatever the named recipe says today.
    recipe = read_recipe(training["recipe"])
    if "--from" in dict(options):  # which brings its shape
        changes = shape_of(recipe) | changes
    assert make_recipe(dict(options)["--recipe"], **changes) == recipe
