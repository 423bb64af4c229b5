"""The run folder: everything one training run leaves behind, and all that a later command needs."""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from eru.storage import atomic_write, read_json, write_json

__all__ = ["RunFolder"]

_ALIASES = "aliases"
_ABSENT = "<absent>"


@dataclass(frozen=True)
class RunFolder:
    """A folder with one training run's configuration, metrics, weights, training state, model card and curve.

    Make one with `RunFolder.create` or `RunFolder.open`. Every file but `metrics.jsonl` is replaced
    atomically; `metrics.jsonl` is only ever appended to. A kill at any moment leaves a folder that opens and
    resumes.

    Attributes:
        path: The folder.
        config: The configuration as `config.json` holds it.

    Example:
        >>> import tempfile
        >>> run = RunFolder.create(Path(tempfile.mkdtemp()) / "runs" / "first", {"hidden_size": 448})
        >>> run.log({"event": "step", "step": 50, "loss": 5.1})
        >>> RunFolder.open(run.path).metrics()
        [{'event': 'step', 'step': 50, 'loss': 5.1}]
    """

    path: Path
    config: dict[str, Any]

    @property
    def config_path(self) -> Path:
        """`config.json`: the configuration, written once."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """`metrics.jsonl`: one JSON object a line, in the order of events."""
        return self.path / "metrics.jsonl"

    @property
    def weights_path(self) -> Path:
        """`model.safetensors`: the weights to evaluate and to publish."""
        return self.path / "model.safetensors"

    @property
    def state_path(self) -> Path:
        """`state.pt`: what a resumed run continues from."""
        return self.path / "state.pt"

    @property
    def card_path(self) -> Path:
        """`README.md`: the model card."""
        return self.path / "README.md"

    @property
    def curve_path(self) -> Path:
        """`curve.png`: the learning curve."""
        return self.path / "curve.png"

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> "RunFolder":
        """Start a run in a new folder, or in one that holds none of a run's files.

        Args:
            path: The folder; missing parents are made.
            config: What defines the run, as JSON can express it.

        Raises:
            ValueError: If `path` is a file, already holds a run, or holds a file that the run would
                overwrite.
        """
        folder = cls(Path(path), _as_json(config))
        if folder.config_path.exists():
            raise ValueError(f"{path} holds a run already: continue it with --resume or take another folder")
        for own in (
            folder.metrics_path,
            folder.weights_path,
            folder.state_path,
            folder.card_path,
            folder.curve_path,
        ):
            if own.exists():
                raise ValueError(f"{own} would be overwritten by the new run: choose another folder")
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"cannot make the run folder {path}: a file is in its place") from error
        write_json(folder.config_path, folder.config)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open the run that `create` started.

        Args:
            path: The folder.

        Raises:
            ValueError: If there is no run in `path`, or its `config.json` is broken.
        """
        file = Path(path) / "config.json"
        if not file.is_file():
            raise ValueError(f"no run in {path}: {file} is missing")
        config = read_json(file)
        if not isinstance(config, dict):
            raise ValueError(f"{file} must hold a JSON object, got {type(config).__name__}")
        return cls(Path(path), config)

    def check_same_config(self, config: Mapping[str, Any], ignore: Collection[str] = ()) -> None:
        """Refuse to resume under another configuration.

        Args:
            config: The configuration given now.
            ignore: Fields that may differ, such as totals and paths. Fields of nested objects are written
                `"outer.inner"`.

        Raises:
            ValueError: If any other field differs; the message lists each with its saved and its given value.
        """
        saved, given = dict(_fields(self.config)), dict(_fields(_as_json(config)))
        differing = [
            f"{name} (saved {saved.get(name, _ABSENT)!r}, given {given.get(name, _ABSENT)!r})"
            for name in {**saved, **given}
            if name not in ignore and saved.get(name, _ABSENT) != given.get(name, _ABSENT)
        ]
        if differing:
            raise ValueError(
                f"{self.path} holds a run of another configuration: {', '.join(differing)}; "
                "give the saved values or choose another folder"
            )

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to `metrics.jsonl`, on the disk when this returns.

        Args:
            record: What JSON can express. NaN and infinities, which it cannot, are stored as null.
        """
        line = json.dumps(_without_nonfinite(record), allow_nan=False).encode()
        with self.metrics_path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a killed run left half a line: it must not swallow this one
                    line = b"\n" + line
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """Read all records of `metrics.jsonl`, oldest first, without the half lines that kills left.

        Returns:
            The records; an empty list before the first. A value that was not finite is None.
        """
        if not self.metrics_path.exists():
            return []
        records = []
        for line in self.metrics_path.read_bytes().split(b"\n"):
            try:
                records.append(json.loads(line))
            except ValueError:  # empty, or cut off: a proper beginning of an object is never JSON itself
                continue
        return records

    def epochs(self) -> list[dict[str, Any]]:
        """Read the records of all complete epochs, in order.

        Returns:
            Those of `"event": "epoch"`. A run killed just after such a record writes it again when resumed; the later
            one counts.
        """
        records = {record["epoch"]: record for record in self.metrics() if record.get("event") == "epoch"}
        return [records[number] for number in sorted(records)]

    def save_weights(
        self,
        state_dict: Mapping[str, Tensor],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write the weights to `model.safetensors`, each tied tensor once.

        safetensors refuses shared memory, so of several names for one tensor the first is stored, and the
        file's metadata says under `"aliases"` (a JSON object, name -> stored name) which others to restore.
        Equal weights and metadata give an equal file, byte for byte.

        Args:
            state_dict: Names and tensors, on any device.
            metadata: Further text to keep in the file, string to string.

        Raises:
            ValueError: If `metadata` has a field `"aliases"`.
            TypeError: If a value of `metadata` is not a string.
        """
        metadata = {"format": "pt", **(metadata or {})}
        if _ALIASES in metadata:
            raise ValueError(f"metadata must not hold {_ALIASES!r}: it names the tied tensors")
        for name, value in metadata.items():
            if not isinstance(value, str):
                raise TypeError(f"metadata must map strings to strings, got {value!r} for {name!r}")
        unique: dict[str, Tensor] = {}
        aliases: dict[str, str] = {}
        first_name: dict[tuple, str] = {}
        for name, tensor in state_dict.items():
            stored = first_name.setdefault(_memory(tensor), name)
            if stored == name:
                # A copy even on the CPU: partly overlapping views are no aliases, yet share their memory.
                unique[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            else:
                aliases[name] = stored
        content = serialize(unique, {**metadata, _ALIASES: json.dumps(aliases)})
        with atomic_write(self.weights_path, "wb") as file:
            file.write(_with_sorted_metadata(content))

    def load_weights(self, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """Read the weights from `model.safetensors`, tied tensors under each of their names.

        Args:
            device: Where the tensors go.

        Returns:
            Names and tensors, as `nn.Module.load_state_dict` takes them.

        Raises:
            ValueError: If there are no weights yet or the file is broken.
        """
        if not self.weights_path.exists():
            raise ValueError(f"no weights yet: {self.weights_path} is missing, train the run first")
        try:
            with safe_open(self.weights_path, framework="pt", device=str(device)) as file:
                aliases = json.loads((file.metadata() or {}).get(_ALIASES, "{}"))
                # A list, since the file is no mapping that could be looped over itself.
                tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{self.weights_path} is broken: {error}") from error
        return tensors | {name: tensors[stored] for name, stored in aliases.items()}

    def weights_sha256(self) -> str:
        """SHA-256 of `model.safetensors`, by which results say whose they are.

        Raises:
            ValueError: If there are no weights yet.
        """
        if not self.weights_path.exists():
            raise ValueError(f"no weights yet: {self.weights_path} is missing, train the run first")
        with self.weights_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write the training state to `state.pt`.

        Args:
            state: Nested dicts, lists and tuples of tensors, numbers, strings, booleans and None: what
                `torch.load(weights_only=True)` reads back. No modules, no numpy arrays.
        """
        with atomic_write(self.state_path, "wb") as file:
            torch.save(dict(state), file)

    def load_state(self) -> dict[str, Any] | None:
        """Read the training state from `state.pt` to the CPU.

        Returns:
            The state, or None if none was saved yet.

        Raises:
            ValueError: If the file is broken or holds more than tensors and plain values.
        """
        if not self.state_path.exists():
            return None
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a damaged archive raises depends on where the damage is
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{self.state_path} is broken and cannot be resumed from: {reason}") from error
        if not isinstance(state, dict):
            raise ValueError(f"{self.state_path} must hold a dict, got {type(state).__name__}")
        return state

    def write_card(self, text: str) -> None:
        """Write the model card to `README.md`.

        Args:
            text: The card in Markdown.
        """
        with atomic_write(self.card_path) as file:
            file.write(text)


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it comes back from its file: tuples as lists, keys as strings."""
    return json.loads(json.dumps(dict(config), allow_nan=False))


def _fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of all leaves, nested names joined by dots."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nonfinite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _memory(tensor: Tensor) -> tuple:
    """Equal for two tensors just when they are one tensor under two names."""
    where = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return *where, tensor.dtype, tensor.shape, tensor.stride()


def _with_sorted_metadata(content: bytes) -> bytes:
    """The same safetensors file with its metadata in order: the library writes it in a random one.

    The layout: 8 bytes, the header's length in little endian; the header in JSON, padded with spaces; the
    tensors.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]
