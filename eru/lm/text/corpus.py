"""A corpus: three files of UTF-8 text, known by their content."""

import codecs
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from eru.lm.text.ptb import ptb_files
from eru.lm.text.stdlib import stdlib_files
from eru.storage import cache_dir as cache_dir

SPLITS = ("train", "valid", "test")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """Text in three splits: ``train``, ``valid`` and ``test``.

    Attributes:
        name: ``ptb``, ``stdlib`` or the absolute path of a folder.
        files: The file of each split.
        fingerprint: SHA-256, as hexadecimal digits, over the SHA-256 digests of the three files in the order train,
            valid, test; so a line moved from one split to another changes it too.
    """

    name: str
    files: Mapping[str, Path]
    fingerprint: str

    def path(self, split: str) -> Path:
        """The file of one split.

        Args:
            split: ``train``, ``valid`` or ``test``.

        Raises:
            ValueError: There is no such split.
        """
        if split not in self.files:
            raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
        return self.files[split]

    def bytes(self, split: str) -> int:
        """The size of one split's file in bytes."""
        return self.path(split).stat().st_size

    def lines(self, split: str) -> Iterator[str]:
        """Stream the lines of one split, without their ends."""
        with self.path(split).open(encoding="utf-8-sig") as file:
            for line in file:
                yield line.removesuffix("\n")


def load_corpus(name: str, data_dir: str | Path | None = None) -> Corpus:
    r"""Find a corpus, or make it, and read it once to check and to fingerprint it.

    Args:
        name: ``stdlib``, the documentation of this Python's standard library, built on first use; ``ptb``, the Penn
            Treebank; or the path of a folder that holds ``train.txt``, ``valid.txt`` and ``test.txt``.
        data_dir: For ``ptb`` only: the one folder to look in, instead of the usual places (see `eru.lm.text.ptb`).

    Raises:
        ValueError: The corpus is unknown, or a file is missing, empty, altered (``ptb``) or not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for split in SPLITS:
        ...         _ = Path(folder, f"{split}.txt").write_text(f"one {split} line\n")
        ...     list(load_corpus(folder).lines("valid"))
        ['one valid line']
    """
    name = str(name)
    if data_dir is not None and name != "ptb":
        raise ValueError(f"data_dir={str(data_dir)!r}: only for the corpus 'ptb'; of others, name the folder itself")
    if name == "ptb":
        files = ptb_files(data_dir)
    elif name == "stdlib":
        files = stdlib_files()
    else:
        files = _folder_files(name)
        name = str(Path(name).expanduser().resolve())
    digests = b"".join(_checked_digest(files[split]) for split in SPLITS)
    return Corpus(name, files, hashlib.sha256(digests).hexdigest())


def _folder_files(name: str) -> dict[str, Path]:
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(
            f"unknown corpus {name!r}: must be 'stdlib', 'ptb' or a folder with train.txt, valid.txt and test.txt"
        )
    files = {split: folder / f"{split}.txt" for split in SPLITS}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise ValueError(f"corpus {name!r}: the folder {folder} has no {', '.join(missing)}")
    return files


def _checked_digest(path: Path) -> bytes:
    """SHA-256 of a file, which must be UTF-8 and hold more than white space."""
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    has_text = False
    position = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                has_text |= bool(decoder.decode(chunk).strip())
                position += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text near byte {position + error.start}") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if not has_text:
        raise ValueError(f"{path}: the file is empty")
    return digest.digest()
