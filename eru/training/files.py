"""Files that are either whole or not there."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, overload

__all__ = ["atomic_write", "read_json", "write_json"]


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
    # Not tempfile: its files are private to the user, and a run folder is often read by a group.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
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
