"""Times of contenders that take turns, so that a drift of the machine meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch


class Paired(NamedTuple):
    """Medians over the rounds: a contender's time, and its ratio to the peer's of the same round."""

    milliseconds: float
    ratio: float


def milliseconds(task: Callable[[], object], repeats: int = 1, *, warm: int = 0) -> float:
    """The wall time of one call, after some that warm up, to the end of what it started on a GPU."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    for _ in range(warm):
        task()
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        task()
    wait()
    return 1000 * (time.perf_counter() - start) / repeats


def paired(
    contenders: Mapping[str, Callable[[], float]], peer: str, rounds: int, *, warm: int = 1
) -> dict[str, Paired]:
    """Run every contender, which returns its milliseconds, once a round; ``warm`` rounds before do not count.

    Example:
        >>> times = iter([9.0, 9.0, 2.0, 1.0, 4.0, 1.0])
        >>> turn = lambda: next(times)
        >>> paired({"loop": turn, "kernel": turn}, "loop", rounds=2)["kernel"]
        Paired(milliseconds=1.0, ratio=0.375)
    """
    turns = [{name: run() for name, run in contenders.items()} for _ in range(warm + rounds)]
    return medians(turns[warm:], peer)


def medians(turns: Sequence[Mapping[str, float]], peer: str) -> dict[str, Paired]:
    """The medians of rounds, each of which has the milliseconds of every contender."""
    median = statistics.median
    return {
        name: Paired(median(turn[name] for turn in turns), median(turn[name] / turn[peer] for turn in turns))
        for name in turns[0]
    }


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; where not, torch's own LSTM refuses that type."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
