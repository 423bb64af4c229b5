import hashlib
import math
import os
import shutil
from pathlib import Path

import pytest
from tiny_runs import (
    AVERAGED,
    Killed,
    assert_same_run,
    contents,
    same,
    state_of,
    stop_after,
    tiny,
)

from eru.lm.evaluation import evaluate_tokens
from eru.lm.loop import train
from eru.lm.recipes import make_recipe, shape_of
from eru.lm.run import open_run, with_shape_of
from eru.lm.text.tokens import encode_corpus

pytestmark = pytest.mark.usefixtures("no_pictures")


FINETUNING = {**AVERAGED, "nonmonotone_interval": 0, "patience": 5, "epochs": 2, "seed": 7}


@pytest.fixture(scope="module")
def corpus(make_corpus):
    """A text that a model gets better at for longer than the tests take."""
    lines = ["a b c d e f", "f e d c b a"] * 14
    return make_corpus(lines, lines[:3], lines[:3])


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("older") / "pretrained"
    train(tiny(learning_rate=0.01), corpus, folder, max_steps=2, quiet=True)
    return folder


@pytest.fixture(scope="module")
def finetuned(corpus, pretrained, tmp_path_factory):
    """A run that started from ``pretrained`` and was never stopped."""
    folder = tmp_path_factory.mktemp("newer") / "finetuned"
    train(tiny(**FINETUNING), corpus, folder, start=pretrained, quiet=True)
    before, *after = state_of(folder)["position"]["history"]
    assert min(after) < before
    return folder


def test_a_run_starts_from_the_best_weights_of_another(corpus, pretrained, tmp_path):
    result = train(tiny(**FINETUNING), corpus, tmp_path / "run", start=pretrained, stop=lambda: True, quiet=True)
    run, other = open_run(tmp_path / "run"), open_run(pretrained)
    weights = (pretrained / "model.safetensors").read_bytes()
    assert run.folder.config["start"] == {"run": "pretrained", "weights": hashlib.sha256(weights).hexdigest()}
    assert run.folder.weights_path.read_bytes() == weights
    for file in (pretrained / "tokenizer").iterdir():
        assert (tmp_path / "run" / "tokenizer" / file.name).read_bytes() == file.read_bytes()
    state = state_of(tmp_path / "run")
    assert same(state["model"], other.folder.load_weights())
    assert state["optimizer"]["state"] == {}
    ids = encode_corpus(corpus, other.tokenizer)["valid"].ids
    loss = evaluate_tokens(other.load_model(), ids, batch_size=2).loss
    assert state["position"]["history"] == [loss]
    assert math.isclose(result.valid_perplexity, math.exp(loss))
    assert "from the weights of the run `pretrained`" in (tmp_path / "run" / "README.md").read_text()


def test_it_keeps_them_until_it_has_better_ones(corpus, pretrained, tmp_path):
    worse = tiny(**{**FINETUNING, "averaging": False, "learning_rate": 30.0, "clip": 9.0, "epochs": 1})
    result = train(worse, corpus, tmp_path / "run", start=pretrained, quiet=True)
    before, after = state_of(tmp_path / "run")["position"]["history"]
    assert before < after
    assert math.isclose(result.valid_perplexity, math.exp(before))
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()


@pytest.mark.parametrize("asked", [1, 3, 12])
def test_a_run_from_another_resumes_without_it(corpus, pretrained, finetuned, tmp_path, asked):
    older, run = Path(shutil.copytree(pretrained, tmp_path / "pretrained")), tmp_path / "run"
    train(tiny(**FINETUNING), corpus, run, start=older, stop=stop_after(asked), quiet=True)
    shutil.rmtree(older)
    train(tiny(**FINETUNING), corpus, run, resume=True, quiet=True)
    assert_same_run(run, finetuned)


def test_killed_at_any_moment_of_its_beginning_it_resumes(corpus, pretrained, tmp_path, monkeypatch):
    """It needs the older run only until it holds all of it."""
    recipe, whole, fsync, needed = tiny(**FINETUNING), tmp_path / "whole", os.fsync, []
    train(recipe, corpus, whole, start=pretrained, max_steps=2, quiet=True)
    for number in range(1, 9):
        calls, run = iter(range(1, number)), tmp_path / str(number)

        def sync(descriptor, calls=calls):
            if next(calls, None) is None:
                raise Killed
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", sync)
            with pytest.raises(Killed):
                train(recipe, corpus, run, start=pretrained, max_steps=2, quiet=True)
        complete = (run / "state.pt").exists()
        needed.append(not complete)
        if (run / "config.json").exists() and not complete:
            with pytest.raises(ValueError, match=r"killed before it held the weights to start from"):
                train(recipe, corpus, run, resume=True, quiet=True)
        start = None if complete else pretrained
        train(recipe, corpus, run, resume=True, start=start, max_steps=2, quiet=True)
        assert_same_run(run, whole)
    assert needed == sorted(needed, reverse=True)
    assert set(needed) == {True, False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 12}, r"recipe\.hidden_size \(saved 8, given 12\)"),
        ({"kernel_size": 5}, r"recipe\.kernel_size \(saved 3, given 5\)"),
        ({"kernel_size": 5, "num_layers": 1}, r"recipe\.num_layers \(.*\), recipe\.kernel_size \(.*given 5\)"),
        ({"vocab_size": 7}, r"recipe\.vocab_size \(saved None, given 7\)"),
        ({"cell": "lstm"}, r"recipe\.cell \(saved 'eru', given 'lstm'\)"),
    ],
)
def test_a_start_of_another_shape_leaves_no_folder(corpus, pretrained, tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"pretrained holds a run of another configuration: {message};"):
        train(tiny(**changes), corpus, tmp_path / "run", start=pretrained, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_start_on_another_text_or_without_weights_leaves_no_folder(corpus, make_corpus, pretrained, tmp_path):
    other = make_corpus(["a b c d"] * 30, ["a b"], ["a b"])
    with pytest.raises(ValueError, match=r"data\.fingerprint \(saved '\w+', given '\w+'\)"):
        train(tiny(), other, tmp_path / "run", start=pretrained, quiet=True)
    for content, message in ((b"", "broken"), (None, "no weights yet")):
        copy = Path(shutil.copytree(pretrained, tmp_path / "copy"))
        (copy / "model.safetensors").unlink()
        if content is not None:
            (copy / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            train(tiny(), corpus, tmp_path / "run", start=copy, quiet=True)
        shutil.rmtree(copy)
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_its_start(corpus, pretrained, finetuned):
    for folder, start, message in (
        (
            finetuned,
            finetuned,
            r"start\.run \(saved 'pretrained', given 'finetuned'\), start\.weights \(saved '\w+', given",
        ),
        (pretrained, finetuned, r"start\.run \(saved '<absent>', given 'finetuned'\)"),
    ):
        before = contents(folder)
        with pytest.raises(ValueError, match=message):
            train(open_run(folder).recipe, corpus, folder, resume=True, start=start, quiet=True)
        assert contents(folder) == before


def test_a_start_whose_softmax_takes_two_steps_leaves_nothing_to_sample(corpus, tmp_path):
    older = tiny(softmax_head=5, sampled_softmax=0)
    train(older, corpus, tmp_path / "run", max_steps=1, quiet=True)
    newer = with_shape_of(make_recipe("small"), tmp_path / "run")
    assert shape_of(newer) == shape_of(older)
    assert newer.sampled_softmax == 0
