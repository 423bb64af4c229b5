"""The Python entry: what a program writes that uses language models."""

import inspect

import pytest
from tiny_runs import tiny

from eru import lm
from eru.lm.text.corpus import SPLITS

pytestmark = pytest.mark.usefixtures("no_pictures")
TINY = {"embedding_size": 8, "hidden_size": 8, "num_layers": 2, "batch_size": 2, "bptt": 9}


@pytest.fixture(scope="module")
def folder(corpus):
    return corpus.files["train"].parent


def test_every_name_is_documented_and_there():
    assert lm.__all__ == sorted(lm.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))
    for name in lm.__all__:
        assert name == "RECIPES" or inspect.getdoc(getattr(lm, name))


def test_a_model_from_its_training_to_its_words(corpus, folder, tmp_path, monkeypatch):
    """By names and folders alone, as README has it."""
    monkeypatch.setitem(lm.RECIPES, "tiny", lambda: lm.make_recipe("small", **TINY))
    result = lm.train("tiny", folder, tmp_path / "run", epochs=1, quiet=True)
    assert (result.run, result.epochs, result.finished) == (str(tmp_path / "run"), 1, True)
    run = lm.open_run(tmp_path / "run")
    assert run.recipe == lm.make_recipe("small", **TINY, epochs=1)
    # A recipe by its name alone takes over the shape of what it starts from.
    lm.train("awd-7m", folder, tmp_path / "newer", start=tmp_path / "run", epochs=1, max_steps=1, quiet=True)
    shape = {name: value for name, value in TINY.items() if name not in ("batch_size", "bptt")}
    assert lm.open_run(tmp_path / "newer").recipe == lm.make_recipe("awd-7m", **shape, epochs=1)
    for split in SPLITS:
        report = lm.evaluate(run, split)
        assert report == lm.evaluate(tmp_path / "run", split, data=corpus)
        assert 1 < report.perplexity < 100
    text = lm.generate(run, "a b", tokens=5, seed=1)
    assert text == lm.generate(str(tmp_path / "run"), "a b", tokens=5, seed=1)
    assert text.startswith("a b")


def test_a_recipe_and_a_corpus_are_the_same_as_their_names(corpus, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(lm.RECIPES, "tiny", tiny)
    for name, recipe, text in (("names", "tiny", str(folder)), ("things", tiny(), corpus)):
        lm.train(recipe, text, tmp_path / name, max_steps=3, quiet=True)
    contents = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("names", "things")]
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("recipe", "corpus", "message"),
    [
        ("large", "stdlib", "recipe='large': must be one of small, "),
        ("small", "wikitext", "unknown corpus 'wikitext'"),
    ],
)
def test_unknown_names_are_told_with_the_known_ones(tmp_path, recipe, corpus, message):
    with pytest.raises(ValueError, match=message):
        lm.train(recipe, corpus, tmp_path / "run", quiet=True)
    assert list(tmp_path.iterdir()) == []
