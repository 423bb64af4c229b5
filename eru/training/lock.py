"""One process at a time in a run folder: a lock that the system lets go of when its process dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eru.storage import remove_drafts

if os.name == "posix":
    import fcntl

_held: set[int] = set()  # the descriptors of the folders that this process holds


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other training out of a folder, and remove what killed ones left half written in it.

    The lock is on the folder itself, so it leaves no file. Windows and some network file systems have no such locks:
    there nothing is kept out, and nothing removed.

    Args:
        folder: The folder, which must exist.

    Raises:
        ValueError: Another training holds the folder.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with held(folder):
        ...     with held(folder):  # doctest: +ELLIPSIS
        ...         pass
        Traceback (most recent call last):
        ValueError: ...: another training is at work in this folder; wait for its end, or stop it
    """
    if os.name != "posix":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{folder}: another training is at work in this folder; wait for its end, or stop it"
            raise ValueError(message) from None
        except OSError:  # Some network file systems have no locks on folders; a training there goes without.
            pass
        else:
            remove_drafts(folder)
        yield
    finally:
        if descriptor in _held:  # In a forked process it is closed already.
            _held.discard(descriptor)
            os.close(descriptor)


def _let_go() -> None:
    """Close the locks in a forked process, such as one that reads pictures: it must not outlive its parent's hold."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if os.name == "posix":
    os.register_at_fork(after_in_child=_let_go)
