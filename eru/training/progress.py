"""What a person sees of long work: on a terminal a bar with the time left, in a log file one line an epoch."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm


@contextmanager
def counted(total: int, what: str, *, unit: str, quiet: bool = False) -> Iterator[Callable[[int], object]]:
    """Show on a terminal how far the work of a ``with`` block is, and the time left, once it takes over a second.

    Args:
        total: How much there is to do.
        what: What is being done.
        unit: What is counted, in the plural.
        quiet: Show nothing.

    Yields:
        What is called with how much more is done.

    Example:
        >>> with counted(10, "counting", unit="things") as count:
        ...     for _ in range(5):
        ...         _ = count(2)
    """
    with tqdm(
        total=total,
        desc=what,
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        disable=quiet or not sys.stderr.isatty(),
        dynamic_ncols=True,
        delay=1.0,
        leave=False,
    ) as bar:
        yield bar.update


class Progress:
    """The progress of a whole run on stderr, as a context manager.

    On a terminal one line shows the step, the time left of the whole run, and what `show` was last given, or how far a
    validation is. Anywhere else there is no bar, only the lines of `end_epoch` and `say`. Leaving the context takes
    the bar away, on an exception too.

    The time left follows from the mean time of the steps after the first one, which warms up and tells nothing about
    the others.

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
        ...         progress.show(epoch=(step + 1) / 2, figures="training loss 5.1", rate=9000.0)
        ...     progress.end_epoch("epoch 1: training loss 5.1")
        epoch 1: training loss 5.1
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
        self._total, self._done = total_steps, first_step
        self._warm: tuple[float, int] | None = None  # when the first step ended, and how many were done then
        self._figures = ""
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            file=self._stream,
            disable=quiet or not self._stream.isatty(),
            dynamic_ncols=True,
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
        )

    def expect(self, total_steps: int) -> None:
        """Change the number of steps of the whole run, where it is not known beforehand."""
        self._total = self._bar.total = total_steps
        self._bar.refresh()

    def advance(self) -> None:
        """Count one step."""
        self._done += 1
        if self._warm is None:
            self._warm = time.monotonic(), self._done
        self._write_beside(self._figures)
        self._bar.update()

    def show(self, *, epoch: float, figures: str, rate: float) -> None:
        """Change the figures beside the bar.

        Args:
            epoch: The epochs done, with a fraction.
            figures: What the recent training came to, in words.
            rate: The units per second.
        """
        self._figures = f"epoch {epoch:.2f}, {figures}, {rate:,.0f} {self._unit}/s"
        self._write_beside(self._figures)

    def validating(self, total: int) -> Callable[[int], None]:
        """Show a validation beside the bar.

        Args:
            total: How much there is to validate on.

        Returns:
            What is called with how much more of it is done.
        """
        done, shown = 0, ""

        def count(number: int) -> None:
            nonlocal done, shown
            done += number
            if (text := f"validating {done / total:.0%}") != shown:
                shown = text
                self._write_beside(text)
                self._bar.refresh()

        return count

    def end_epoch(self, line: str) -> None:
        """Print a line about the epoch that stays, with the time left of the whole run at its end."""
        self.say(", ".join(filter(None, (line, self._time_left()))))

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._write_beside(self._figures)
            self._bar.write(line, file=self._stream)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def _write_beside(self, text: str) -> None:
        self._bar.set_postfix_str(", ".join(filter(None, (self._time_left(), text))), refresh=False)

    def _time_left(self) -> str:
        """The time left in words; nothing where it is not known yet, or over."""
        if self._warm is None or self._done >= self._total:
            return ""
        start, first = self._warm
        if self._done == first:
            return ""
        mean = (time.monotonic() - start) / (self._done - first)
        return f"{_duration(mean * (self._total - self._done))} left"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
