"""Adaptation at test time from the command line; what it computes is tested with the library."""

import shutil
from pathlib import Path

import pytest

from eru.lm.adapt.search import default_grid
from eru.lm.evaluation import evaluate

DYNAMIC = ("--dynamic", "--set=learning_rate=1e-4,2e-4", "--set=decay=0.01")
CACHE = ("--cache", "--set=cache_window=20", "--set=cache_theta=0.2,0.5", "--set=cache_weight=0.1")


def test_a_model_as_it_is(call, trained):
    report = call("lm-eval", trained[0], "--json").json
    assert (report["chosen_on"], report["valid_perplexity"]) == (0, None)
    assert report["adaptation"]["temperature"] == 1
    assert {value for name, value in report["adaptation"].items() if name != "temperature"} == {0}


@pytest.mark.parametrize("split", ["valid", "test"])
def test_everything_at_once(call, trained, corpus, split):
    answer = call("lm-eval", trained[0], "--split", split, *DYNAMIC, *CACHE, "--temperature=auto", "--json")
    grid = default_grid(
        "dynamic",
        "cache",
        "temperature",
        learning_rate=[1e-4, 2e-4],
        decay=[0.01],
        cache_window=[20],
        cache_theta=[0.2, 0.5],
        cache_weight=[0.1],
    )
    expected = evaluate(trained[0], split, data=corpus, grid=grid)
    assert answer.json == vars(expected)
    assert len(corpus.joinpath("valid.txt").read_text().split()) < answer.json["chosen_on"]


def test_people_are_told_what_was_chosen(call, trained):
    lines = call("lm-eval", trained[0], *CACHE, "--choose-tokens=30").out.splitlines()
    assert " test: perplexity " in lines[0]
    assert lines[1].startswith("adapted with ")
    assert "cache_window=20" in lines[1]
    assert lines[2].startswith("chosen on the first 30 validation tokens, perplexity ")
    assert len(lines) == 3


@pytest.mark.parametrize(
    "named", [("--temperature=0.9",), ("--dynamic", "--set=learning_rate=1e-4", "--set=decay=0"), ()]
)
def test_what_is_named_is_not_chosen(call, trained, named):
    answer = call("lm-eval", trained[0], *named)
    assert answer.code == 0
    assert "chosen" not in answer.out
    assert ("adapted" in answer.out) == bool(named)


def test_unknown_words_are_always_told_and_many_of_them_with_a_cure(call, trained, corpus, tmp_path):
    answer = call("lm-eval", trained[0])
    assert answer.out.rstrip().endswith(", 0.00% unknown")
    assert answer.err == ""
    other = Path(shutil.copytree(corpus, tmp_path / "other"))
    (other / "test.txt").write_text("the 你好 世界\n")
    answer = call("lm-eval", trained[0], "--data", other)
    assert answer.out.rstrip().endswith(", 50.00% unknown")
    assert answer.err.startswith("note: the vocabulary lacks 50% of the tokens")
    assert answer.err.count("\n") == 1
    assert "sentencepiece" in answer.err
