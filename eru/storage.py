"""Files and folders on the disk that are complete or not there, and the user's cache folder."""

import http.client
import json
import os
import re
import secrets
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

_TIMEOUT = 30.0  # Seconds.
_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # the names of drafts


@contextmanager
def draft_of(path: str | Path) -> Iterator[Path]:
    """Make a file or a folder under another name; it takes ``path`` only once it is complete and on the disk.

    A reader, or a run that is killed at any moment, finds what was there before or what is there now, never a part.
    A file takes the place of an older one. Several processes may make the same folder at once: the first to finish
    wins, and what the others made is dropped.

    Args:
        path: The final name. Its folder must exist.

    Yields:
        A free name in the same folder. If the body raises, what it made there is removed and ``path`` stays as it was.

    Raises:
        OSError: The disk is full, or cannot be written; the error names the file.
    """
    path = Path(path)
    # The name is not one of tempfile's, whose files only their owner can read: a run folder is often read by a group.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with errors_name(path):
            yield draft
            for written in (*draft.rglob("*"), draft):
                _flush(written)
        try:
            draft.replace(path)
        except OSError:
            if not (draft.is_dir() and path.is_dir()):
                raise
    finally:
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
    _flush(path.parent)


@contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Let every OSError of the ``with`` block name a file; a write to a full disk names none by itself."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def remove_drafts(folder: Path) -> None:
    """Remove what killed processes left half made below a folder, in which nothing else may be writing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / ".state.pt.0a1b2c3d.tmp").touch()
        >>> remove_drafts(folder)
        >>> list(folder.iterdir())
        []
    """
    for draft in folder.rglob(".*.tmp"):
        if not _DRAFT.fullmatch(draft.name):
            continue
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Put the content of a file, or the names in a folder, on the disk."""
    windows = os.name == "nt"  # It can neither open a folder nor flush a file that is open for reading only.
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: str | Path, mode: Literal["w", "wb"] = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that replaces ``path`` as `draft_of` does: complete, or not at all.

    Args:
        path: The file to write. Its folder must exist.
        mode: ``"w"`` for text (UTF-8) or ``"wb"`` for bytes.

    Raises:
        ValueError: The mode is another one.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_write(path) as file:
        ...     _ = file.write("whole")
        >>> path.read_text()
        'whole'
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode={mode!r}: must be 'w' or 'wb'")
    with draft_of(path) as draft, draft.open(mode, encoding="utf-8" if mode == "w" else None) as file:
        yield file


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder of the cache that appears as `draft_of` says; its parents are made where they are missing.

    Yields:
        An empty folder to be filled with files.

    Raises:
        ValueError: The folder's parent cannot be made, or not be written.
    """
    make_cache_folder(folder.parent)
    with draft_of(folder) as draft:
        draft.mkdir()
        yield draft


def write_json(path: str | Path, obj: Any) -> None:
    """Write a value as indented JSON, complete or not at all.

    Args:
        path: The file to write.
        obj: Dicts with string keys, lists, strings, finite numbers, booleans and None. Tuples become lists.

    Raises:
        ValueError: The value holds NaN or an infinity, which JSON cannot express.
        TypeError: The value holds anything else that JSON cannot express.

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
    """What a JSON file holds.

    Args:
        path: The file to read.

    Raises:
        ValueError: The file cannot be read, or it is not JSON.

    Example:
        >>> read_json("nowhere/config.json")
        Traceback (most recent call last):
        ValueError: cannot read nowhere/config.json: No such file or directory
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # the latter where lists in lists have no end
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def cache_dir() -> Path:
    """The folder for what is made or fetched once: ``$ERU_CACHE_DIR``, ``$XDG_CACHE_HOME/eru`` or ``~/.cache/eru``."""
    if own := os.environ.get("ERU_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eru"


def make_cache_folder(folder: Path) -> None:
    """Make a folder of the cache and its parents where they are missing.

    Raises:
        ValueError: The folder cannot be made, or not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make {folder}: {error.strerror}; $ERU_CACHE_DIR moves the cache") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} is not writable; $ERU_CACHE_DIR moves the cache")


def download(url: str, *, limit: int) -> bytes:
    """Fetch a file of at most ``limit`` bytes, so that no server fills the memory.

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
