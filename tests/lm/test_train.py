import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import eru.lm.train as train_module
from eru.lm.batches import segments
from eru.lm.evaluate import evaluate
from eru.lm.model import Features
from eru.lm.recipes import make_recipe
from eru.lm.run import open_run
from eru.lm.tokens import encode_corpus
from eru.lm.train import activation_penalty, train
from eru.training import NonFiniteLossError, RunFolder

WORDS = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "plot_curve", lambda metrics, path: False)
        yield


@pytest.fixture(scope="module")
def corpus(make_corpus):
    """A text whose validation part is unlike it, so that its loss soon rises."""
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, (9, 9, 9, 9, 1, 1), k=8)) for _ in range(28)]
    return make_corpus(lines, ["e f e f f e"] * 3, ["a b f"])


def tiny(**changes):
    sizes = {"embedding_size": 6, "hidden_size": 8, "num_layers": 2, "batch_size": 2, "bptt": 9}
    return make_recipe("small", **{**sizes, "epochs": 2, "warmup_steps": 4, "log_every": 1, **changes})


COSINE = {"layer_dropout": 0.3, "epochs": 3, "checkpoint_every": 5}
AVERAGED = {
    "optimizer": "sgd",
    "schedule": "constant",
    "learning_rate": 0.3,
    "averaging": True,
    "nonmonotone_interval": 1,
    "epochs": 5,
    "locked": True,
    "weight_dropout": 0.3,
    "embedding_dropout": 0.1,
    "checkpoint_every": 7,
    "activation_regularization": 1.0,
    "temporal_regularization": 1.0,
}
CASES = {"adamw, cosine": COSINE, "sgd, averaged": AVERAGED}


def same(a, b):
    """Equal bit for bit, through containers; NaN equals itself."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def state_of(folder):
    """The checkpoint without what a clock measured."""
    state = RunFolder.open(folder).load_state()
    del state["position"]["seconds"]
    return state


def course_of(folder):
    """The last record of every step and epoch, without what a clock measured."""
    clock = ("tokens_per_second", "seconds")
    records = [record for record in RunFolder.open(folder).metrics() if record["event"] in ("step", "epoch")]
    return {
        (record["event"], record["step"]): {name: v for name, v in record.items() if name not in clock}
        for record in records
    }


def assert_same_run(folder, whole):
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert course_of(folder) == course_of(whole)
    found, expected = state_of(folder), state_of(whole)
    assert found.keys() == expected.keys()
    for part in found:
        assert same(found[part], expected[part]), part


def steps_run(folder):
    """How often each step was run."""
    return Counter(r["step"] for r in RunFolder.open(folder).metrics() if r["event"] == "step")


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", params=CASES)
def whole(request, corpus, tmp_path_factory):
    """A recipe, and the folder of a run of it that was never stopped."""
    recipe = tiny(**CASES[request.param])
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe, corpus, folder, quiet=True)
    return recipe, folder


def epoch_ends(folder):
    return [record["step"] for record in RunFolder.open(folder).metrics() if record["event"] == "epoch"]


def test_the_whole_run(whole, corpus):
    recipe, folder = whole
    ends = epoch_ends(folder)
    assert len(ends) == recipe.epochs
    assert steps_run(folder) == Counter(range(1, ends[-1] + 1))
    tokens = len(encode_corpus(corpus, open_run(folder).tokenizer)["train"].ids)
    cut = [segments(tokens // 2 - 1, 9, seed=recipe.seed, epoch=epoch) for epoch in range(recipe.epochs)]
    assert ends == [sum(map(len, cut[: epoch + 1])) for epoch in range(recipe.epochs)]
    if recipe.averaging:
        state = state_of(folder)
        assert ends[2] <= ends[-1] - state["average"]["n_averaged"] < ends[-1]
        records = [r for r in RunFolder.open(folder).metrics() if r["event"] == "epoch"]
        assert next(r["averaging"] for r in records) is False
        assert records[-1]["averaging"]
        assert records[-1]["valid_loss"] != records[-1]["raw_valid_loss"]


def test_stopped_and_resumed_equals_whole(whole, corpus, tmp_path):
    """Stopped inside an epoch, at an epoch's end by steps and by epochs, and inside the last one."""
    recipe, folder = whole
    ends = epoch_ends(folder)
    stops = [
        {"max_steps": ends[0] - 3},
        {"max_steps": ends[0]},
        {"max_steps": ends[0] + 2},
        {"epochs": len(ends) - 1},
        {"max_steps": ends[-1] - 2},
        {},
    ]
    done = [ends[0] - 3, ends[0], ends[0] + 2, ends[-2], ends[-1] - 2, ends[-1]]
    run = tmp_path / "run"
    for number, (stop, steps) in enumerate(zip(stops, done, strict=True)):
        result = train(recipe, corpus, run, resume=number > 0, quiet=True, **stop)
        assert result.steps == steps
        assert result.epochs == sum(end <= steps for end in ends)
    assert_same_run(run, folder)
    assert set(steps_run(run).values()) == {1}
    resumed = [record["step"] for record in RunFolder.open(run).metrics() if record["event"] == "resume"]
    assert resumed == sorted({*done[:-1]})


class Killed(BaseException):
    """As sudden as a signal: no code of the library catches it."""


def test_killed_and_resumed_equals_whole(whole, corpus, tmp_path, monkeypatch):
    recipe, folder = whole
    run, step = tmp_path / "run", train_module._step
    last = epoch_ends(folder)[-1] - 1  # in the last epoch, where the mean of the weights is in use

    def killed_at(job, training, start, length):
        if training.position.step == last:
            raise Killed
        return step(job, training, start, length)

    monkeypatch.setattr(train_module, "_step", killed_at)
    with pytest.raises(Killed):
        train(recipe, corpus, run, quiet=True)
    monkeypatch.undo()
    checkpoint = RunFolder.open(run).load_state()["position"]["step"]
    assert 0 < checkpoint <= last
    train(recipe, corpus, run, resume=True, quiet=True)
    assert_same_run(run, folder)
    times = steps_run(run)
    assert {times[n] for n in range(1, checkpoint + 1)} == {1}
    assert {times[n] for n in range(checkpoint + 1, last + 1)} <= {2}
    (resumed,) = (record["step"] for record in RunFolder.open(run).metrics() if record["event"] == "resume")
    assert resumed == checkpoint


def test_killed_at_any_moment_of_any_writing_it_resumes(corpus, tmp_path, monkeypatch):
    """Before and after each file is replaced, the folder can be resumed, or started where there is no run yet."""
    recipe = tiny(bptt=30, random_bptt=False, checkpoint_every=3, log_every=4, num_layers=1)
    train(recipe, corpus, tmp_path / "whole", quiet=True)
    fsync, calls = os.fsync, 0

    def killed_at(number):
        def sync(descriptor):
            nonlocal calls
            calls += 1
            if calls == number:
                raise Killed
            fsync(descriptor)

        return sync

    number, kills = 0, 0
    while kills == number:
        number += 1
        calls, run = 0, tmp_path / str(number)
        monkeypatch.setattr(os, "fsync", killed_at(number))
        try:
            train(recipe, corpus, run, quiet=True)
        except Killed:
            kills += 1
        monkeypatch.setattr(os, "fsync", fsync)
        result = train(recipe, corpus, run, resume=True, quiet=True)
        assert result.epochs == 2
        assert_same_run(run, tmp_path / "whole")
        assert (run / "README.md").read_text() == (tmp_path / "whole" / "README.md").read_text()
    assert kills > 15


def test_killed_before_the_last_validation_it_is_not_finished(corpus, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    recipe = tiny(checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "evaluate", killed)
        with pytest.raises(Killed):
            train(recipe, corpus, tmp_path / "run", max_steps=4, quiet=True)
    result = train(recipe, corpus, tmp_path / "run", resume=True, max_steps=4, quiet=True)
    assert math.isfinite(result.valid_perplexity)
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_process_killed_by_a_signal_resumes(corpus, tmp_path):
    recipe = tiny(checkpoint_every=2, epochs=40)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, json\n"
        "from eru.lm.corpus import load_corpus\n"
        "from eru.lm.recipes import Recipe\n"
        "from eru.lm.train import train\n"
        "train(Recipe(**json.loads(sys.argv[1])), load_corpus(sys.argv[2]), sys.argv[3], quiet=True)\n"
    )
    run = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), json.dumps(asdict(recipe)), corpus.name, str(run)]
    with subprocess.Popen(command, env=environment) as process:
        while not (run / "state.pt").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    checkpoint = RunFolder.open(run).load_state()["position"]["step"]
    train(recipe, corpus, run, resume=True, max_steps=checkpoint + 3, quiet=True)
    train(recipe, corpus, tmp_path / "whole", max_steps=checkpoint + 3, quiet=True)
    found, expected = state_of(run), state_of(tmp_path / "whole")
    assert same(found["model"], expected["model"])
    assert same(found["optimizer"], expected["optimizer"])
    assert {steps_run(run)[n] for n in range(1, checkpoint + 1)} == {1}


def test_resume_starts_where_there_is_no_checkpoint(corpus, tmp_path):
    result = train(tiny(), corpus, tmp_path / "run", resume=True, max_steps=3, quiet=True)
    assert result.steps == 3
    (tmp_path / "run" / "state.pt").unlink()
    again = train(tiny(), corpus, tmp_path / "run", resume=True, max_steps=3, quiet=True)
    assert again.valid_perplexity == result.valid_perplexity


def test_resume_of_a_finished_run_changes_no_byte(whole, corpus):
    recipe, folder = whole
    before = contents(folder)
    done = epoch_ends(folder)[-1]
    for stop in ({}, {"max_steps": done}, {"max_steps": 1}, {"epochs": 1}):
        result = train(recipe, corpus, folder, resume=True, quiet=True, **stop)
        assert (result.epochs, result.steps) == (recipe.epochs, done)
        assert contents(folder) == before


@pytest.mark.parametrize("stop", [{"epochs": 0}, {"max_steps": 0}])
def test_a_run_of_no_steps_can_be_continued(corpus, tmp_path, stop):
    result = train(tiny(), corpus, tmp_path / "run", quiet=True, **stop)
    assert (result.epochs, result.steps, result.tokens_per_second) == (0, 0, 0)
    assert result.valid_perplexity == result.train_perplexity == math.inf
    assert train(tiny(), corpus, tmp_path / "run", resume=True, max_steps=1, quiet=True).steps == 1


def test_the_schedule_does_not_depend_on_the_stop(whole, corpus, tmp_path):
    recipe, folder = whole
    train(recipe, corpus, tmp_path / "run", max_steps=9, quiet=True)
    rates = {step: record["learning_rate"] for (event, step), record in course_of(folder).items() if event == "step"}
    for (event, step), record in course_of(tmp_path / "run").items():
        assert event == "step"
        assert record["learning_rate"] == rates[step]
    if recipe.schedule == "cosine":
        steps = len(rates)
        for step in range(1, steps + 1):
            progress = max(step - 1 - 4, 0) / (steps - 4)
            factor = min(step / 5, (1 + math.cos(math.pi * progress)) / 2)
            assert math.isclose(rates[step], recipe.learning_rate * factor, rel_tol=1e-9)


def test_a_new_runs_schedule_spans_all_the_epochs_it_is_told_to_do(corpus, tmp_path):
    train(tiny(**COSINE), corpus, tmp_path / "told", epochs=4, quiet=True)
    train(tiny(**{**COSINE, "epochs": 4}), corpus, tmp_path / "recipe", quiet=True)
    assert_same_run(tmp_path / "told", tmp_path / "recipe")


def test_a_resumed_run_is_not_trained_at_rate_zero(whole, corpus):
    recipe, folder = whole
    if recipe.schedule == "cosine":
        before = contents(folder)
        with pytest.raises(ValueError, match=r"epochs=9: .* after 3 epochs"):
            train(recipe, corpus, folder, resume=True, epochs=9, quiet=True)
        assert contents(folder) == before


def watch_steps(monkeypatch, watch):
    """Call ``watch(training, length)`` after every step."""
    step = train_module._step

    def watched(job, training, start, length):
        loss = step(job, training, start, length)
        watch(training, length)
        return loss

    monkeypatch.setattr(train_module, "_step", watched)


@pytest.mark.parametrize("random_bptt", [True, False])
def test_the_learning_rate_follows_the_length_of_a_random_window(corpus, tmp_path, monkeypatch, random_bptt):
    seen = []
    watch_steps(monkeypatch, lambda training, length: seen.append((length, training.optimizer.param_groups[0]["lr"])))
    recipe = tiny(schedule="constant", warmup_steps=0, learning_rate=0.01, random_bptt=random_bptt)
    train(recipe, corpus, tmp_path / "run", epochs=1, quiet=True)
    for length, rate in seen:
        assert math.isclose(rate, 0.01 * length / 9 if random_bptt else 0.01, rel_tol=1e-12)
    assert len({length for length, _ in seen[:-1]}) > 1 if random_bptt else {length for length, _ in seen[:-1]} == {9}


def test_the_mean_of_the_weights_is_saved(corpus, tmp_path, monkeypatch):
    seen = []

    def keep(training, length):
        if training.average is not None:
            seen.append({name: p.detach().double() for name, p in training.model.named_parameters()})

    watch_steps(monkeypatch, keep)
    monkeypatch.setattr(train_module, "should_start_averaging", lambda history, n: len(history) == 1)
    # Validated on the text it trains on, the mean of the second epoch is better than the first.
    same_text = type(corpus)(corpus.name, {**corpus.files, "valid": corpus.files["train"]}, "another fingerprint")
    recipe = tiny(**{**AVERAGED, "epochs": 2, "learning_rate": 1.0, "clip": 5.0})
    result = train(recipe, same_text, tmp_path / "run", quiet=True)
    weights = RunFolder.open(tmp_path / "run").load_weights()
    assert len(seen) == state_of(tmp_path / "run")["average"]["n_averaged"] > 3
    for name, found in weights.items():
        mean = torch.stack([step[name] for step in seen]).mean(dim=0)
        torch.testing.assert_close(found.double(), mean, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found.double(), seen[-1][name], rtol=1e-5, atol=1e-6)
    run = open_run(tmp_path / "run")
    ids = encode_corpus(same_text, run.tokenizer)["valid"].ids
    assert math.isclose(evaluate(run.load_model(), ids, batch_size=2).perplexity, result.valid_perplexity)


def test_the_weights_of_the_best_epoch_are_kept(corpus, tmp_path):
    """A stop inside a later epoch must not replace them, however good it is: the whole run would not have stopped."""
    recipe = tiny(learning_rate=0.02, warmup_steps=0, schedule="constant")
    first = train(recipe, corpus, tmp_path / "run", epochs=1, quiet=True)
    saved = (tmp_path / "run" / "model.safetensors").read_bytes()
    for stop in ({"max_steps": first.steps + 2}, {"epochs": 2}):
        result = train(recipe, corpus, tmp_path / "run", resume=True, quiet=True, **stop)
        assert result.valid_perplexity == first.valid_perplexity
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == saved


def test_activation_penalty():
    raw, dropped = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    features = Features(raw, dropped, [])
    recipe = make_recipe("small", activation_regularization=2.0, temporal_regularization=3.0)
    squares = [v * v for v in dropped.flatten().tolist()]
    changes = [(raw[t + 1, b, e] - raw[t, b, e]).item() ** 2 for t in range(3) for b in range(2) for e in range(3)]
    expected = 2 * sum(squares) / len(squares) + 3 * sum(changes) / len(changes)
    assert math.isclose(float(activation_penalty(features, recipe)), expected, rel_tol=1e-5)
    assert activation_penalty(features, make_recipe("small")) == 0
    one_step = Features(raw[:1], dropped[:1], [])
    assert math.isfinite(float(activation_penalty(one_step, recipe)))


def test_a_loss_that_is_no_number_stops_the_run_and_spoils_nothing(corpus, tmp_path, monkeypatch):
    recipe = tiny(checkpoint_every=4, log_every=100)
    run = tmp_path / "run"
    train(recipe, corpus, run, max_steps=4, quiet=True)
    before = contents(run)

    def spoil(training, length):
        if training.position.step == 6:
            with torch.no_grad():
                training.model.softmax_bias.fill_(math.nan)

    with monkeypatch.context() as patch:
        watch_steps(patch, spoil)
        with pytest.raises(NonFiniteLossError, match=r"^the loss is nan at step 8: lower the learning rate"):
            train(recipe, corpus, run, resume=True, quiet=True)
    after = contents(run)
    assert {path.name for path in before if before[path] != after[path]} == {"metrics.jsonl"}
    open_run(run).load_model()
    train(recipe, corpus, run, resume=True, max_steps=9, quiet=True)
    train(recipe, corpus, tmp_path / "whole", max_steps=9, quiet=True)
    assert same(state_of(run)["model"], state_of(tmp_path / "whole")["model"])


def test_an_absurd_learning_rate_is_one_clear_error(corpus, tmp_path):
    recipe = tiny(optimizer="sgd", learning_rate=1e38, clip=1e30, checkpoint_every=1, warmup_steps=0)
    with pytest.raises(ValueError, match=r"^the loss is (nan|inf) at step \d+: lower the learning rate"):
        train(recipe, corpus, tmp_path / "run", quiet=True)
    state = RunFolder.open(tmp_path / "run").load_state()
    assert state is None or all(bool(tensor.isfinite().all()) for tensor in state["model"].values())


def test_resume_refuses_another_run(whole, corpus, make_corpus, tmp_path):
    recipe, folder = whole
    before = contents(folder)
    other = make_corpus(["a b c d"] * 30, ["a b"], ["a b"])
    for changes, options, message in (
        ({"hidden_size": 12}, {}, r"recipe\.hidden_size \(saved 8, given 12\)"),
        ({"seed": 9, "bptt": 7}, {}, r"recipe\.bptt \(saved 9, given 7\), recipe\.seed \(saved 1, given 9\)"),
        ({}, {"corpus": other}, r"data\.fingerprint \(saved '\w+', given '\w+'\)"),
        ({}, {"precision": "bfloat16"}, r"precision \(saved 'float32', given 'bfloat16'\)"),
    ):
        changed = make_recipe("small", **{k: v for k, v in {**asdict(recipe), **changes}.items() if k != "name"})
        arguments = {"corpus": corpus, **options}
        with pytest.raises(ValueError, match=rf"holds a run of another configuration: {message};"):
            train(changed, out=folder, resume=True, quiet=True, **arguments)
        assert contents(folder) == before
    (tmp_path / "config.json").write_text('{"kind": "segmentation"}')
    with pytest.raises(ValueError, match=r"kind \(saved 'segmentation', given 'language-model'\)"):
        train(recipe, corpus, tmp_path, resume=True, quiet=True)


def test_a_copied_text_is_the_same_text(corpus, make_corpus, tmp_path):
    copy = make_corpus(*(list(corpus.lines(split)) for split in ("train", "valid", "test")))
    assert copy.name != corpus.name
    train(tiny(), corpus, tmp_path / "run", max_steps=1, quiet=True)
    assert train(tiny(), copy, tmp_path / "run", resume=True, max_steps=2, quiet=True).steps == 2


def test_an_existing_folder_is_left_alone(whole, corpus, tmp_path):
    recipe, folder = whole
    before = contents(folder)
    with pytest.raises(ValueError, match="holds a run already: continue it with --resume"):
        train(recipe, corpus, folder, quiet=True)
    assert contents(folder) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="a file is in its place"):
        train(recipe, corpus, tmp_path / "file", quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("train_lines", "changes", "options", "message"),
    [
        (["a"], {}, {}, r"train\.txt: has 1 token\(s\); a split needs at least 2"),
        (["a b c"], {"batch_size": 9}, {}, "4 tokens are too few for batch_size=9"),
        (["a b c"] * 9, {"kernel_size": 2}, {}, "kernel_size=2"),
        (["a b c"] * 9, {"vocab_size": 2}, {}, "vocab_size=2"),
        (["a b c"] * 9, {}, {"precision": "float16"}, "precision='float16': must be one of float32, bfloat16"),
        (["a b c"] * 9, {}, {"max_steps": -1}, "max_steps=-1: must not be negative"),
        (["a b c"] * 9, {}, {"epochs": -1}, "epochs=-1: must not be negative"),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
def test_what_cannot_train_leaves_no_folder(make_corpus, tmp_path, train_lines, changes, options, message, resume):
    corpus = make_corpus(train_lines, ["a b c"], ["a b c"])
    with pytest.raises(ValueError, match=message):
        train(tiny(**changes), corpus, tmp_path / "run", resume=resume, quiet=True, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer": "char"},
        {"tokenizer": "sentencepiece", "vocab_size": 270},
        {"cell": "lstm"},
        {"conv_axis": "time"},
        {"num_layers": 1},
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_kind_of_model_trains_and_resumes(corpus, tmp_path, changes, precision):
    recipe = tiny(**changes)
    first = train(recipe, corpus, tmp_path / "run", max_steps=2, precision=precision, quiet=True)
    second = train(recipe, corpus, tmp_path / "run", resume=True, max_steps=4, precision=precision, quiet=True)
    assert (first.steps, second.steps) == (2, 4)
    state = state_of(tmp_path / "run")
    assert all(tensor.dtype == torch.float32 for tensor in state["model"].values())
    assert all(record["loss"] > 0 for record in course_of(tmp_path / "run").values())
    run = open_run(tmp_path / "run")
    assert second.parameters == sum(p.numel() for p in run.load_model().parameters())


def test_bfloat16_is_close_to_float32_but_not_equal(corpus, tmp_path):
    losses = []
    for precision in ("float32", "bfloat16"):
        train(tiny(), corpus, tmp_path / precision, max_steps=6, precision=precision, quiet=True)
        losses.append(course_of(tmp_path / precision)["step", 6]["loss"])
    assert losses[0] != losses[1]
    assert math.isclose(*losses, rel_tol=2e-2)


def test_the_run_folder_is_complete(corpus, tmp_path, monkeypatch, capsys):
    from eru.training import plot_curve

    monkeypatch.setattr(train_module, "plot_curve", plot_curve)
    result = train(tiny(), corpus, tmp_path / "run", epochs=1)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "model.safetensors", "state.pt", "README.md", "curve.png", "tokenizer"),
    }
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"] == asdict(tiny())
    assert config["data"] == {"name": corpus.name, "fingerprint": corpus.fingerprint}
    assert config["versions"]["torch"] == torch.__version__
    card = (tmp_path / "run" / "README.md").read_text()
    for text in (corpus.fingerprint, f"{result.parameters:,} parameters", f"{result.valid_perplexity:.2f}"):
        assert text in card
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"epoch 1, step {result.steps}, training perplexity {result.train_perplexity:.2f}" in shown.err
    assert "matplotlib" not in shown.err


def test_without_matplotlib_it_says_so_once(corpus, tmp_path, capsys):
    train(tiny(), corpus, tmp_path / "run")
    assert capsys.readouterr().err.count("no curve.png: it needs matplotlib") == 1


def test_golden_curve(tmp_path):
    spec = importlib.util.spec_from_file_location("golden_curve", Path(__file__).with_name("golden_curve.py"))
    assert spec is not None
    assert spec.loader is not None
    golden_curve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden_curve)
    expected = json.loads(golden_curve.FILE.read_text())
    found = golden_curve.losses(tmp_path)
    assert len(found["train"]) == 50
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=golden_curve.TOLERANCE), name
    assert expected["train"][-1] < expected["train"][0] - 0.1


WORKER = """
import json, os, sys, torch
import eru.lm.train as module
from eru.lm.corpus import load_corpus
from eru.lm.recipes import Recipe

models = []
make_optimizer = module.make_optimizer
module.make_optimizer = lambda recipe, model: models.append(model) or make_optimizer(recipe, model)
recipe, corpus = Recipe(**json.loads(sys.argv[3])), load_corpus(sys.argv[1])
result = module.train(recipe, corpus, sys.argv[2] + "/run", resume=True, max_steps=3, quiet=True)
saved = {"model": models[0].state_dict(), "draw": torch.rand(4), "valid": result.valid_perplexity}
torch.save(saved, f"{sys.argv[2]}/{os.environ['RANK']}.pt")
"""


def two_processes(corpus, folder, recipe):
    (folder / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, str(folder / "worker.py"), corpus.name, str(folder), json.dumps(asdict(recipe))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_streams(corpus, tmp_path):
    still = dict.fromkeys(("input_dropout", "layer_dropout", "output_dropout"), 0.0)
    recipe = tiny(random_bptt=False, epochs=9, **still)
    first, second = two_processes(corpus, tmp_path, recipe)
    assert same(first["model"], second["model"])
    assert first["valid"] == second["valid"]
    assert not torch.equal(first["draw"], second["draw"])  # so their dropout differs
    joint = tiny(random_bptt=False, epochs=9, batch_size=4, **still)
    train(joint, corpus, tmp_path / "alone", max_steps=3, quiet=True)
    for name, found in state_of(tmp_path / "alone")["model"].items():
        torch.testing.assert_close(found, first["model"][name], rtol=1e-4, atol=1e-5)
    losses = [course_of(tmp_path / name)["step", 3]["loss"] for name in ("run", "alone")]
    assert math.isclose(*losses, rel_tol=1e-5)
    with pytest.raises(ValueError, match=r"processes \(saved 2, given 1\)"):
        train(recipe, corpus, tmp_path / "run", resume=True, quiet=True)


@pytest.mark.slow
def test_it_learns_a_source_that_bigrams_cannot(make_corpus, tmp_path):
    """Each symbol follows from the two before it, most of the time: an order that unigrams and bigrams cannot see."""
    draw, symbols, kept = random.Random(0), 4, 0.85

    def text(length):
        made = [0, 1]
        while len(made) < length:
            certain = (made[-1] + made[-2] + 1) % symbols
            made.append(certain if draw.random() < kept else draw.randrange(symbols))
        return [" ".join(f"s{symbol}" for symbol in made)]

    likely, others = kept + (1 - kept) / symbols, (1 - kept) / symbols
    source = math.exp(-likely * math.log(likely) - (symbols - 1) * others * math.log(others))
    recipe = make_recipe(
        "small",
        embedding_size=16,
        hidden_size=24,
        num_layers=2,
        input_dropout=0.0,
        layer_dropout=0.0,
        output_dropout=0.0,
        epochs=4,
        batch_size=8,
        bptt=16,
        learning_rate=0.02,
        warmup_steps=10,
    )
    corpus = make_corpus(text(8000), text(1500), text(1500))
    result = train(recipe, corpus, tmp_path / "run", quiet=True)
    assert 0.9 * symbols < result.bigram_perplexity < 1.1 * result.unigram_perplexity
    assert source * 0.9 < result.valid_perplexity < source * 1.12
    assert result.valid_perplexity < result.bigram_perplexity / 1.8
