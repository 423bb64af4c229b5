"""What a person sees while a run trains: a bar on a terminal, one line an epoch in a log file."""

import sys
import time
from typing import TextIO

from tqdm import tqdm


class Progress:
    """The progress of a whole run on stderr, as a context manager.

    On a terminal a bar shows the step, the time left of the whole run, and what `show` was last given. Anywhere else
    there is no bar, only the lines of `end_epoch`. Leaving the context closes the bar, on an exception too.

    Args:
        total_steps: The number of steps of the whole run, as far as it is known; `expect` changes it.
        first_step: The number of steps that were done before, by the run that is resumed.
        unit: What a rate counts, in the plural.
        quiet: Write nothing at all, as every process but the main one should.
        stream: Where to write; stderr by default.

    Example:
        >>> with Progress(total_steps=2, stream=sys.stdout) as progress:
        ...     for step in range(2):
        ...         progress.advance()
        ...         progress.show(epoch=(step + 1) / 2, loss=5.1, rate=9000.0)
        ...     progress.end_epoch("epoch 1: training loss 5.1")
        epoch 1: training loss 5.1, 0 s left
    """

    def __init__(
        self,
        total_steps: int = 0,
        *,
        first_step: int = 0,
        unit: str = "samples",
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._unit, self._quiet = unit, quiet
        self._stream = sys.stderr if stream is None else stream
        self._total, self._first, self._done = total_steps, first_step, first_step
        self._start = time.monotonic()
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            file=self._stream,
            disable=quiet or not self._stream.isatty(),
            dynamic_ncols=True,
            smoothing=0.0,  # The mean rate since the start, since evaluations, too, are part of the time left.
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )

    def expect(self, total_steps: int) -> None:
        """Change the number of steps of the whole run, where it is not known beforehand."""
        self._total = self._bar.total = total_steps

    def advance(self) -> None:
        """Count one step."""
        self._done += 1
        self._bar.update()

    def show(self, *, epoch: float, loss: float, rate: float) -> None:
        """Change the figures beside the bar.

        Args:
            epoch: The epochs done, with a fraction.
            loss: The recent training loss.
            rate: The units per second.
        """
        text = f"epoch {epoch:.2f}, loss {loss:.3f}, {rate:,.0f} {self._unit}/s"
        self._bar.set_postfix_str(text, refresh=False)

    def end_epoch(self, line: str) -> None:
        """Print a line about the epoch that stays, with the time left of the whole run at its end."""
        if self._quiet:
            return
        done = self._done - self._first
        if done:
            elapsed = time.monotonic() - self._start
            line = f"{line}, {_duration(elapsed / done * (self._total - self._done))} left"
        self._bar.write(line, file=self._stream)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
