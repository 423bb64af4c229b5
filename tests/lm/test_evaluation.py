import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eru.lm.evaluation import Evaluation, evaluate, evaluate_tokens
from eru.lm.loop import train
from eru.lm.model import LanguageModel
from eru.lm.recipes import make_recipe
from eru.lm.run import open_run

V = 7


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = LanguageModel(V, 6, 9, num_layers=2, input_dropout=0.5, output_dropout=0.5).double()
    with torch.no_grad():
        model.softmax_bias.normal_()
    return model


def token_by_token(model, ids):
    """Probability of every token but the first, fed one at a time."""
    model.eval()
    state, probabilities = None, []
    with torch.no_grad():
        for token, following in pairwise(ids):
            logits, state = model(torch.tensor([[int(token)]]), state)
            exponentials = [math.exp(score) for score in logits[0, 0].tolist()]
            probabilities.append(exponentials[following] / sum(exponentials))
    model.train()
    return probabilities


@given(
    ids=st.lists(st.integers(0, V - 1), min_size=2, max_size=25),
    batch_size=st.integers(1, 30),
    window=st.integers(1, 30),
)
@settings(max_examples=20)
def test_against_brute_force(model, ids, batch_size, window):
    done = []
    found = evaluate_tokens(model, np.array(ids, np.uint16), batch_size=batch_size, window=window, count=done.append)
    assert found.tokens == len(ids) - 1 == sum(done)
    # Streams of equal length, each without its context; only the last may be shorter.
    length = math.ceil((len(ids) - 1) / batch_size)
    parts = [ids[start : start + length + 1] for start in range(0, len(ids) - 1, length)]
    probabilities = [p for part in parts for p in token_by_token(model, part)]
    assert len(probabilities) == len(ids) - 1
    assert math.isclose(found.perplexity, math.prod(probabilities) ** (-1 / len(probabilities)), rel_tol=1e-9)


def test_one_stream_is_exact_for_any_window(model):
    ids = np.random.default_rng(0).integers(0, V, 40)
    exact = math.prod(token_by_token(model, ids)) ** (-1 / 39)
    for window in (1, 2, 13, 38, 39, 40, 1000):
        assert math.isclose(evaluate_tokens(model, ids, window=window).perplexity, exact, rel_tol=1e-9)
    assert not math.isclose(evaluate_tokens(model, ids, batch_size=8).perplexity, exact, rel_tol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(model, training):
    model.train(training)
    ids = np.arange(20) % V
    assert evaluate_tokens(model, ids) == evaluate_tokens(model, ids)
    assert model.training == training
    with pytest.raises(IndexError):
        evaluate_tokens(model, ids + V)
    assert model.training == training


def test_half_precision_models_are_summed_in_float32(model):
    ids = np.arange(200) % V
    exact = evaluate_tokens(model, ids).loss
    half = LanguageModel(V, 6, 9, num_layers=2)
    half.load_state_dict(model.state_dict())
    assert math.isclose(evaluate_tokens(half.bfloat16(), ids).loss, exact, rel_tol=1e-2)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([], {}, "ids of 0 tokens: at least 2"),
        ([1], {}, "ids of 1 tokens: at least 2"),
        ([1, 2], {"batch_size": 0}, "batch_size=0: must be at least 1"),
        ([1, 2], {"window": 0}, "window=0: must be at least 1"),
        ([1, 2], {"window": -3}, "window=-3: must be at least 1"),
    ],
)
def test_bad_arguments_are_named(model, ids, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_tokens(model, np.array(ids, np.int64), **options)


def test_measures():
    found = Evaluation(tokens=6, loss=math.log(8))
    assert math.isclose(found.perplexity, 8)


@pytest.fixture(scope="module")
def trained(make_corpus, tmp_path_factory):
    corpus = make_corpus(["a rose is a rose", "is it ?"] * 9, ["a rose"], ["is it a bee ?", "", "it is"])
    recipe = make_recipe("small", embedding_size=8, hidden_size=8, num_layers=1, batch_size=2, bptt=9)
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(recipe, corpus, folder, max_steps=2, quiet=True)
    return open_run(folder), corpus


def test_a_run_is_measured_with_the_weights_that_it_saved(trained):
    run, corpus = trained
    report = evaluate(run, data=corpus)
    tokenizer = run.tokenizer
    ids = [i for line in ("is it a bee ?", "", "it is") for i in [*tokenizer.encode(line), tokenizer.eos]]
    exact = evaluate_tokens(run.load_model(), np.array(ids))
    bits = exact.loss * 9 / math.log(2)
    assert (report.run, report.data, report.split) == (str(run.folder.path), corpus.name, "test")
    assert report.tokens == exact.tokens == 9
    assert math.isclose(report.perplexity, exact.perplexity)
    assert math.isclose(report.word_perplexity, exact.perplexity)  # words are this tokenizer's tokens
    assert math.isclose(report.bits_per_byte, bits / len(b"is it a bee ?\n\nit is\n"))
    assert report.unknown_rate == report.lacking_rate == 1 / 10
    assert (report.tokenizer, report.text_changed) == ("word", False)


def test_perplexity_per_word_does_not_depend_on_the_tokens(make_corpus, tmp_path):
    text = ["a rose is a rose"] * 9
    corpus = make_corpus(text, text[:1], text[:2])
    recipe = make_recipe("small", tokenizer="char", embedding_size=8, hidden_size=8, num_layers=1, batch_size=2)
    train(recipe, corpus, tmp_path / "run", max_steps=1, quiet=True)
    report = evaluate(tmp_path / "run", data=corpus)
    characters = 2 * len("a rose is a rose\n") - 1
    words = 2 * len(["a", "rose", "is", "a", "rose", "end of line"]) - 1
    assert report.tokens == characters
    assert math.isclose(report.word_perplexity, report.perplexity ** (characters / words))


def test_errors_of_a_run(trained, make_corpus, tmp_path):
    run, corpus = trained
    with pytest.raises(ValueError, match="split='dev'"):
        evaluate(run, "dev", data=corpus)
    train(run.recipe, corpus, tmp_path / "untrained", stop=lambda: True, quiet=True)
    with pytest.raises(ValueError, match=r"no weights yet: .*model\.safetensors"):
        evaluate(tmp_path / "untrained")


def test_a_run_and_its_text_are_found_in_every_way(trained):
    run, corpus = trained
    path = run.folder.path
    expected = evaluate(run, "test", data=corpus)
    for same in (run, path, str(path)):
        for data in (None, corpus.name, Path(corpus.name)):
            assert evaluate(same, data=data) == expected
    with pytest.raises(ValueError, match="no run in nowhere"):
        evaluate("nowhere")
    with pytest.raises(ValueError, match="unknown corpus 'nowhere'"):
        evaluate(run, data="nowhere")
    with pytest.raises(ValueError, match="data_dir='nowhere': only for the corpus 'ptb'"):
        evaluate(run, data_dir="nowhere")


def copy_with_text(run, folder, **texts):
    """A copy of a run whose own corpus is the one in a folder, where these splits are other texts."""
    copy = Path(shutil.copytree(run.folder.path, folder / "run"))
    config = json.loads((copy / "config.json").read_text())
    del config["sha256"]
    corpus = Path(shutil.copytree(config["data"]["name"], folder / "corpus"))
    for split, text in texts.items():
        (corpus / f"{split}.txt").unlink() if text is None else (corpus / f"{split}.txt").write_text(text)
    config["data"]["name"] = str(corpus)
    (copy / "config.json").write_text(json.dumps(config))
    return copy, corpus


@pytest.mark.parametrize("texts", [{"train": "it is\n" * 9}, {"valid": "it is\n"}, {"test": "is it ?\n"}])
def test_a_text_that_has_changed_since_is_noted(trained, tmp_path, texts):
    copy, corpus = copy_with_text(trained[0], tmp_path, **texts)
    report = evaluate(copy, "valid")
    assert report.text_changed
    assert report.notes == [f"{corpus} is not the text that this run was trained on: its files have changed since"]
    asked_for = evaluate(copy, "valid", data=corpus)
    assert not asked_for.text_changed
    assert asked_for.notes == []


def test_a_corpus_without_test_text_has_no_test_figure(trained, tmp_path):
    copy, corpus = copy_with_text(trained[0], tmp_path, test=None)
    assert evaluate(copy, "valid").perplexity > 1
    with pytest.raises(ValueError, match=rf"split='test': the folder {corpus} has no test\.txt"):
        evaluate(copy)


# Words that the vocabulary lacks, words that the text itself marks, and all words besides the end of the line.
@pytest.mark.parametrize(
    ("line", "lacking", "marked", "noted"),
    [
        ("a rose is a rose", 0, 0, False),
        ("a <unk> is <unk> rose", 0, 2, False),
        ("a bee is a rose", 1, 0, True),
        ("a bee <unk> a rose" + " a" * 14, 1, 1, True),
        ("a bee <unk> a rose" + " a" * 15, 1, 1, False),
    ],
)
def test_many_lacking_words_are_noted_and_those_marked_in_the_text_are_not(
    trained, tmp_path, line, lacking, marked, noted
):
    copy, corpus = copy_with_text(trained[0], tmp_path, test=f"{line}\n" * 3)
    report = evaluate(copy, data=corpus)
    tokens = len(line.split()) + 1
    assert math.isclose(report.lacking_rate, lacking / tokens)
    assert math.isclose(report.unknown_rate, (lacking + marked) / tokens)
    assert len(report.notes) == noted
    assert all("sentencepiece" in note for note in report.notes)
    assert f"{report.unknown_rate:.2%} unknown" in str(report)


@pytest.mark.parametrize("marked", [False, True])
def test_a_text_that_marks_its_ends_is_the_same_task(trained, tmp_path, marked):
    lines = ["is it a bee ?", "", "it is"]
    text = "".join(f"{line} <eos>\n" if marked else f"{line}\n" for line in lines)
    copy, corpus = copy_with_text(trained[0], tmp_path, test=text)
    report, expected = evaluate(copy, data=corpus), evaluate(trained[0])
    for name in ("tokens", "perplexity", "word_perplexity", "bits_per_byte", "unknown_rate"):
        assert getattr(report, name) == getattr(expected, name)
