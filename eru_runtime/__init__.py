"""Runs models that ERU exported, without PyTorch: NumPy and ONNX Runtime alone."""

from pathlib import Path

from eru_runtime.classifier import Classification, Classifier
from eru_runtime.detector import Detections, Detector
from eru_runtime.folder import Folder
from eru_runtime.language_model import LanguageModel
from eru_runtime.recurrent import Reader
from eru_runtime.segmenter import Segmentation, Segmenter

__version__ = "0.1.0"

__all__ = [
    "Classification",
    "Classifier",
    "Detections",
    "Detector",
    "LanguageModel",
    "Reader",
    "Segmentation",
    "Segmenter",
    "load",
]

_KINDS = {
    "language-model": LanguageModel,
    "classification": Classifier,
    "segmentation": Segmenter,
    "detection": Detector,
}


def load(folder: str | Path, threads: int | None = None) -> LanguageModel | Classifier | Segmenter | Detector:
    """Open an exported model.

    Args:
        folder: What ERU's command ``export`` wrote, in the format ``onnx``.
        threads: How many threads compute; None takes one for each core. A language model of a few million weights is
            often faster with a single one, above all where other programs compute, too.

    Raises:
        TypeError: The folder is no path.
        ValueError: There is no such folder, or something in it is missing, damaged or of another format; the message
            names it. Or ``threads`` is below 1.
    """
    opened = Folder(folder)
    if not isinstance(kind := opened.field("kind"), str) or kind not in _KINDS:
        raise opened.misfit(f"kind={kind!r}: must be one of {', '.join(_KINDS)}")
    return _KINDS[kind](opened, threads)
