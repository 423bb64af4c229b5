"""Times of contenders that take turns, so that a drift of the machine meets all of them."""

import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch


class Paired(NamedTuple):
    """Medians over the rounds: a contender's time, and its ratio to the peer's of the same round."""

    milliseconds: float
    ratio: float


def paired(contenders: Mapping[str, Callable[[], float]], peer: str, rounds: int) -> dict[str, Paired]:
    """Run every contender once a round, and once before the rounds that count.

    Args:
        contenders: Each runs once and returns its milliseconds.
        peer: The one that the others are compared with.
        rounds: The number of rounds that count.

    Example:
        >>> times = iter([9.0, 9.0, 2.0, 1.0, 4.0, 1.0])
        >>> turn = lambda: next(times)
        >>> paired({"loop": turn, "kernel": turn}, "loop", rounds=2)["kernel"]
        Paired(milliseconds=1.0, ratio=0.375)
    """
    turns = [{name: run() for name, run in contenders.items()} for _ in range(rounds + 1)][1:]
    return {
        name: Paired(
            statistics.median(turn[name] for turn in turns),
            statistics.median(turn[name] / turn[peer] for turn in turns),
        )
        for name in contenders
    }


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; where not, torch's own LSTM refuses that type."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
