"""The plan of one call of the training: what it reads, how fast it learns, and where it ends."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from eru.lm.batches import Streams, segments
from eru.lm.recipes import Recipe
from eru.lm.state import Position
from eru.training import Ranks, RunFolder, Schedule, has_stalled, make_schedule

Precision = Literal["float32", "bfloat16"]


def time_limit(minutes: float, clock: Callable[[], float] = time.monotonic) -> Callable[[], bool]:
    """Start a clock, and return the question whether the minutes have passed.

    Args:
        minutes: above 0.
        clock: the time in seconds.

    Raises:
        ValueError: ``minutes`` is not above 0.

    Example:
        >>> seconds = iter([100.0, 129.0, 130.0])
        >>> is_over = time_limit(0.5, clock=lambda: next(seconds))
        >>> is_over(), is_over()
        (False, True)
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes={minutes}: must be finite and above 0")
    end = clock() + 60 * minutes
    return lambda: clock() >= end


@dataclass(frozen=True)
class Job:
    """Everything that stays the same during a call of :func:`eru.lm.train.train`.

    Attributes:
        recipe: the numbers of the training.
        folder: where it is written.
        streams: this process's part of the training text.
        valid: ids of the validation text.
        ranks: the processes that train together.
        precision: of the forward pass.
        last_epoch: epochs after which the call ends.
        last_step: steps after which the call ends.
        stop: whether to end the call now; once true it stays true.
    """

    recipe: Recipe
    folder: RunFolder
    streams: Streams
    valid: np.ndarray
    ranks: Ranks
    precision: Precision
    last_epoch: int
    last_step: int
    stop: Callable[[], bool] | None = None

    def windows(self, epoch: int) -> list[tuple[int, int]]:
        """Start and length of every window of an epoch."""
        recipe = self.recipe
        length = self.streams.length
        return segments(length, recipe.bptt, seed=recipe.seed, epoch=epoch, randomised=recipe.random_bptt)

    def window(self, epoch: int, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a window of an epoch, each (length, batch_size)."""
        streams, recipe = self.streams, self.recipe
        if recipe.partial_shuffle:
            streams = streams.shuffled(seed=recipe.seed, epoch=epoch)
        inputs, targets = streams.window(start, length)
        return inputs.to(self.ranks.device), targets.to(self.ranks.device)

    @cached_property
    def _steps_until(self) -> list[int]:
        """Steps of the whole run before each epoch."""
        epochs = range(max(self.last_epoch, self.recipe.epochs))
        return list(accumulate((len(self.windows(epoch)) for epoch in epochs), initial=0))

    @property
    def total_steps(self) -> int:
        """Steps at which this call's limits end the run."""
        return min(self._steps_until[self.last_epoch], self.last_step)

    def is_finished(self, position: Position) -> bool:
        """Whether the run has done its epochs, or validation has stalled for as long as the recipe has patience."""
        patience = self.recipe.patience
        return position.epoch >= self.last_epoch or (patience > 0 and has_stalled(position.history, patience))

    def is_over(self, position: Position) -> bool:
        """Whether the run is finished or has reached this call's last step."""
        return self.is_finished(position) or position.step >= self.last_step

    def is_stopped(self) -> bool:
        """Whether the call is to end here, in all processes as soon as one of them says so."""
        return self.stop is not None and self.ranks.mean(float(self.stop())) > 0

    @cached_property
    def schedule(self) -> Schedule:
        """Learning-rate factor of a step; it spans the recipe's epochs wherever the run is told to stop."""
        recipe = self.recipe
        steps = max(self._steps_until[recipe.epochs], 1)
        warmup = min(recipe.warmup_steps, steps - 1)
        return make_schedule(recipe.schedule, warmup=warmup, total=steps, floor=recipe.floor)

    def learning_rate(self, step: int, length: int) -> float:
        """Of a step; with random window lengths it follows the length, as in AWD-LSTM."""
        share = length / self.recipe.bptt if self.recipe.random_bptt else 1.0
        return self.recipe.learning_rate * self.schedule(step) * share

    def autocast(self) -> AbstractContextManager:
        """The precision of the forward pass."""
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=enabled)
