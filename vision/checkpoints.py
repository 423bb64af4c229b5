"""State dicts out of what people save: in dictionaries, and under the names that wrappers give."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from eru.sealed import unpack_tensors

# What wrappers and trainers put before every name.
_PREFIXES = ("module.", "model.", "net.", "ema_model.")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside of a compiled, parallel or averaged one.

    Example:
        >>> inner = nn.Linear(2, 3)
        >>> unwrap(DataParallel(AveragedModel(inner))).weight.shape
        torch.Size([3, 2])
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # of torch.compile
            model = inner
        else:
            return model


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what wrappers add to its names, and without the counter of an averaged model.

    Example:
        >>> sorted(plain_names({"n_averaged": torch.tensor(3), "module._orig_mod.weight": torch.ones(1)}))
        ['weight']
    """
    plain = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    while names := plain.keys() - {"n_averaged"}:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None)
        if prefix is None:
            break
        if prefix == "module.":  # an averaged model's, whose counter stands beside it
            plain.pop("n_averaged", None)
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def read_checkpoint(content: bytes, *, safe: bool) -> dict[str, Tensor]:
    """The one state dict that a file holds, as it is or inside of dictionaries, without its wrappers' names.

    Args:
        content: The file.
        safe: Whether its name says that it is of safetensors; it is recognised under other names, too.

    Raises:
        ValueError: It holds no state dict, or several; or whatever else torch makes of a damaged file.
    """
    if safe or content[8:9] == b"{":  # eight bytes of a length come before safetensors' JSON
        return plain_names(unpack_tensors(content))
    with warnings.catch_warnings(action="ignore"):  # what is wrong with a file is said in one line
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    found = dict(_state_dicts(saved))
    if len(found) > 1:
        raise ValueError(f"it holds several state dicts ({', '.join(found)}): save the one that is meant alone")
    if not found:
        raise ValueError(f"it must hold a state dict, named tensors and nothing else, but holds {_contents(saved)}")
    (state,) = found.values()
    return plain_names(state)


def refusal(error: Exception) -> str:
    """Why torch refuses to unpickle a file, in its words but without its advice to read the file unprotected."""
    if unknown := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"holds more than tensors, such as {unknown[1]}: in the program that made it, save the weights alone, "
            "with vision.save_weights(model, 'file.safetensors') or torch.save(model.state_dict(), 'file.pth')"
        )
    said = re.search(r"WeightsUnpickler error: (.*)", str(error))
    return f"broken, or holds more than tensors ({said[1] if said else 'no pickle of tensors'})"


def _state_dicts(saved: Any, path: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every state dict in a dictionary, and in those in it, by its keys; those of an optimizer have other names."""
    if not isinstance(saved, dict) or not saved or not all(isinstance(name, str) for name in saved):
        return
    if all(isinstance(value, Tensor) for value in saved.values()):
        yield path or "itself", dict(saved)
        return
    for name, value in saved.items():
        yield from _state_dicts(value, f"{path}.{name}" if path else name)


def _contents(saved: Any) -> str:
    if not isinstance(saved, dict):
        return f"a {type(saved).__name__}"
    if not saved:
        return "nothing"
    names = [f"{name!r} ({type(value).__name__})" for name, value in saved.items()]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
