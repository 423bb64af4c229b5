"""The run folder: everything that one training run leaves behind, and all that a later command needs."""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from eru.sealed import load_sealed, load_sealed_json, pack_tensors, save_sealed, save_sealed_json, unpack_tensors
from eru.storage import atomic_write, errors_name
from eru.training.lock import held
from eru.warn import warn_once

_ABSENT = "<absent>"


class _File:
    """A file of a run folder, by its name there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: "RunFolder", owner: type) -> Path:
        return folder.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """A folder with one training run's configuration, metrics, weights, training state, model card and curve.

    Make one with `RunFolder.create` or `RunFolder.open`. Every file but ``metrics.jsonl`` is replaced as a whole;
    ``metrics.jsonl`` is only ever appended to. A kill at any moment leaves a folder that opens and resumes.

    Attributes:
        path: The folder.
        config: The configuration, as ``config.json`` holds it.
        config_path: ``config.json``.
        metrics_path: ``metrics.jsonl``: one JSON object a line, in the order of events.
        weights_path: ``model.safetensors``: the weights to evaluate and to publish.
        state_path: ``state.pt``: the checkpoint that a resumed run continues from.
        previous_path: ``state.previous.pt``: the one before it, which takes its place where it is damaged.
        card_path: ``README.md``: the model card.
        curve_path: ``curve.png``: the learning curve.

    Example:
        >>> import tempfile
        >>> run = RunFolder.create(Path(tempfile.mkdtemp()) / "runs" / "first", {"hidden_size": 448})
        >>> run.log({"event": "step", "step": 50, "loss": 5.1})
        >>> RunFolder.open(run.path).metrics()
        [{'event': 'step', 'step': 50, 'loss': 5.1}]
    """

    path: Path
    config: dict[str, Any]
    config_path = _File("config.json")
    metrics_path = _File("metrics.jsonl")
    weights_path = _File("model.safetensors")
    state_path = _File("state.pt")
    previous_path = _File("state.previous.pt")
    card_path = _File("README.md")
    curve_path = _File("curve.png")

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> "RunFolder":
        """Start a run in a new folder, or in one that holds none of a run's files.

        Args:
            path: The folder; missing parents are made.
            config: What defines the run, as JSON can express it.

        Raises:
            ValueError: The path is a file, holds a run already, or holds a file that the run would overwrite.
        """
        folder = cls(Path(path), _as_json(config))
        folder.check_free()
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"cannot make the run folder {path}: a file is in its place") from error
        folder.save_config()
        return folder

    def check_free(self) -> None:
        """Refuse a folder in which a new run cannot start.

        Raises:
            ValueError: It holds a run already, or a file that the run would overwrite.
        """
        if self.config_path.exists():
            advice = "go on with it (--resume, or resume=True in Python), or take another folder"
            raise ValueError(f"{self.path} holds a run already: {advice}")
        for own in self._other_files:
            if own.exists():
                raise ValueError(f"{own} would be overwritten by the new run: choose another folder")

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open the run that `create` started in a folder.

        Raises:
            ValueError: There is no run in the folder, or its ``config.json`` is broken.
        """
        file = Path(path) / "config.json"
        if not file.is_file():
            raise ValueError(f"no run in {path}: {file} is missing")
        config = load_sealed_json(file)
        if not isinstance(config, dict):
            raise ValueError(f"{file} must hold a JSON object, got {type(config).__name__}")
        return cls(Path(path), config)

    @property
    def _other_files(self) -> tuple[Path, ...]:
        states = (self.state_path, self.previous_path)
        return (self.metrics_path, self.weights_path, *states, self.card_path, self.curve_path)

    def save_config(self) -> None:
        """Write the configuration to ``config.json``."""
        save_sealed_json(self.config, self.config_path)

    def discard(self) -> None:
        """Remove the run's own files, ``config.json`` last, and the folder where nothing else is in it."""
        for file in (*self._other_files, self.config_path):
            file.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def check_same_config(self, config: Mapping[str, Any], ignore: Collection[str] = ()) -> None:
        """Refuse to resume under another configuration.

        Args:
            config: The configuration given now.
            ignore: The fields that may differ, such as totals and paths. Fields of nested objects are written
                ``"outer.inner"``.

        Raises:
            ValueError: Any other field differs. The message lists each with its saved and its given value.
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

    def held(self) -> AbstractContextManager[None]:
        """Keep other trainings out of the folder while this one writes it; see :func:`eru.training.lock.held`.

        Raises:
            ValueError: Another training holds it.
        """
        return held(self.path)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to ``metrics.jsonl``, NaN and infinities as null; it is on the disk when this returns."""
        line = json.dumps(_without_nonfinite(record), allow_nan=False).encode()
        with errors_name(self.metrics_path), self.metrics_path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # A killed run left half a line, which must not swallow this one.
                    line = b"\n" + line
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """All records of ``metrics.jsonl``, oldest first, without the half lines that kills left.

        A value that was not finite is None.
        """
        if not self.metrics_path.exists():
            return []
        records = []
        for line in self.metrics_path.read_bytes().split(b"\n"):
            try:
                records.append(json.loads(line))
            # The line is empty or cut off: a proper beginning of an object is never JSON itself.
            except (ValueError, RecursionError):
                continue
        return records

    def epochs(self) -> list[dict[str, Any]]:
        """The records of all complete epochs, in order.

        A run killed just after such a record writes it again when resumed; the later one counts.
        """
        records = {record["epoch"]: record for record in self.metrics() if record.get("event") == "epoch"}
        return [records[number] for number in sorted(records)]

    def save_weights(self, state_dict: Mapping[str, Tensor]) -> None:
        """Write the weights, on any device, to ``model.safetensors``; equal ones give an equal file, byte for byte."""
        with atomic_write(self.weights_path, "wb") as file:
            file.write(pack_tensors(state_dict))

    def load_weights(self, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """Read the weights from ``model.safetensors`` to a device.

        Raises:
            ValueError: There are no weights yet, the file is damaged, or a weight is not finite.
        """
        self._check_weights()
        try:
            weights = unpack_tensors(self.weights_path.read_bytes())
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{self.weights_path} is broken: {error}") from error
        for name, tensor in weights.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{self.weights_path} is broken: {name} holds numbers that are not finite")
        return {name: tensor.to(device) for name, tensor in weights.items()}

    def weights_sha256(self) -> str:
        """The SHA-256 of ``model.safetensors``, by which results say whose they are.

        Raises:
            ValueError: There are no weights yet.
        """
        self._check_weights()
        with self.weights_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _check_weights(self) -> None:
        if not self.weights_path.exists():
            raise ValueError(f"no weights yet: {self.weights_path} is missing, train the run first")

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint to ``state.pt``; the one before it becomes ``state.previous.pt``.

        The first one is written before any weights and any record of an epoch or a stop. So a folder that holds these
        without a checkpoint has lost it, whenever a run was killed.

        Args:
            state: Nested dicts, lists and tuples of tensors, numbers, strings, booleans and None: what
                ``torch.load(weights_only=True)`` reads back. No modules, no numpy arrays.
        """
        save_sealed(state, self.state_path, replaced=self.previous_path)

    @property
    def has_state(self) -> bool:
        """Whether there is a checkpoint."""
        return self.state_path.exists() or self.previous_path.exists()

    def load_state(self, *, remove_damaged: bool = False) -> dict[str, Any] | None:
        """Read the last checkpoint to the CPU; None if none was saved yet.

        Where it is damaged, a warning names it and the one before it is taken.

        Args:
            remove_damaged: Remove what is damaged, so that the next checkpoint leaves the one taken as it is.

        Raises:
            ValueError: No whole checkpoint is left, or it holds more than tensors and plain values.
        """
        if not self.has_state:
            self._check_nothing_lost()
            return None
        faults = []
        for path in (self.state_path, self.previous_path):
            if not path.exists():  # A kill between the two renamings of a save leaves the older one alone.
                continue
            try:
                state = load_sealed(path)
            except ValueError as error:
                faults.append(error)
                continue
            if not isinstance(state, dict):
                raise ValueError(f"{path} must hold a dict, got {type(state).__name__}")
            if faults:
                if remove_damaged:
                    self.state_path.unlink(missing_ok=True)
                warn_once(f"{faults[0]}; the checkpoint before it, {path.name}, is taken in its place")
            return state
        raise faults[0]

    def _check_nothing_lost(self) -> None:
        """Raise ValueError where a training that starts anew would overwrite what an older one reached."""
        reached = [record for record in self.metrics() if record.get("event") in ("epoch", "stop")]
        if self.weights_path.exists() or reached:
            there = self.weights_path.name if self.weights_path.exists() else f"records in {self.metrics_path.name}"
            raise ValueError(
                f"{self.path} cannot go on: it holds {there} of an earlier training, but not its checkpoint "
                f"{self.state_path.name} (a published copy has none); put that back, or start a new run in another "
                "folder, from these weights if you like (--from)"
            )

    def has_begun(self) -> bool:
        """Whether there is a record of a step, or a checkpoint behind the first one."""
        state = self.load_state()
        is_behind = state is not None and state["position"]["step"] > 0
        return is_behind or any(record["event"] == "step" for record in self.metrics())

    def write_card(self, text: str) -> None:
        """Write the model card, in Markdown, to ``README.md``."""
        with atomic_write(self.card_path) as file:
            file.write(text)


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it comes back from its file: tuples as lists, keys as strings."""
    return json.loads(json.dumps(dict(config), allow_nan=False))


def _fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The names and values of all leaves, nested names joined by dots."""
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
