"""Any picture file becomes one RGB picture, or one clear line that says why not."""

import re
import warnings
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Formats that Pillow names but does not decode itself: stubs, and EPS and WMF, which it hands to other programs.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
# The endings of pictures' names that Pillow may not know at all: of phones, of the web and of cameras.
_NOT_KNOWN = frozenset({".avif", ".heic", ".heif", ".hif", ".jxl", ".svg"})
_NOT_KNOWN |= {".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"}
# The text in a PNG file that says that it shows an answer and is no picture to ask about.
DRAWN = ("Software", "ERU vision: drawn answer")


def require_pillow() -> None:
    """Raise ``ValueError``, which says where Pillow comes from, if it is not installed."""
    if find_spec("PIL") is None:
        raise ValueError("pictures need Pillow, which is not installed: it comes with eru's extra 'vision'")


def open_picture(path: str | Path) -> "Image":
    """Read a picture file, in any format that Pillow decodes, as RGB, turned as its EXIF orientation says.

    Transparent parts become white, 16-bit greyscale is scaled to 8 bits, CMYK converted. Of an animation or a file of
    several pages the first is taken, and ``picture.info["first_of_many"]`` is True.

    Raises:
        ValueError: The file is not there, is not a picture, is damaged, has more pixels than Pillow's limit against
            decompression bombs, or has pixels whose range is not known; the message names it. Or Pillow is missing.
    """
    require_pillow()
    path = Path(path)
    if address := as_address(path):
        raise ValueError(f"{address}: an address, not a file: download it first")
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, not a picture' if path.is_dir() else 'no such file'}")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it could mend, and of large pictures below its limit.
            warnings.simplefilter("ignore")
            return _read(path)
    except Exception as error:  # on damaged files Pillow's decoders raise almost anything
        raise ValueError(f"{path}: {_reason(path, error)}") from error


def as_address(path: str | Path) -> str | None:
    """The address in the web that was given in place of a file, written as such: a path has lost one of its slashes.

    Example:
        >>> as_address(Path("https://example.org/cat.jpg")), as_address("cat.jpg")
        ('https://example.org/cat.jpg', None)
    """
    found = re.fullmatch(r"(https?|ftp|file|s3|gs):[/\\]+(.*)", str(path), re.IGNORECASE)
    return f"{found[1]}://{found[2]}" if found else None


def list_pictures(paths: Iterable[str | Path]) -> list[Path]:
    """The files that are meant: files as they are given, folders replaced by the pictures in them, each once.

    Of a folder, the files whose name ends as a picture's are taken, sorted by name, but not what shows an answer
    (:meth:`vision.answers.Answer.save`); its sub-folders are not entered. A folder without pictures is refused.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside = _look_into(path).pictures
        if not inside:
            raise ValueError(f"{path}: no pictures in this folder (no names that end as a picture's, such as .jpg)")
        found.extend(inside)
    return list(dict.fromkeys(found))


def passed_over(paths: Iterable[str | Path]) -> list[str]:
    """A line for each folder in which :func:`list_pictures` passes over what may have been meant."""
    lines = []
    for path in dict.fromkeys(map(Path, paths)):
        if path.is_dir():
            folder = _look_into(path)
            kinds = {
                "sub-folders": folder.folders,
                "pictures of formats that are not read here": folder.unread,
                "pictures that show answers": folder.drawn,
            }
            parts = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
            if parts:
                lines.append(f"{path}: passed over {'; '.join(parts)}")
    return lines


class _Folder(NamedTuple):
    """What is in a folder, each sorted by name."""

    pictures: list[Path]
    drawn: list[Path]  # what shows an answer
    unread: list[Path]
    folders: list[Path]


def _look_into(path: Path) -> _Folder:
    folder = _Folder([], [], [], [])
    known = picture_suffixes()
    others = _NOT_KNOWN | _registered().keys()
    for entry in sorted(path.iterdir()):
        suffix = entry.suffix.lower()
        if entry.is_dir():
            if not entry.name.startswith("."):
                folder.folders.append(entry)
        elif suffix in known and entry.is_file():
            (folder.drawn if _shows_answer(entry) else folder.pictures).append(entry)
        elif suffix in others:
            folder.unread.append(entry)
    return folder


def _shows_answer(path: Path) -> bool:
    from PIL import Image

    if path.suffix.lower() != ".png":
        return False
    key, text = DRAWN
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=("PNG",)) as file:
            return file.info.get(key) == text
    except Exception:  # a damaged picture is refused where it is opened
        return False


def _some(names: Sequence[Path]) -> str:
    return ", ".join(path.name for path in names[:3]) + (", ..." if len(names) > 3 else "")


def picture_suffixes() -> frozenset[str]:
    """The endings of the names of pictures, in lower case."""
    formats = _formats()
    return frozenset(suffix for suffix, name in _registered().items() if name in formats)


def _registered() -> dict[str, str]:
    """The formats that Pillow names, by the endings of the files' names."""
    from PIL import Image

    return Image.registered_extensions()


def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.OPEN if name not in _NOT_DECODED)


def _read(path: Path) -> "Image":
    from PIL import Image, ImageOps

    if not path.stat().st_size:
        raise ValueError("the file is empty")
    with Image.open(path, formats=_formats()) as file:
        file.load()
        # A second picture in a photograph's file is a preview of the first, or its depth.
        several = file.format != "MPO" and getattr(file, "is_animated", False)
        try:
            upright = ImageOps.exif_transpose(file)
        except Exception:  # damaged EXIF data says nothing about the pixels
            upright = file
        picture = _to_rgb(upright)
    picture.info = {"first_of_many": True} if several else {}
    return picture


def _to_rgb(picture: "Image") -> "Image":
    from PIL import Image

    if picture.mode.startswith("I"):  # greyscale of 16 bits, which some formats and versions of Pillow hold in 32
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its pixels range from {values.min()} to {values.max()}: must be within 0..65535")
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known: convert it to 8 or 16 bits")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _reason(path: Path, error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or in a format that Pillow cannot read"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more pixels than the limit of {2 * (Image.MAX_IMAGE_PIXELS or 0):,}"
    said = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return f"cannot be read: {said}"
