"""Copies of runs that are made to be given away, and the one that the package gives."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import contents, tiny

from eru.lm.evaluation import evaluate_tokens, perplexity_of
from eru.lm.generation import generate
from eru.lm.loop import train
from eru.lm.run import TRAINED, open_run, trained_names
from eru.lm.text.corpus import load_corpus
from eru.lm.text.tokens import encode_corpus

pytestmark = pytest.mark.usefixtures("no_pictures")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "ptb"


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny(hidden_size=64, embedding_size=32), corpus, folder, max_steps=2, quiet=True)
    return open_run(folder)


def test_a_published_run_is_the_run_in_bfloat16(run, tmp_path):
    run.publish(tmp_path / "copy")
    copy = open_run(tmp_path / "copy")
    assert copy.recipe == run.recipe
    assert copy.tokenizer.encode("a b f") == run.tokenizer.encode("a b f")
    assert copy.folder.card_path.read_text() == run.folder.card_path.read_text()
    weights = copy.load_model().state_dict()
    for name, weight in run.load_model().state_dict().items():
        assert weights[name].dtype == weight.dtype == torch.float32
        assert torch.equal(weights[name], weight.bfloat16().float())
    sizes = [one.folder.weights_path.stat().st_size for one in (copy, run)]
    assert sizes[0] < 0.55 * sizes[1]


def test_a_new_run_starts_from_a_published_one(run, corpus, tmp_path):
    run.publish(tmp_path / "copy")
    train(run.recipe, corpus, tmp_path / "new", start=tmp_path / "copy", stop=lambda: True, quiet=True)
    weights, new = (open_run(tmp_path / name).load_model().state_dict() for name in ("copy", "new"))
    assert all(torch.equal(weights[name], weight) for name, weight in new.items())


def test_publishing_overwrites_no_run_and_needs_weights(run, tmp_path):
    run.publish(tmp_path / "copy")
    before = contents(tmp_path / "copy")
    with pytest.raises(ValueError, match="copy' is there already"):
        run.publish(tmp_path / "copy")
    assert contents(tmp_path / "copy") == before
    shutil.copytree(run.folder.path, tmp_path / "without")
    (tmp_path / "without" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights yet"):
        open_run(tmp_path / "without").publish(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", trained_names())
def test_a_trained_model_of_the_package_opens_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = open_run(name)
    assert run.folder.path == TRAINED / name
    assert sum(file.stat().st_size for file in run.folder.path.rglob("*") if file.is_file()) < 16 * 2**20
    text = generate(run, "the company said", 5, seed=1)
    assert text.startswith("the company said")
    assert len(text.split()) == 8
    assert "Penn Treebank" in run.folder.card_path.read_text(encoding="utf-8")


def test_a_folder_goes_before_a_name(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.folder.path, tmp_path / trained_names()[0])
    assert open_run(trained_names()[0]).recipe == run.recipe


def test_only_names_are_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no run in"):
        open_run(f"../trained/{trained_names()[0]}")


@pytest.mark.slow
@pytest.mark.parametrize("name", trained_names())
def test_a_trained_model_is_as_good_as_its_result_says(name, penn_treebank):
    run, claimed = open_run(name), json.loads((RESULTS / f"{name}.json").read_text())["exact_valid_perplexity"]
    text = encode_corpus(load_corpus("ptb", penn_treebank), run.tokenizer, quiet=True)["valid"].ids
    # In eight streams, to save time: their beginnings, where nothing is known, cost a little more than one stream's.
    found = perplexity_of(evaluate_tokens(run.load_model(), text, batch_size=8).loss)
    assert claimed - 0.02 < found < claimed + 0.1
