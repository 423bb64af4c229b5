"""A corpus: files of UTF-8 text, known by their content."""

import codecs
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from eru.lm.text.ptb import ptb_files
from eru.lm.text.stdlib import stdlib_files
from eru.lm.text.vocabulary import EOS

SPLITS = ("train", "valid", "test")
_CHUNK = 1 << 20
# How the files of the splits are called elsewhere, as in "wiki.train.tokens" and "dev.TXT".
_USUAL_NAMES = {"train": "train(ing)?", "valid": "val|valid(ation)?|dev", "test": "test"}


@dataclass(frozen=True)
class Corpus:
    """Text in three splits: ``train``, ``valid`` and ``test``.

    Attributes:
        name: ``ptb``, ``stdlib`` or the absolute path of a folder.
        files: The file of each split. A folder may lack the one of ``test``, which no training reads.
        fingerprint: SHA-256, as hexadecimal digits, over the SHA-256 digests of the files in the order train, valid,
            test. So a line moved from one split to another changes it, and so does a file added later.
    """

    name: str
    files: Mapping[str, Path]
    fingerprint: str

    def path(self, split: str) -> Path:
        """The file of one split.

        Raises:
            ValueError: There is no such split, or the corpus lacks its file.
        """
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
        if split not in self.files:
            raise ValueError(f"split={split!r}: {_what_is_missing(Path(self.name), [split])}")
        return self.files[split]

    def lines(self, split: str, part: tuple[int, int] | None = None) -> Iterator[str]:
        """Stream the lines of one split, or of one of its parts, without their ends.

        An end is a newline of any system. Where a line says ``<eos>`` just before it, as in the files of some other
        tools, both together are one end.
        """
        with self.path(split).open("rb") as file:
            start, end = part or (0, 0)
            file.seek(start)
            content = file if part is None else io.BytesIO(file.read(end - start))
            with io.TextIOWrapper(content, encoding="utf-8" if start else "utf-8-sig") as text:
                for line in text:
                    yield _without_end(line)

    def parts(self, split: str, size: int) -> list[tuple[int, int]]:
        """Where parts of whole lines, of at least ``size`` bytes each, begin and end in the file of one split."""
        cuts = [0]
        with self.path(split).open("rb") as file:
            total = file.seek(0, os.SEEK_END)
            while cuts[-1] < total:
                file.seek(min(cuts[-1] + size, total))
                file.readline()
                cuts.append(file.tell())
        return list(pairwise(cuts))


def _without_end(line: str) -> str:
    text = line.rstrip()
    if text.endswith(EOS):
        text = text.removesuffix(EOS)
        if not text or text[-1].isspace():
            return text.rstrip()
    return line.removesuffix("\n")


def load_corpus(name: str | Path, data_dir: str | Path | None = None) -> Corpus:
    r"""Find a corpus, or make it, and read it once to check and to fingerprint it.

    Args:
        name: ``stdlib``, the documentation of this Python's standard library, built on first use; ``ptb``, the Penn
            Treebank; or the path of a folder that holds ``train.txt``, ``valid.txt`` and, unless only training is
            wanted, ``test.txt``.
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
    digests = b"".join(_checked_digest(file) for file in files.values())
    return Corpus(name, files, hashlib.sha256(digests).hexdigest())


def _folder_files(name: str) -> dict[str, Path]:
    """The splits that a folder holds, in order."""
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(
            f"unknown corpus {name!r}: must be 'stdlib', 'ptb' or a folder with train.txt, valid.txt and test.txt"
        )
    files = {split: file for split in SPLITS if os.path.lexists(file := folder / f"{split}.txt")}
    if missing := [split for split in ("train", "valid") if split not in files]:
        raise ValueError(f"corpus {name!r}: {_what_is_missing(folder, missing)}")
    return files


def _what_is_missing(folder: Path, splits: Iterable[str]) -> str:
    """Name the files that a folder lacks, and those that seem to be meant for them."""
    hints = []
    for split in splits:
        meant = re.compile(rf"(?<![a-z])({_USUAL_NAMES[split]})(?![a-z])", re.IGNORECASE)
        found = sorted(file.name for file in folder.iterdir() if file.is_file() and meant.search(file.name))
        hints += [f"{found[0]} to {split}.txt"] if found else []
    missing = ", ".join(f"{split}.txt" for split in splits)
    return f"the folder {folder} has no {missing}" + (f": rename or copy {', '.join(hints)}" if hints else "")


def _checked_digest(path: Path) -> bytes:
    """SHA-256 of a file, which must be UTF-8 text and hold more than white space."""
    if not path.is_file():  # A pipe could be read only once, and a device has no end.
        raise ValueError(f"{path}: must be a file, not {_kind_of(path)}")
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    has_text, position = False, 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                if b"\0" in chunk:  # Text in UTF-16 without its mark at the beginning may be UTF-8 too.
                    place = position + chunk.index(b"\0")
                    raise ValueError(f"{path}: holds a NUL at byte {place}, so it is no UTF-8 text (is it UTF-16?)")
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


def _kind_of(path: Path) -> str:
    """What lies there in place of a file."""
    if path.is_symlink() and not path.exists():
        return "a link that leads nowhere"
    kinds = {"a folder": path.is_dir, "a pipe": path.is_fifo, "a socket": path.is_socket}
    return next((kind for kind, is_that in kinds.items() if is_that()), "a device")
