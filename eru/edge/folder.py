"""The folder that ships: the file of a model, what it needs besides, and export.json, which describes both."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

import eru
from eru.edge.graph import Graph, Run
from eru.edge.onnx import OPSET, open_onnx, to_onnx
from eru.storage import draft_of, write_json

if TYPE_CHECKING:
    from onnx import ModelProto

Format = Literal["onnx", "pt2", "executorch"]
_ENDS = {"onnx": "onnx", "pt2": "pt2", "executorch": "pte"}
_NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": (), "executorch": ("executorch",)}
_EXTRAS = {"onnx": "export", "executorch": "executorch"}
_MOST = 2**16  # texts or pictures of one call
TOLERANCE = 1e-4  # between a runtime's answers in float32 and PyTorch's, for answers of at most 1; else in proportion


@dataclass(frozen=True)
class Written:
    """A model in a draft of its folder.

    Attributes:
        path: The model's file.
        run: The same, opened in the runtime that it is for.
    """

    path: Path
    run: Run


def check_format(format: str, quantize: str, quantizations: Sequence[str]) -> None:
    """Refuse a format, or a form of int8, that is not known, or the two where they do not go together.

    Raises:
        ValueError: One of these.
    """
    if format not in get_args(Format):
        raise ValueError(f"format={format!r}: must be one of {', '.join(get_args(Format))}")
    if quantize not in quantizations:
        raise ValueError(f"quantize={quantize!r}: must be one of {', '.join(quantizations)}")
    if quantize != "none" and format != "onnx":
        raise ValueError(f"quantize={quantize!r}: only format='onnx' has int8 here, and format={format!r} was given")


def check_batch(batch: object, format: Format) -> None:
    """Refuse a number of texts or pictures that no call could take, or that the format cannot leave open.

    Raises:
        ValueError: One of these.
    """
    if batch == "dynamic":
        if format == "executorch":
            raise ValueError("batch='dynamic': format='executorch' plans its memory for one number, so name it")
    elif not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= _MOST:
        raise ValueError(f"batch={batch!r}: must be a whole number, 1 to {_MOST:,}, or 'dynamic'")


@contextmanager
def new_export(out: str | Path, format: Format) -> Iterator[Path]:
    """Make the folder ``out``, which appears once everything in it is written and verified.

    Raises:
        ValueError: The format needs a package that is not installed, or something is in the place of ``out``.
    """
    missing = [name for name in _NEEDS[format] if find_spec(name) is None]
    if missing:
        extra = _EXTRAS[format]
        raise ValueError(f"format={format!r}: needs {', '.join(missing)}, which `pip install 'eru[{extra}]'` brings")
    out = Path(out)
    if out.exists():
        raise ValueError(f"out={str(out)!r} is there already: choose a folder that is not")
    made = [parent for parent in out.absolute().parents if not parent.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft_of(out) as draft:
            draft.mkdir()
            yield draft
    except BaseException:
        with suppress(OSError):  # Others may have put something there in the meantime.
            for parent in made:
                parent.rmdir()
        raise


def write_model(
    folder: Path,
    graph: Graph,
    format: Format,
    *,
    quantize: "Callable[[ModelProto], ModelProto] | None" = None,
    translations: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> Written:
    """Write a graph into a folder, and open it.

    Args:
        folder: Where the file comes.
        graph: What is exported.
        format: How it is written.
        quantize: What is done to the ONNX model before.
        translations: As for :func:`eru.edge.onnx.to_onnx`.
    """
    path = folder / f"model.{_ENDS[format]}"
    if format == "onnx":
        import onnx

        model = to_onnx(graph, translations)
        onnx.save(model if quantize is None else quantize(model), path)
        return Written(path, open_onnx(path))
    if format == "pt2":
        from eru.edge.pt2 import open_pt2, write_pt2

        write_pt2(graph, path)
        return Written(path, open_pt2(path))
    from eru.edge.executorch import open_executorch, write_executorch

    write_executorch(graph, path)
    return Written(path, open_executorch(path))


def largest_difference(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference between a runtime's answers and PyTorch's; beyond 1 in proportion to the answers.

    Raises:
        ValueError: As for :func:`check_answers`.

    Example:
        >>> import torch
        >>> round(largest_difference([torch.tensor([1.0, 20.0])], [torch.tensor([1.0, 20.2])]), 4)
        0.0099
    """
    check_answers(made, wanted)
    largest = 0.0
    for found, exact in zip(made, wanted, strict=True):
        if exact.numel():
            scale = max(1.0, exact.double().abs().max().item())
            largest = max(largest, (found.double() - exact.double()).abs().max().item() / scale)
    return largest


def check_answers(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Refuse answers that cannot be compared: a number that is none is neither near nor far from another.

    Raises:
        ValueError: A runtime's answers have other shapes than PyTorch's, or one of either is not finite.
    """
    for found, exact in zip(made, wanted, strict=True):
        if found.shape != exact.shape:
            raise ValueError(f"the export gives the shape {tuple(found.shape)}, PyTorch {tuple(exact.shape)}")
        for whose, answer in (("PyTorch", exact), ("the export", found)):
            require(bool(answer.isfinite().all()), f"{whose} answers with numbers that are not finite")


def require(holds: bool, found: str) -> None:
    """Refuse an export that does not do what the model does.

    Raises:
        ValueError: It ``holds`` not; ``found`` says by how much.
    """
    if not holds:
        raise ValueError(f"the export was verified, and is not kept: {found}")


def write_record(folder: Path, written: Written, graph: Graph, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write export.json: what the model is, what goes in and out, by what it was made, and what was verified."""
    format = fields["format"]
    versions = {name: version(name) for name in ("torch", *_NEEDS[format])}
    record = {
        **fields,
        **({"opset": OPSET} if format == "onnx" else {}),
        "file": written.path.name,
        "sha256": hashlib.sha256(written.path.read_bytes()).hexdigest(),
        "bytes": written.path.stat().st_size,
        **graph.signature(),
        "dynamic": {name: {"least": graph.least.get(name, 1)} for name in graph.dimensions},
        "versions": {"eru": eru.__version__, **versions},
    }
    write_json(folder / "export.json", record)
    return record
