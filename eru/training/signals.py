"""Signals that ask a training to stop: it finishes its step and saves a checkpoint before it does."""

import signal
import threading
from contextlib import ExitStack
from types import FrameType
from typing import Self


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


class StopSignals(ExitStack):
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
        super().__init__()
        self.received: signal.Signals | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                signum = getattr(signal, name, None)  # Windows has no SIGHUP.
                if signum is not None and signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    self.callback(signal.signal, signum, signal.signal(signum, self._note))
        return self

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(signum)
        self.close()  # which gives back the handlers that were there before
