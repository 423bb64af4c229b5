"""The folder that an export wrote: its ``export.json``, and the files that it names."""

import hashlib
import json
from pathlib import Path
from typing import Any

_MANIFEST = "export.json"


class Folder:
    """An exported model's folder.

    Args:
        path: Where it is.

    Raises:
        ValueError: There is no such folder, it has no ``export.json`` that can be read, or the model in it is of
            another format than ONNX.
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, str | Path):
            raise TypeError(f"folder={path!r}: must be a path")
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"folder={str(path)!r}: is no folder")
        if not (self.path / _MANIFEST).is_file():
            raise ValueError(f"folder={str(path)!r}: holds no {_MANIFEST}, so it is not one that an export wrote")
        self._fields = self._read_json(_MANIFEST)
        if (found := self.field("format")) != "onnx":
            raise self.misfit(f"format={found!r}: must be 'onnx', the only one that this runtime runs")

    def field(self, name: str) -> Any:
        """What ``export.json`` says under a name.

        Raises:
            ValueError: It says nothing.
        """
        if name not in self._fields:
            raise self.misfit(f"has no field {name!r}")
        return self._fields[name]

    def says(self, name: str) -> bool:
        """Whether ``export.json`` has true under a name."""
        return self._fields.get(name) is True

    def misfit(self, reason: object) -> ValueError:
        """The error to raise where something in ``export.json`` is wrong."""
        return ValueError(f"{self.path / _MANIFEST}: {reason}")

    def model(self) -> tuple[Path, bytes]:
        """The path of the model's file, and its content.

        Raises:
            ValueError: The file cannot be read, or is not the one that was written.
        """
        name = self._named("file")
        content = self._read(name)
        if hashlib.sha256(content).hexdigest() != self.field("sha256"):
            raise ValueError(f"{self.path / name}: is damaged or another file than was exported (its SHA-256 differs)")
        return self.path / name, content

    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the model's outputs.

        Raises:
            ValueError: The file of labels cannot be read, a line of it is empty, or two are the same.
        """
        name = self._named("labels")
        try:
            labels = tuple(line.strip() for line in self._read(name).decode("utf-8-sig").splitlines())
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path / name}: is not UTF-8 text: {error}") from error
        if not labels or "" in labels or len(set(labels)) < len(labels):
            raise ValueError(f"{self.path / name}: must hold in every line the name of one class, each another one")
        return labels

    def tokenizer(self) -> tuple[Path, dict[str, Any]]:
        """The path of the tokenizer's file, and its content.

        Raises:
            ValueError: The file cannot be read, or is no JSON object.
        """
        name = self._named("tokenizer")
        return self.path / name, self._read_json(name)

    def _named(self, field: str) -> str:
        """The name of a file in this folder that a field gives; one that leads out of it is refused."""
        name = self.field(field)
        if not isinstance(name, str) or name in ("", "..") or name != Path(name).name or "\\" in name or ":" in name:
            raise self.misfit(f"{field}={name!r}: must be the name of a file in this folder")
        return name

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise ValueError(f"{self.path / name}: cannot be read: {error.strerror}") from error

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            fields = json.loads(self._read(name).decode())
        except RecursionError as error:
            raise ValueError(f"{self.path / name}: is nested too deep") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path / name}: is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{self.path / name}: must hold a JSON object, not {type(fields).__name__}")
        return fields
