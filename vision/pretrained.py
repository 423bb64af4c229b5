"""Files of weights: found, verified by git blob id, read without unpickling anything, and loaded strictly."""

import difflib
import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eru.sealed import pack_tensors, read_metadata
from eru.storage import atomic_write, cache_dir, download, make_cache_folder
from vision.checkpoints import plain_names, read_checkpoint, refusal, unwrap
from vision.network import Network
from vision.pictures import as_address
from vision.weights import WEIGHTS, Weights, from_published, is_published

_ARCHITECTURE = "architecture"  # in a safetensors file's metadata
_SIZE_LIMIT = 64 << 20  # bytes; the largest file has about 24 MB


def blob_id(content: bytes) -> str:
    """Git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch(weights: Weights) -> Path:
    """The published file in the cache, downloaded where it is missing or altered; only verified content is kept."""
    path = cache_dir() / "weights" / weights.file_name
    if path.is_file() and blob_id(path.read_bytes()) == weights.blob:
        return path
    make_cache_folder(path.parent)
    try:
        content = download(weights.url, limit=_SIZE_LIMIT)
    except OSError as error:
        raise ValueError(
            f"weights={weights.name!r}: the download of {weights.url} failed ({error}); put the file at {path}, or "
            "name its path instead"
        ) from None
    if (found := blob_id(content)) != weights.blob:
        raise ValueError(f"{weights.url} is altered: its git blob id must be {weights.blob}, found {found}")
    with atomic_write(path, "wb") as file:
        file.write(content)
    return path


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, read once, so that what is verified is what is loaded; a published one has a record."""

    path: Path
    content: bytes = field(repr=False)
    record: Weights | None

    @classmethod
    def find(cls, weights: Weights | str | Path) -> "WeightsFile":
        """Find, verify and read the file that a record, its name or a path means."""
        if not isinstance(weights, Weights | str | Path):
            raise TypeError(f"weights={weights!r}: must be a record of published weights, a name or a path")
        record = weights if isinstance(weights, Weights) else WEIGHTS.get(str(weights))
        path = Path(str(weights)).expanduser() if record is None else fetch(record)
        # Path.is_file raises where no file can have such a name.
        if record is None and not os.path.isfile(path):  # noqa: PTH113
            close = difflib.get_close_matches(str(weights), WEIGHTS, n=3) or ["espnetv2_100.imagenet_224"]
            given = _line(as_address(str(weights)) or str(weights))
            raise ValueError(
                f"weights={given!r}: no such file, nor the name of published weights, such as "
                f"{', '.join(close)} (vision.list_weights() names all)"
            )
        content = path.read_bytes()
        blob = blob_id(content)
        if record is not None and blob != record.blob:
            raise ValueError(f"{path} is altered: its git blob id must be {record.blob}, found {blob}")
        return cls(path, content, next((known for known in WEIGHTS.values() if known.blob == blob), record))

    def state(self) -> dict[str, Tensor]:
        """The state dict, in this library's names; a file that holds none, or more than tensors, is refused."""
        try:
            state = read_checkpoint(self.content, safe=self.path.suffix == ".safetensors")
            return from_published(state) if is_published(state) else state
        except pickle.UnpicklingError as error:
            raise ValueError(f"{self.path}: refused: {_line(refusal(error), 400)}") from error
        except Exception as error:  # torch raises whatever a damaged pickle makes it do
            reason = _line(f"{type(error).__name__}: {error}", 400)
            raise ValueError(f"{self.path}: not a checkpoint, or a broken one ({reason})") from error

    def architecture(self) -> dict[str, Any]:
        """What the file knows about its model: its name, and in our own files the constructor's arguments."""
        if self.record is not None:
            return {"name": self.record.model}
        try:
            return dict(json.loads(read_metadata(self.content)[_ARCHITECTURE]))
        except (ValueError, KeyError, TypeError, RecursionError):  # another kind of file
            return {}


def _line(text: str, limit: int = 200) -> str:
    """A text in one line of bearable length."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def load_weights(model: nn.Module, weights: Weights | WeightsFile | str | Path) -> Weights | None:
    """Load weights into a model, strictly: every entry must be there and fit.

    The file may hold its state dict inside of dictionaries (``{"model_state_dict": ...}``), if it holds only one, and
    under the names of compiled, parallel and averaged models and of usual trainers.

    Args:
        model: A whole model, or a backbone, which takes what the file's backbone has for it. Of a compiled, parallel
            or averaged model, the one inside is meant.
        weights: A record, its name, or the path of a file: the authors' ``.pth``, or one that
            :func:`save_weights` wrote; or such a file already read.

    Returns:
        The record of a published file, ``None`` for another.

    Raises:
        ValueError: There is no such file, it is not the published one, is broken, does not fit the model, or
            holds a number that is not finite.
    """
    file = weights if isinstance(weights, WeightsFile) else WeightsFile.find(weights)
    model = unwrap(model)
    names = dict(zip(plain_names(model.state_dict()), model.state_dict(), strict=True))
    own = plain_names(model.state_dict())
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError("device='meta': a model without numbers cannot take weights; build it on a real device")
    state = file.state()
    if not any(name.startswith("backbone.") for name in own):
        inside = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
        state = {name: inside[name] for name in own if name in inside}
    _check_fit(own, state, file)
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{file.path}: {name} holds numbers that are not finite")
    model.load_state_dict({name: state[plain] for plain, name in names.items()})
    return file.record


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], file: WeightsFile) -> None:
    faults = []
    if missing := [name for name in own if name not in state]:
        faults.append(f"{len(missing)} entries are missing, such as {missing[0]}")
    if unknown := [name for name in state if name not in own]:
        faults.append(f"{len(unknown)} entries are unknown, such as {unknown[0]}")
    if other := [name for name in own if name in state and own[name].shape != state[name].shape]:
        has, wanted = tuple(state[other[0]].shape), tuple(own[other[0]].shape)
        faults.append(f"{len(other)} entries have other shapes, such as {other[0]} {has} where the model has {wanted}")
    if faults:
        known = f" ({file.record.name})" if file.record else ""
        raise ValueError(f"{file.path}{known} does not fit the model: {'; '.join(faults)}")


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model's state as safetensors, whole or not at all, with what builds the model again.

    Args:
        model: Any module; of a compiled, parallel or averaged one, the one inside is meant. One that the registry
            made is built again, with its options, by ``create_model(name, weights=path)``.
        path: A name that ends in ``.safetensors``.

    Raises:
        ValueError: The name ends in something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_weights(nn.BatchNorm2d(3), path)
        >>> sorted(WeightsFile.find(path).state())
        ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path={str(path)!r}: must end in .safetensors")
    model = unwrap(model)
    # A part may be compiled, too.
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in model.state_dict().items()}
    metadata = {}
    if isinstance(model, Network) and model.name is not None:
        described = {"name": model.name, "num_classes": model.num_classes, **model.architecture()}
        metadata[_ARCHITECTURE] = json.dumps(described)
    with atomic_write(path, "wb") as file:
        file.write(pack_tensors(state, metadata))
