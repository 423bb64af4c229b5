"""A corpus as token ids in memory-mapped files, encoded once and kept in the cache."""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from eru.lm.text.corpus import Corpus
from eru.lm.text.tokenizer import Tokenizer
from eru.sealed import load_sealed_json, save_sealed_json
from eru.storage import cache_dir, new_folder
from eru.training import counted
from eru.warn import warn_once

# Raise it whenever the same text and tokenizer give other tokens, so that no older cached file is read.
_FORMAT = b"3"
_PART = 8 << 20  # bytes of text that are encoded at a time
_DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class TokenSplit:
    """The tokens of one split; every line ends with the tokenizer's ``eos``.

    Attributes:
        ids: The tokens, 1-D, uint16 or uint32, mapped from a file.
        bytes: UTF-8 bytes of the text, counting one for the end of each line.
        unknown: How many of the tokens are the tokenizer's unknown one.
    """

    ids: np.ndarray
    bytes: int
    unknown: int

    @property
    def unknown_rate(self) -> float:
        """The share of unknown tokens, from 0 to 1."""
        return self.unknown / len(self.ids)


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer, *, quiet: bool = True) -> dict[str, TokenSplit]:
    """Encode every split, or reopen what an earlier call encoded from the same text with the same tokenizer.

    On Linux all processors share the work. Memory stays bounded by a few parts of 8 MB, or by the longest line,
    however large the files are. What was encoded lies in the cache; files there that are damaged are named in a
    warning and made again, and those that nothing has used for a month removed.

    Args:
        corpus: The text.
        tokenizer: What encodes it.
        quiet: Show no progress.

    Raises:
        ValueError: A split has fewer than two tokens besides the ends of lines, or the cache cannot be written.
    """
    folder = cache_dir() / "tokens" / _key(corpus, tokenizer)
    if folder.is_dir():
        try:
            splits = _open_all(corpus, folder)
        except ValueError as error:
            warn_once(f"the token files in {folder} are damaged ({error}) and made again")
            shutil.rmtree(folder, ignore_errors=True)
        else:
            with suppress(OSError):  # The cache may be for reading only.
                os.utime(folder)
            return splits
    with new_folder(folder) as draft:
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        options = (tokenizer, dtype, quiet)
        encoded = {split: _encode(corpus, split, draft / f"{split}.bin", *options) for split in corpus.files}
        save_sealed_json({"dtype": dtype.str, "splits": encoded}, draft / "tokens.json")
    _prune(folder.parent)
    return _open_all(corpus, folder)


def _prune(folder: Path) -> None:
    """Remove what nothing has used for a month, and what a killed process left half made a day ago."""
    for entry in folder.iterdir():
        kept = _DAY if entry.suffix == ".tmp" else 30 * _DAY
        with suppress(OSError):  # Another process may have removed it.
            if time.time() - entry.stat().st_mtime > kept:
                shutil.rmtree(entry)


def _key(corpus: Corpus, tokenizer: Tokenizer) -> str:
    """The name of a folder in the cache, which tells apart texts and tokenizers that give other tokens."""
    digest = hashlib.sha256(_FORMAT + corpus.fingerprint.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        for file in sorted(Path(folder).iterdir()):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _encode(
    corpus: Corpus, split: str, target: Path, tokenizer: Tokenizer, dtype: np.dtype, quiet: bool
) -> dict[str, int | str]:
    """Stream one split into a file and return its numbers of tokens, bytes and unknown tokens, and its digest."""
    parts = _Parts(corpus, split, tokenizer, dtype)
    several = min(len(parts), len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1
    loader = DataLoader(
        parts,
        batch_size=None,
        num_workers=several if several > 1 else 0,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # The loader draws a number, which must not move the training's own chance.
    )
    total, digest = np.zeros(4, np.int64), hashlib.sha256()
    size = corpus.path(split).stat().st_size
    with (
        target.open("wb") as file,
        counted(size, f"encoding {split}.txt", unit="bytes", quiet=quiet) as count,
    ):
        for content, counts in loader:
            file.write(content)
            digest.update(content)
            total += counts
            count(int(counts[2]))
    tokens, unknown, text_bytes, lines = total.tolist()
    if tokens - lines < 2:
        raise ValueError(f"{corpus.path(split)}: has {tokens - lines} token(s); a split needs at least 2")
    return {"tokens": tokens, "bytes": text_bytes, "unknown": unknown, "sha256": digest.hexdigest()}


class _Parts(Dataset):
    """The parts of a split.

    Of each its tokens, as they are to lie in the file, and how many tokens, unknown ones, bytes and lines it has.
    """

    def __init__(self, corpus: Corpus, split: str, tokenizer: Tokenizer, dtype: np.dtype) -> None:
        self._corpus, self._split, self._tokenizer, self._dtype = corpus, split, tokenizer, dtype
        self._parts = corpus.parts(split, _PART)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, number: int) -> tuple[bytes, np.ndarray]:
        tokenizer, chunks, counts = self._tokenizer, [], np.zeros(4, np.int64)
        for line in self._corpus.lines(self._split, self._parts[number]):
            ids = [*tokenizer.encode(line), tokenizer.eos]
            chunks.append(np.array(ids, self._dtype).tobytes())
            counts += len(ids), ids.count(tokenizer.unknown), len(line.encode()) + 1, 1
        return b"".join(chunks), counts


def _as_it_is(part: Any) -> Any:
    return part


def _open_all(corpus: Corpus, folder: Path) -> dict[str, TokenSplit]:
    """What a folder of the cache holds.

    Raises:
        ValueError: A file is missing, or is not what was written.
    """
    try:
        fields = load_sealed_json(folder / "tokens.json")
        return {
            split: _open(folder / f"{split}.bin", fields["dtype"], **fields["splits"][split]) for split in corpus.files
        }
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(error) from error


def _open(path: Path, dtype: str, *, tokens: int, bytes: int, unknown: int, sha256: str) -> TokenSplit:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError(f"{path.name} is not what was written (its SHA-256 differs)")
    return TokenSplit(np.memmap(path, dtype, mode="r", shape=(tokens,)), bytes, unknown)
