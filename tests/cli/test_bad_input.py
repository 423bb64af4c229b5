"""Bad input gives one clear line and exit code 2, and leaves what is there as it was."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from eru.lm.model import LanguageModel
from eru.training import RunFolder

SPLITS = ("train", "valid", "test")


def refused(answer, *named):
    """The one line of an error, which must name what it is about."""
    assert (answer.code, answer.out) == (2, ""), answer
    lines = answer.err.splitlines()
    assert [line.startswith("Error: ") for line in lines] == [False] * (len(lines) - 1) + [True], lines
    assert "Traceback" not in answer.err
    for name in named:
        assert str(name) in lines[-1], lines[-1]
    return lines[-1]


def contents(run):
    return {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture
def spoil(corpus, tmp_path):
    """``spoil(split, content)`` is the corpus with one file changed, or without it."""

    def make(split: str, content: bytes | None) -> Path:
        folder = Path(shutil.copytree(corpus, tmp_path / "spoilt"))
        file = folder / f"{split}.txt"
        file.unlink() if content is None else file.write_bytes(content)
        return folder

    return make


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b" \n\n \n", "empty"),
        (b"word\n", "at least 2"),
        (b"caf\xe9 au lait\n" * 9, "not UTF-8"),
        (b"\xff\xfe" + "the cat sat\n".encode("utf-16-le"), "is it UTF-16?"),
        ("the cat sat\n".encode("utf-16-le"), "holds a NUL at byte 1, so it is no UTF-8 text (is it UTF-16?)"),
        (b"the cat sat\n" * 99999 + b"\0", "holds a NUL at byte 1199988"),
    ],
    ids=["empty", "blank", "one token", "latin-1", "UTF-16", "UTF-16 without a mark", "NUL"],
)
def test_a_corpus_with_a_bad_file(train, spoil, tmp_path, split, content, said):
    refused(train("--epochs=1", data=spoil(split, content)), f"{split}.txt", said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_corpus_without_a_file(train, spoil, tmp_path, split):
    folder = spoil(split, None)
    refused(train("--epochs=1", data=folder), folder, f"has no {split}.txt")
    (folder / f"wiki.{split}.tokens").write_text("text")
    refused(train("--epochs=1", data=folder), f"has no {split}.txt: rename or copy wiki.{split}.tokens to {split}.txt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Path.mkdir, "a folder"),
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.symlink_to("nowhere"), "a link that leads nowhere"),
        (lambda path: path.symlink_to(path.name), "a link that leads nowhere"),
        (lambda path: path.symlink_to("."), "a folder"),
    ],
    ids=["folder", "pipe", "device", "dangling link", "link to itself", "link to a folder"],
)
def test_a_corpus_with_something_in_place_of_a_file(train, spoil, tmp_path, split, make, kind):
    folder = spoil(split, None)
    make(folder / f"{split}.txt")
    refused(train("--epochs=1", data=folder), folder / f"{split}.txt", f"must be a file, not {kind}")
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_test_text_can_be_trained_on(call, train, spoil, tmp_path):
    folder, run = spoil("test", None), tmp_path / "run"
    assert train("--max-steps=1", "--json", data=folder).json["steps"] == 1
    refused(call("lm-eval", run), "split='test'", folder, "has no test.txt")
    assert call("lm-eval", run, "--split=valid", "--json").json["split"] == "valid"


@pytest.mark.parametrize("name", ["no/such/folder", "wikitext"])
def test_an_unknown_corpus(call, trained, tmp_path, name):
    out = tmp_path / "run"
    refused(call("lm-train", "--data", name, "--recipe=small", "--out", out), repr(name), "stdlib", "ptb")
    refused(call("lm-eval", trained[0], "--data", name), repr(name), "stdlib", "ptb")
    assert not out.exists()


def test_a_missing_penn_treebank_file(call, tmp_path):
    (tmp_path / "ptb.train.txt").write_text("some text\n")
    error = refused(call("lm-train", "--data=ptb", "--data-dir", tmp_path, "--recipe=small"), tmp_path)
    assert error.endswith("has no ptb.valid.txt, ptb.test.txt")


def test_an_altered_penn_treebank_file(call, tmp_path):
    for split in SPLITS:
        (tmp_path / f"ptb.{split}.txt").write_text("some text\n")
    answer = call("lm-train", "--data=ptb", "--data-dir", tmp_path, "--recipe=small")
    refused(answer, "ptb.train.txt", tmp_path, "altered", "f26c4b92c5fdc7b3f8c7cdcb991d8420")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data-dir=x"], ["data_dir='x'", "ptb"]),
        (["--recipe=large"], ["--recipe", "large", "small", "awd-15m"]),
        (["--device=gpu"], ["--device 'gpu'", "cuda:N"]),
        (["--device=meta"], ["--device 'meta'"]),
        (["--device=cpu:1"], ["--device 'cpu:1'"]),
        (["--device=cuda:99"], ["--device 'cuda:99'", "GPUs"]),
        (["--precision=int8"], ["--precision", "int8", "bfloat16"]),
        (["--set=tokenizer=bpe"], ["tokenizer='bpe'", "sentencepiece"]),
        (["--epochs=2", "--set=epochs=3"], ["--epochs 2", "--set epochs=3", "differ"]),
        (["--set=hidden_size=10000000"], ["hidden_size=10000000", "GB of memory"]),
        (["--set=num_layers=100000", "--set=hidden_size=1000"], ["num_layers=100000", "GB of memory"]),
        (["--epochs=-1"], ["epochs=-1"]),
        (["--epochs=0"], ["epochs=0", "at least 1"]),
        (["--max-steps=0"], ["max_steps=0", "at least 1"]),
        (["--epochs=few"], ["--epochs", "few"]),
        (["--max-steps=-3"], ["max_steps=-3"]),
        (["--minutes=0"], ["minutes=0.0", "above 0"]),
        (["--minutes=nan"], ["minutes=nan", "above 0"]),
        (["--minutes=soon"], ["--minutes", "soon"]),
        (["--from=nowhere"], ["no run in nowhere", "ptb-awd-7m"]),
        (["--set=patience=-1"], ["patience=-1"]),
        (["--set=partial_shuffle=1"], ["partial_shuffle=1", "true or false"]),
        (["--set=seed=-1"], ["seed", "-1"]),
        (["--set=seed=4294967296"], ["seed", "4294967296"]),
        (["--set=vocab_size=2"], ["vocab_size=2"]),
        (["--set=vocab_size=-5"], ["vocab_size=-5"]),
        (["--set=tokenizer=sentencepiece", "--set=vocab_size=100"], ["vocab_size=100", "259"]),
        (["--set=dropout=0.1"], ["dropout=0.1", "layer_dropout"]),
        (["--set=name=mine"], ["name=mine"]),
        (["--set=hidden_size"], ["hidden_size", "field=value"]),
        (["--set=hidden_size=many"], ["hidden_size=many", "whole number"]),
        (["--set=hidden_size=2.5"], ["hidden_size=2.5", "whole number"]),
        (["--set=locked=perhaps"], ["locked=perhaps", "true or false"]),
        (["--set=cell=gru"], ["cell='gru'", "eru, lstm"]),
        (["--set=hidden_size=0"], ["hidden_size=0"]),
        (["--set=batch_size=-2"], ["batch_size=-2"]),
        (["--set=batch_size=2000"], ["batch_size=2000"]),
        (["--set=bptt=0"], ["bptt=0"]),
        (["--set=kernel_size=2"], ["kernel_size=2"]),
        (["--set=input_dropout=1.5"], ["input_dropout=1.5"]),
        (["--set=floor=2"], ["floor=2"]),
        (["--set=learning_rate=nan"], ["learning_rate=nan"]),
        (["--set=clip=inf"], ["clip=inf"]),
        (["--set=weight_decay=nan"], ["weight_decay=nan"]),
        (["--nonsense"], ["--nonsense"]),
        (["surplus"], ["surplus"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else None,
)
def test_a_bad_option_leaves_no_folder(train, tmp_path, arguments, named):
    refused(train("--max-steps=1", *arguments), *named)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_place_of_the_run_folder(call, corpus, tmp_path, below):
    file = tmp_path / "note.txt"
    file.write_text("mine")
    refused(call("lm-train", "--data", corpus, "--recipe=small", "--out", file / below), file)
    assert file.read_text() == "mine"


ABSURD = ("--set=optimizer=sgd", "--set=learning_rate=1e30", "--set=clip=1e30", "--set=warmup_steps=0")


@pytest.mark.parametrize("limit", ["--epochs=1", "--max-steps=3"])
def test_a_loss_that_is_not_finite(train, tmp_path, limit):
    refused(train(*ABSURD, limit), "loss is", "at step", "learning rate")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_run_whose_loss_breaks_keeps_its_checkpoint(train, run, monkeypatch):
    before = contents(run)
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "loss", lambda self, features, targets: features.raw.sum() * torch.nan)
        refused(train("--resume", "--epochs=3"), "loss is nan")
    after = contents(run)
    for name in ("state.pt", "model.safetensors"):
        assert after[Path(name)] == before[Path(name)]
    assert train("--resume", "--epochs=3", "--json").json["epochs"] == 3


def test_a_run_is_not_overwritten(train, run):
    before = contents(run)
    refused(train("--epochs=2"), run, "--resume")
    assert contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--recipe=paper-7m"], ["recipe.name", "small", "paper-7m"]),
        (["--set=hidden_size=12"], ["recipe.hidden_size", "saved 8", "given 12"]),
        (["--set=seed=7"], ["recipe.seed", "given 7"]),
        (["--set=tokenizer=char"], ["recipe.tokenizer", "char"]),
        (["--precision=bfloat16"], ["precision", "bfloat16"]),
    ],
)
def test_resume_refuses_another_recipe(train, run, arguments, named):
    before = contents(run)
    refused(train("--resume", "--epochs=3", *arguments), run, *named)
    assert contents(run) == before


def test_resume_refuses_other_epochs_of_a_falling_rate(train, tmp_path):
    run = tmp_path / "run"
    train("--set=schedule=linear", "--epochs=2", "--max-steps=1")
    before = contents(run)
    for epochs in ("--epochs=1", "--epochs=3", "--set=epochs=3"):
        refused(train("--resume", "--set=schedule=linear", epochs), f"epochs={epochs[-1]}", "falls over 2 epochs")
    assert contents(run) == before


def test_resume_refuses_another_text_and_goes_on_with_its_own(train, run, spoil):
    before = contents(run)
    refused(train("--resume", "--epochs=3", data=spoil("train", b"the cat sat on the mat\n" * 40)), "data.fingerprint")
    assert contents(run) == before
    assert train("--resume", "--epochs=3", "--json").json["epochs"] == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set=hidden_size=12"], ["recipe.hidden_size", "saved 8", "given 12"]),
        (["--set=kernel_size=5"], ["recipe.kernel_size", "saved 3", "given 5"]),
        (["--set=tokenizer=char"], ["recipe.tokenizer", "char"]),
    ],
)
def test_a_start_of_another_shape(train, run, tmp_path, arguments, named):
    older = run.rename(tmp_path / "older")
    refused(train("--from", older, *arguments), older, *named)
    assert not (tmp_path / "run").exists()


def test_a_start_on_another_text(train, run, spoil, tmp_path):
    older = run.rename(tmp_path / "older")
    refused(train("--from", older, data=spoil("train", b"the cat sat on the mat\n" * 40)), older, "data.fingerprint")


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_broken_training_state(train, run, content):
    for name in ("state.pt", "state.previous.pt"):
        (run / name).write_bytes(content)
    refused(train("--resume", "--epochs=3"), run / "state.pt", "broken")


READERS = ["lm-eval", "lm-generate"]


@pytest.mark.parametrize("command", [*READERS, "summary"])
def test_what_is_no_run(call, corpus, tmp_path, command):
    file = tmp_path / "note.txt"
    file.write_text("mine")
    for wrong in (tmp_path / "nowhere", corpus, file):
        refused(call(command, wrong), wrong)


@pytest.mark.parametrize("command", [*READERS, "summary"])
def test_a_mistyped_model_is_answered_with_those_there_are(call, command):
    refused(call(command, "ptb-awd-7"), "ptb-awd-7", "ptb-awd-7m")


@pytest.mark.parametrize("command", [*READERS, "summary"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"kind": "picture"}'])
def test_a_broken_config(call, run, command, content):
    (run / "config.json").write_bytes(content)
    refused(call(command, run), run)


@pytest.mark.parametrize("command", [*READERS, "summary"])
@pytest.mark.parametrize(("field", "value"), [("hidden_size", "many"), ("hidden_size", -1), ("colour", "red")])
def test_a_config_with_a_bad_recipe(call, run, command, field, value):
    config = json.loads((run / "config.json").read_text())
    del config["sha256"]
    config["recipe"][field] = value
    (run / "config.json").write_text(json.dumps(config))
    refused(call(command, run), field)


@pytest.mark.parametrize("data", [None, "text", {}, {"name": "stdlib"}])
def test_a_config_without_its_corpus(call, run, corpus, data):
    config = json.loads((run / "config.json").read_text()) | {"data": data}
    del config["sha256"]
    (run / "config.json").write_text(json.dumps(config))
    refused(call("lm-eval", run), run / "config.json", "corpus")


@pytest.mark.parametrize("command", READERS)
def test_a_run_without_weights(call, run, command):
    (run / "model.safetensors").unlink()
    refused(call(command, run), run / "model.safetensors", "no weights yet")


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("size", [0, 5, 100, -10])
def test_broken_weights(call, run, command, size):
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    refused(call(command, run), weights, "broken")


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(call, run, command, value):
    folder = RunFolder.open(run)
    weights = folder.load_weights()
    weights["embedding.weight"][3, 1] = value
    folder.save_weights(weights)
    refused(call(command, run), run / "model.safetensors", "embedding.weight", "not finite")


@pytest.mark.parametrize("command", READERS)
def test_weights_that_make_outputs_infinite(call, run, command):
    folder = RunFolder.open(run)
    folder.save_weights({name: torch.full_like(weight, 3e38) for name, weight in folder.load_weights().items()})
    refused(call(command, run), "not finite")


def test_weights_of_another_model(call, train, run, tmp_path):
    run.rename(tmp_path / "small")
    train("--max-steps=1", "--set=hidden_size=12")
    shutil.copy(tmp_path / "run" / "model.safetensors", tmp_path / "small")
    refused(call("lm-generate", tmp_path / "small"), "model.safetensors", "does not fit")


def test_a_broken_tokenizer(call, run):
    (run / "tokenizer" / "tokenizer.json").write_text("{}")
    refused(call("lm-generate", run), run / "tokenizer" / "tokenizer.json")


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("lm-eval", ["--split=dev"], ["--split", "dev", "valid"]),
        ("lm-eval", ["--data-dir=x"], ["data_dir='x'"]),
        ("lm-eval", ["--device=tpu"], ["--device 'tpu'"]),
        ("lm-eval", ["--temperature=warm"], ["'temperature=warm'", "number"]),
        ("lm-eval", ["--temperature=0"], ["temperature=0.0", "above 0"]),
        ("lm-eval", ["--set=decay=0.1"], ["decay", "dynamic"]),
        ("lm-eval", ["--dynamic", "--set=decay"], ["'decay'", "number"]),
        ("lm-eval", ["--dynamic", "--set=speed=1"], ["'speed=1'", "learning_rate"]),
        ("lm-eval", ["--dynamic", "--set=learning_rate=-1"], ["learning_rate=-1.0", "not negative"]),
        ("lm-eval", ["--cache", "--set=cache_window=0.5"], ["'cache_window=0.5'", "whole"]),
        ("lm-eval", ["--cache", "--choose-tokens=0"], ["choose_tokens=0", "at least 1"]),
        ("lm-eval", ["--choose-tokens=9"], ["choose_tokens=9", "nothing to choose"]),
        ("lm-generate", ["--device=tpu"], ["--device 'tpu'"]),
        ("lm-generate", ["--prompt=a \udcff"], ["prompt='a \\udcff'", "UTF-8"]),
        ("lm-generate", ["--tokens=-1"], ["tokens=-1"]),
        ("lm-generate", ["--tokens=some"], ["--tokens", "some"]),
        ("lm-generate", ["--seed=-1"], ["seed=-1", "2**64 - 1"]),
        ("lm-generate", ["--seed=18446744073709551616"], ["seed=18446744073709551616", "2**64 - 1"]),
        ("lm-generate", ["--temperature=-1"], ["temperature=-1"]),
        ("lm-generate", ["--temperature=nan"], ["temperature=nan"]),
        ("lm-generate", ["--top-k=0"], ["top_k=0"]),
        ("lm-generate", ["--top-p=0"], ["top_p=0"]),
        ("lm-generate", ["--top-p=1.5"], ["top_p=1.5"]),
        ("lm-generate", ["--top-p=nan"], ["top_p=nan"]),
    ],
)
def test_a_bad_question_to_a_run(call, trained, command, arguments, named):
    refused(call(command, trained[0], *arguments), *named)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["lm-tune"], "lm-tune"),
        (["lm-eval"], "RUN"),
        (["summary"], "NAME"),
        (["summary", "espnetv2_100", "--input", "224"], "--input '224'"),
        (["summary", "espnetv2_100", "--input", "20x224"], "at least 32"),
        (["summary", "small", "--vocab-size=0"], "vocab_size=0"),
        (["summary", "giant"], "paper-15m"),
        (["summary", "espnetv2_100_seg"], "espnetv2_100_seg_voc"),
    ],
)
def test_a_command_that_does_not_fit(call, arguments, named):
    refused(call(*arguments), named)


@pytest.mark.parametrize("tokenizer", ["word", "sentencepiece"])
def test_no_flipped_bit_of_a_run_changes_an_answer_unseen(call, train, tmp_path, tokenizer):
    run = tmp_path / "run"
    size = 280 if tokenizer == "sentencepiece" else 17
    train("--epochs=1", f"--set=tokenizer={tokenizer}", f"--set=vocab_size={size}")
    expected = call("lm-eval", run, "--json").json
    files = [run / "config.json", run / "model.safetensors", *sorted((run / "tokenizer").iterdir())]
    assert len(files) == (4 if tokenizer == "sentencepiece" else 3)
    draw, seen = random.Random(0), 0
    for file in files:
        content = file.read_bytes()
        for place in draw.sample(range(8 * len(content)), 12):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            file.write_bytes(flipped)
            answer = call("lm-eval", run, "--json")
            if answer.code:
                refused(answer, file)
                seen += 1
            else:  # The bit was of white space between two names, of the digest's own name, or means nothing.
                assert {**answer.json, "weights": expected["weights"]} == expected
        file.write_bytes(content)
    assert seen > 9 * len(files)
