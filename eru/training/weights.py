"""Files of weights in the safetensors format, in which tied tensors stay tied."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from eru.storage import atomic_write

__all__ = ["read_weights", "write_weights"]

_ALIASES = "aliases"


def write_weights(path: Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write weights, each tied tensor once, in place of an older file of that name.

    safetensors refuses shared memory. So of several names for one tensor the first is stored, and the file's metadata
    says under ``"aliases"`` (a JSON object, name -> stored name) which others there are. Equal weights give an equal
    file, byte for byte.

    Args:
        path: The file.
        state_dict: Names and tensors, on any device.
    """
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple, str] = {}
    for name, tensor in state_dict.items():
        stored = first_name.setdefault(_memory(tensor), name)
        if stored == name:
            # This is a copy even on the CPU: partly overlapping views are no aliases, yet they share their memory.
            unique[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        else:
            aliases[name] = stored
    content = serialize(unique, {"format": "pt", _ALIASES: json.dumps(aliases)})
    with atomic_write(path, "wb") as file:
        file.write(_with_sorted_metadata(content))


def read_weights(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read the weights that `write_weights` wrote, tied tensors under each of their names.

    Args:
        path: The file.
        device: The device that the tensors go to.

    Returns:
        Names and tensors, as ``nn.Module.load_state_dict`` takes them.

    Raises:
        ValueError: The file is broken.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            aliases = json.loads((file.metadata() or {}).get(_ALIASES, "{}"))
            # The names come as a list, since the file is no mapping that could be looped over itself.
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is broken: {error}") from error
    return tensors | {name: tensors[stored] for name, stored in aliases.items()}


def _memory(tensor: Tensor) -> tuple:
    """A value that is equal for two tensors just when they are one tensor under two names."""
    where = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return *where, tensor.dtype, tensor.shape, tensor.stride()


def _with_sorted_metadata(content: bytes) -> bytes:
    """The same safetensors file with its metadata in order, since the library writes it in a random one.

    The layout: 8 bytes with the header's length in little endian; the header in JSON, padded with spaces; the tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]
