"""Files that carry a digest of their own content, so that a damaged one is refused when it is read.

One flipped bit of a weight changes every answer and nothing else notices it. Files without a digest, from elsewhere or
from before there were digests, are read all the same.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from eru.storage import draft_of, read_json, write_json

_KEY = "sha256"  # in a safetensors file's metadata, and in a JSON object
_BLANK = "0" * hashlib.sha256().digest_size * 2  # stands for the digest while it is computed
_SEAL = b"\nsha256 "  # what comes before the digest at the end of a checkpoint
_SEAL_SIZE = len(_SEAL) + len(_BLANK)
_CHUNK = 1 << 20  # bytes


def pack_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file with its digest among its metadata; equal arguments give equal bytes.

    Args:
        tensors: Named tensors on any device.
        metadata: What else is to be said of them.

    Example:
        >>> content = pack_tensors({"weight": torch.ones(2)}, {"kind": "example"})
        >>> unpack_tensors(content)
        {'weight': tensor([1., 1.])}
    """
    # The format refuses tensors that share their memory, so each is copied.
    layout: dict[str, Any] = {"copy": True, "memory_format": torch.contiguous_format}
    content = save({name: tensor.detach().to("cpu", **layout) for name, tensor in tensors.items()})
    start = _data_start(content)
    header = json.loads(content[8:start])
    header = {"__metadata__": {"format": "pt", **(metadata or {}), _KEY: _BLANK}, **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors' data starts at a multiple of eight
    blank = len(text).to_bytes(8, "little") + text + content[start:]
    return blank.replace(_BLANK.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)


def unpack_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ValueError: The content is not what was written.
        SafetensorError: It is no such file.
    """
    tensors = load(content)
    if digest := read_metadata(content).get(_KEY):
        blank = content.replace(digest.encode(), _BLANK.encode(), 1)
        if hashlib.sha256(blank).hexdigest() != digest:
            raise ValueError("its content is not what was written (its SHA-256 differs)")
    return tensors


def read_metadata(content: bytes) -> dict[str, str]:
    """What a safetensors file says of its tensors; nothing where it says nothing, or is another kind of file."""
    try:
        metadata = json.loads(content[8 : _data_start(content)])["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _data_start(content: bytes) -> int:
    """Where the header ends, which is JSON behind eight bytes with its length."""
    return 8 + int.from_bytes(content[:8], "little")


def save_sealed(state: Mapping[str, Any], path: Path, replaced: Path | None = None) -> None:
    """Write nested tensors and plain values with ``torch.save``, whole or not at all, and their digest behind them.

    Args:
        state: What ``torch.load(weights_only=True)`` reads back.
        path: The file to write.
        replaced: Where an older file of that name goes once the new one is complete; by default it is dropped.

    Raises:
        OSError: The file cannot be written.
    """
    with draft_of(path) as draft:
        with draft.open("wb") as file:
            digesting = _Digesting(file)
            try:
                torch.save(dict(state), cast(IO[bytes], digesting))
            except RuntimeError:
                if digesting.failure is not None:  # torch tells of a full disk as of a wrong position
                    raise digesting.failure from None
                raise
            file.write(_SEAL + digesting.digest.hexdigest().encode())
        if replaced is not None and path.exists():
            path.replace(replaced)


def load_sealed(path: Path) -> Any:
    """What `save_sealed` wrote, on the CPU.

    Raises:
        ValueError: The file is damaged, or holds more than tensors and plain values.
    """
    _check_seal(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # What a damaged archive raises depends on where the damage is.
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is broken and cannot be resumed from: {reason}") from error


def _check_seal(path: Path) -> None:
    size = path.stat().st_size - _SEAL_SIZE
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while left := max(0, size - file.tell()):
            digest.update(file.read(min(left, _CHUNK)))
        seal = file.read()
    if _SEAL in seal and seal != _SEAL + digest.hexdigest().encode():
        raise ValueError(f"{path} is broken and cannot be resumed from: its content is not what was written")


def save_sealed_json(fields: Mapping[str, Any], path: Path) -> None:
    """Write an object as JSON, complete or not at all, with the digest of its other fields as its last one.

    Raises:
        ValueError: A value is NaN or infinite.
        TypeError: A value is nothing that JSON can express.
        OSError: The file cannot be written.
    """
    write_json(path, {**fields, _KEY: _digest_of(fields)})


def load_sealed_json(path: Path) -> Any:
    """What `save_sealed_json` wrote, without the digest.

    Raises:
        ValueError: The file cannot be read, is not JSON, or has been changed.
    """
    fields = read_json(path)
    if isinstance(fields, dict) and (digest := fields.pop(_KEY, None)) is not None and digest != _digest_of(fields):
        raise ValueError(
            f'{path} is not what was written (its SHA-256 differs); if it was changed on purpose, take "{_KEY}" out'
        )
    return fields


def _digest_of(fields: Mapping[str, Any]) -> str:
    """The digest of an object, whatever the order of its names and the space between them."""
    return hashlib.sha256(json.dumps(dict(fields), sort_keys=True).encode()).hexdigest()


class _Digesting:
    """A file that is written, with the digest of what was written and the failure that ended it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()
