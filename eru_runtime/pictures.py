"""A picture as an array, from one or from a file."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Stubs, and formats that Pillow hands to other programs, which no picture of a stranger's should start.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


def read_picture(picture: np.ndarray | str | Path) -> np.ndarray:
    """The pixels (H, W, 3) of a picture, uint8: red, green and blue.

    Args:
        picture: An array of that shape and type, or the path of a file in any format that Pillow decodes. A file's
            picture is turned as its EXIF orientation says, what is transparent becomes white, and greyscale of
            16 bits is scaled to 8.

    Raises:
        TypeError: It is neither.
        ValueError: The array has another shape or type, the file cannot be read, or Pillow is missing.

    Example:
        >>> read_picture(np.zeros((20, 30, 3), dtype=np.uint8)).shape
        (20, 30, 3)
    """
    if isinstance(picture, str | Path):
        return _open(Path(picture))
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"picture={picture!r:.60}: must be an array (H, W, 3) of uint8, or the path of a file")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise ValueError(f"picture: is {picture.dtype} {picture.shape}: must be uint8 (H, W, 3), neither side 0")
    return picture


def _open(path: Path) -> np.ndarray:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError(
            f"{path}: files need Pillow, which is not installed (pip install 'eru-runtime[pictures]'); arrays do not"
        ) from error
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder, not a picture' if path.is_dir() else 'no such file'}")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what it could mend, and of large pictures below its limit.
            warnings.simplefilter("ignore")
            Image.init()
            with Image.open(path, formats=sorted(Image.OPEN.keys() - _NOT_DECODED)) as file:
                file.load()
                try:
                    turned = ImageOps.exif_transpose(file)
                except Exception:  # what says how to turn it is damaged, and the picture is not
                    turned = file
                return np.asarray(_to_rgb(turned))
    except Exception as error:  # on damaged files Pillow's decoders raise almost anything
        raise ValueError(f"{path}: cannot be read as a picture: {error}") from error


def _to_rgb(picture: "Image") -> "Image":
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known")
    if picture.mode.startswith("I"):  # greyscale of 16 bits, which some formats and versions of Pillow hold in 32
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its grey values must be within 0..65535")
        picture = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
