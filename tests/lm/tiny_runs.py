"""Runs of a few steps: their recipes, and what two of them must have in common."""

from collections import Counter

import torch

from eru.lm import loop
from eru.lm.recipes import make_recipe
from eru.training import RunFolder


def tiny(**changes):
    sizes = {"embedding_size": 8, "hidden_size": 8, "num_layers": 2, "batch_size": 2, "bptt": 9}
    return make_recipe("small", **{**sizes, "epochs": 2, "warmup_steps": 4, "log_every": 1, **changes})


# A step looks at half of the eight words of the tests' text: of fewer than that, all would be taken.
COSINE = {"layer_dropout": 0.3, "sampled_softmax": 4, "epochs": 3, "checkpoint_every": 5}
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
    "partial_shuffle": True,
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


def epoch_ends(folder):
    return [record["step"] for record in RunFolder.open(folder).metrics() if record["event"] == "epoch"]


def stop_after(asked):
    """A predicate that says so from the ``asked``-th question on, in place of a clock."""
    questions = iter(range(asked))
    return lambda: next(questions, None) is None


class Killed(BaseException):
    """As sudden as a signal: no code of the library catches it."""


def watch_steps(monkeypatch, watch):
    """Call ``watch(state, length)`` after every step."""
    step = loop.train_step

    def watched(state, *others):
        taken = step(state, *others)
        watch(state, taken.counted)
        return taken

    monkeypatch.setattr(loop, "train_step", watched)
