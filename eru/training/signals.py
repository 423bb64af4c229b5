"""Signals that ask a training to stop: it finishes its step and saves a checkpoint before it does."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A training has stopped because of a signal, with its checkpoint saved.

    It is a KeyboardInterrupt, so that a program that trains several models ends too.

    Attributes:
        signum: The signal.
        step: The steps that the checkpoint has behind it.
    """

    def __init__(self, signum: signal.Signals, step: int) -> None:
        super().__init__(f"stopped by {signum.name} after step {step}, with the checkpoint saved")
        self.signum, self.step = signum, step


class StopSignals:
    """Notes the first SIGINT, SIGTERM or SIGHUP instead of ending the process, for the time of a ``with`` block.

    The second signal does what it would have done without this object, so that it ends the process at once. A signal
    that the process ignores, as SIGHUP under ``nohup``, stays ignored. Python handles signals in the main thread
    alone; in any other thread this object does nothing.

    Attributes:
        received: The first signal, or None.

    Example:
        >>> with StopSignals() as signals:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     signals.received.name
        'SIGTERM'
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                signum = getattr(signal, name, None)  # Windows has no SIGHUP.
                if signum is not None and signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_back()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(signum)
        self._give_back()

    def _give_back(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()
