"""Files and folders of pictures, answered one at a time: opened, shown to a predictor, and their answers saved."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eru.training import Progress
from vision.answers import Answer
from vision.backbone import SMALLEST_SIDE
from vision.pictures import list_pictures, open_picture, picture_suffixes, require_pillow
from vision.predictor import Predictor


@dataclass(frozen=True)
class Answered:
    """A file, what the model says about it, and the files that show it."""

    path: Path
    answer: Answer
    first_of_many: bool  # whether the file holds more pictures, of which only the first was looked at
    written: tuple[Path, ...]
    seconds: float  # from the picture in memory to the answer


@dataclass(frozen=True)
class Failure:
    """A file about which nothing can be said, and the reason in one line that names the file."""

    path: Path
    reason: str


def answer_files(
    predictor: Predictor, paths: Sequence[str | Path], out: str | Path | None = None
) -> Iterator[Answered | Failure]:
    """Answer about files and folders of pictures, one at a time; one that fails does not stop the others.

    What shows an answer is ``NAME.png`` (labels, overlay or boxes); for segmentation there is ``NAME.mask.png``,
    too, whose values are the classes. No input is ever overwritten. On a terminal a bar shows how many are done.

    Args:
        predictor: What answers.
        paths: Files and folders, see :func:`vision.pictures.list_pictures`.
        out: For one file ``NAME.png``; or a folder, made if need be, in which each picture gives its name to what
            shows its answer. A name that is taken by another gets a number: ``cat.png``, ``cat-2.png``. None writes
            nothing.

    Yields:
        A :class:`Answered` or a :class:`Failure` for every file, in order.

    Raises:
        ValueError: ``out`` does not fit ``paths``, a folder has no pictures, the model does not fit its dataset, or
            Pillow is not installed.
    """
    require_pillow()
    if out is not None and str(out).strip() in ("", "-"):
        raise ValueError(f"out={str(out)!r}: must be a name that ends in .png, or a folder")
    files = list_pictures(paths)
    targets = [None] * len(files) if out is None else _targets(paths, files, Path(out))
    with Progress(len(files), unit="pictures", quiet=len(files) == 1) as progress:
        for file, target in zip(files, targets, strict=True):
            yield _answer_file(predictor, file, target)
            progress.advance()


def _answer_file(predictor: Predictor, file: Path, target: Path | None) -> Answered | Failure:
    """Open a file, ask the predictor, and save its answer; only what is wrong with this file becomes a failure."""
    try:
        picture = open_picture(file)
    except ValueError as error:
        return Failure(file, str(error))
    if min(picture.size) < SMALLEST_SIDE:
        size = f"{picture.height}x{picture.width}"
        return Failure(file, f"{file}: too small, {size} (height x width): a side must have {SMALLEST_SIDE} pixels")
    try:
        start = time.perf_counter()
        answer = predictor(picture)
        seconds = time.perf_counter() - start
        written = () if target is None else answer.save(target)
    except ArithmeticError as error:
        return Failure(file, f"{file}: {error}")
    except OSError as error:
        return Failure(file, f"{file}: its answer cannot be written to {target}: {error.strerror or error}")
    return Answered(file, answer, "first_of_many" in picture.info, written, seconds)


def _targets(paths: Sequence[str | Path], files: Sequence[Path], out: Path) -> list[Path]:
    """Choose the file ``NAME.png`` of every picture."""
    taken = {_key(file) for file in files}
    if out.suffix.lower() == ".png" and not out.is_dir():
        if len(files) > 1 or Path(paths[0]).is_dir():
            raise ValueError(f"out={str(out)!r}: for several pictures or a folder it must be a folder")
        if taken & _keys(out):
            raise ValueError(f"out={str(out)!r}: would overwrite the picture itself")
        return [out]
    if out.suffix.lower() in picture_suffixes() and not out.is_dir():
        raise ValueError(f"out={str(out)!r}: must end in .png, or be a folder")
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={str(out)!r}: is a file, and neither a .png nor a folder")
    targets = []
    for file in files:
        target, number = out / f"{file.stem}.png", 1
        while taken & _keys(target):
            number += 1
            target = out / f"{file.stem}-{number}.png"
        taken |= _keys(target)
        targets.append(target)
    return targets


def _keys(target: Path) -> set[str]:
    """Return the keys of all files that may be written for a picture."""
    return {_key(target), _key(target.with_suffix(".mask.png"))}


def _key(path: Path) -> str:
    """Return what tells files apart on every system, also on those that take A and a for one letter."""
    return str(path.resolve()).casefold()
