"""Ctrl-C: one line says what is kept, and the exit code is the one that shells expect."""

import sys
from unittest.mock import Mock

import pytest

STOPPED = "Stopped: nothing is kept of what was done, and the same command starts it anew."


@pytest.fixture
def strike(monkeypatch):
    """``strike(name)`` lets Ctrl-C come while the command is in what is called by that name."""

    def make(name: str) -> None:
        module, _, function = name.rpartition(".")
        monkeypatch.setattr(sys.modules[module], function, Mock(side_effect=KeyboardInterrupt))

    return make


@pytest.mark.parametrize(
    ("command", "within"),
    [
        (["lm-eval", "ptb-awd-7m"], "eru_cli.lm.evaluate"),
        (["lm-generate"], "eru_cli.lm.generate"),
        (["vision-eval", "espnetv2_050"], "eru_cli.vision.evaluate"),
        (["vision-shapes", "--layout=voc", "--out=shapes"], "eru_cli.vision.write_shapes"),
        (["summary", "espnetv2_050"], "eru_cli.summary.create_model"),
        (["predict", "a.png", "--model=espnetv2_050"], "eru_cli.predict.load_predictor"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_says_that_nothing_is_kept(call, strike, command, within):
    strike(within)
    answer = call(*command)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.splitlines()[-1] == STOPPED


def test_a_training_that_has_not_begun(train, strike, tmp_path):
    strike("eru_cli.lm.load_corpus")
    answer = train()
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.splitlines()[-1] == "stopped at once, no training had begun"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("options", "named"), [([], ""), (["--data-dir=my data"], " --data-dir 'my data'")])
def test_a_training_that_is_struck_twice_says_how_to_go_on(call, run, corpus, monkeypatch, strike, options, named):
    monkeypatch.setattr("eru_cli.lm.load_corpus", Mock())
    strike("eru_cli.lm.train")
    answer = call("lm-train", "--data", corpus, "--out", run, *options)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.splitlines()[-1] == (
        "stopped at once, what followed the last checkpoint is lost: "
        f"go on with eru lm-train --resume --out {run}{named}"
    )
