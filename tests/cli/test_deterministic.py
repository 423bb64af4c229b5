"""``--deterministic`` of both trainings, on the machine at hand."""

import pytest
import torch

from eru.lm import loop as language
from vision.training import loop as seeing


@pytest.fixture(params=[language, seeing], ids=["lm-train", "vision-train"])
def training(request, call, train, tmp_path):
    """The module of a training's loop, and what starts that training into a folder."""
    if request.param is language:
        return language, lambda folder, *options: train("--out", folder, "--max-steps=2", *options)
    assert call("vision-shapes", "--layout=imagenet", "--out", tmp_path / "shapes", "--train=8", "--val=6").code == 0
    command = ("vision-train", "--task=classify", "--layout=imagenet", "--data", tmp_path / "shapes")
    sizes = ("--model=espnetv2_050", "--recipe=shapes", "--set=sizes=32x32", "--set=batch_size=4", "--device=cpu")
    return seeing, lambda folder, *options: call(*command, *sizes, "--out", folder, "--max-steps=2", *options)


@pytest.fixture
def asked(training, monkeypatch):
    """What torch was told at each step of the training."""
    loop, _ = training
    told, take_step = [], loop.train_step
    see = lambda *given: told.append(torch.are_deterministic_algorithms_enabled()) or take_step(*given)  # noqa: E731
    monkeypatch.setattr(loop, "train_step", see)
    return told


def test_it_holds_for_the_training_alone_and_changes_nothing_on_a_cpu(training, asked, call, tmp_path):
    _, start = training
    for name, options in (("plain", ()), ("fixed", ("--deterministic",))):
        answer = start(tmp_path / name, *options)
        assert answer.code == 0
        assert ("--deterministic" in answer.out) == bool(options)  # in how to go on
    assert asked == [False, False, True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert call("lm-train", "--deterministic", "--precision=half").code == 2  # told before anything is set
    assert not torch.are_deterministic_algorithms_enabled()
    plain, fixed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "fixed"))
    assert plain == fixed


def test_an_operator_without_such_an_algorithm_is_told_in_one_line(training, tmp_path, monkeypatch):
    loop, start = training

    def step(*_):
        torch.zeros(2).put_(torch.zeros(1, dtype=torch.long), torch.ones(1))  # one that torch refuses on every device

    monkeypatch.setattr(loop, "train_step", step)
    answer = start(tmp_path / "run", "--deterministic")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines()[-1] == "Error: --deterministic: torch's put_ has no such algorithm on this device"
    assert not torch.are_deterministic_algorithms_enabled()
