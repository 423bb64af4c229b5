"""The user's cache folder, and folders in it that are there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def cache_dir() -> Path:
    """Where corpora and token files are kept: ``$ERU_CACHE_DIR``, ``$XDG_CACHE_HOME/eru`` or ``~/.cache/eru``.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, ERU_CACHE_DIR="/scratch/eru"):
        ...     cache_dir().as_posix()
        '/scratch/eru'
    """
    if own := os.environ.get("ERU_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eru"


def make_cache_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing.

    Raises:
        ValueError: The folder cannot be made, or not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make {folder}: {error.strerror}; $ERU_CACHE_DIR moves the cache") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is not writable; $ERU_CACHE_DIR moves the cache")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is complete.

    Several processes may fill the same folder at once: the first to finish wins, the others' work is dropped.

    Args:
        folder: The final name; its parents are made.

    Yields:
        An empty folder beside it, to be filled with files; an exception in the ``with`` block leaves nothing.

    Raises:
        ValueError: The folder's parent cannot be made, or not be written.
    """
    make_cache_folder(folder.parent)
    draft = folder.with_name(f".{folder.name}.{uuid4().hex}")
    draft.mkdir()
    try:
        yield draft
        for file in draft.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
