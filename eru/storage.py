"""What is written to the disk: files and folders that are whole or not there, and the user's cache folder."""

import http.client
import json
import os
import secrets
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, overload

__all__ = [
    "atomic_write",
    "cache_dir",
    "download",
    "make_cache_folder",
    "new_folder",
    "read_json",
    "write_json",
]

_TIMEOUT = 30.0  # seconds


@overload
def atomic_write(path: str | Path, mode: Literal["w"] = "w") -> AbstractContextManager[TextIO]: ...
@overload
def atomic_write(path: str | Path, mode: Literal["wb"]) -> AbstractContextManager[BinaryIO]: ...
@contextmanager
def atomic_write(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[Any]:
    """Open a file for writing that replaces `path` only once it is complete and on the disk.

    A reader, or a run that is killed at any moment, sees the old file or the new one, never a part. If the
    body raises, `path` stays as it was and nothing is left beside it.

    Args:
        path: The file to write. Its folder must exist.
        mode: `"w"` for text (UTF-8) or `"wb"` for bytes.

    Yields:
        The open temporary file, in the same folder as `path`.

    Raises:
        ValueError: If `mode` is neither `"w"` nor `"wb"`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_write(path) as file:
        ...     _ = file.write("whole")
        >>> path.read_text()
        'whole'
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', got {mode!r}")
    target = Path(path)
    temporary = _draft_of(target)
    try:
        with temporary.open(mode, encoding="utf-8" if mode == "w" else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _draft_of(path: Path) -> Path:
    """A new name beside a path, hidden, for what is not complete yet.

    Not tempfile's: its files are private to the user, and a run folder is often read by a group.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sync_folder(folder: Path) -> None:
    """Put the renaming itself on the disk, where the system can open a folder (Windows cannot)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically.

    Args:
        path: The file to write.
        obj: Dicts with string keys, lists, strings, finite numbers, booleans and None. Tuples become lists.

    Raises:
        ValueError: If `obj` holds NaN or an infinity, which JSON cannot express.
        TypeError: If `obj` holds anything else that JSON cannot express.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "config.json"
        >>> write_json(path, {"hidden_size": 448})
        >>> read_json(path)
        {'hidden_size': 448}
    """
    text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file to read.

    Returns:
        What the file holds.

    Raises:
        ValueError: If the file cannot be read or is not JSON; the message names it.

    Example:
        >>> read_json("nowhere/config.json")
        Traceback (most recent call last):
        ValueError: cannot read nowhere/config.json: No such file or directory
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


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
    draft = _draft_of(folder)
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
