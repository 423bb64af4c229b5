"""The user's cache folder, folders in it that are there whole or not at all, and what is downloaded into it."""

import http.client
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_TIMEOUT = 30.0  # seconds


def cache_dir() -> Path:
    """Where what is made or fetched once is kept: ``$ERU_CACHE_DIR``, ``$XDG_CACHE_HOME/eru`` or ``~/.cache/eru``.

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


def download(url: str, *, limit: int) -> bytes:
    """Fetch a small file.

    Args:
        url: Where it is.
        limit: Bytes at most, so that no server fills the memory.

    Raises:
        OSError: The server cannot be reached, refuses, or breaks off.
        ValueError: The file is larger than ``limit``.
    """
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            data = answer.read(limit + 1)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    if len(data) > limit:
        raise ValueError(f"{url}: larger than {limit:,} bytes")
    return data
