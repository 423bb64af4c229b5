"""A corpus as token ids in memory-mapped files, encoded once and kept in the cache."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eru.lm.text.corpus import Corpus
from eru.lm.text.tokenizer import Tokenizer
from eru.storage import cache_dir, new_folder

# Raise it whenever the same text and tokenizer give other tokens, so that no older cached file is read.
_FORMAT = b"2"


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


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer) -> dict[str, TokenSplit]:
    """Encode every split, or reopen what an earlier call encoded from the same text with the same tokenizer.

    Memory stays bounded by the longest line, however large the files are.

    Raises:
        ValueError: A split has fewer than two tokens besides the ends of lines, or the cached files are damaged.
    """
    folder = cache_dir() / "tokens" / _key(corpus, tokenizer)
    if not folder.is_dir():
        with new_folder(folder) as draft:
            dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
            sizes = {split: _encode(corpus, split, tokenizer, draft / f"{split}.bin", dtype) for split in corpus.files}
            (draft / "tokens.json").write_text(json.dumps({"dtype": dtype.str, "splits": sizes}))
    try:
        fields = json.loads((folder / "tokens.json").read_text())
        return {
            split: _open(folder / f"{split}.bin", fields["dtype"], **fields["splits"][split]) for split in corpus.files
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the token files in {folder} are damaged ({error}); delete that folder") from error


def _key(corpus: Corpus, tokenizer: Tokenizer) -> str:
    """The name of a folder in the cache, which tells apart texts and tokenizers that give other tokens."""
    digest = hashlib.sha256(_FORMAT + corpus.fingerprint.encode())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        for file in sorted(Path(folder).iterdir()):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _encode(corpus: Corpus, split: str, tokenizer: Tokenizer, target: Path, dtype: np.dtype) -> dict[str, int]:
    """Stream one split into a file and return its numbers of tokens, bytes and unknown tokens."""
    tokens = lines = text_bytes = unknown = 0
    with target.open("wb") as file:
        for line in corpus.lines(split):
            ids = [*tokenizer.encode(line), tokenizer.eos]
            file.write(np.array(ids, dtype).tobytes())
            lines += 1
            tokens += len(ids)
            unknown += ids.count(tokenizer.unknown)
            text_bytes += len(line.encode()) + 1
    if tokens - lines < 2:
        raise ValueError(f"{corpus.path(split)}: has {tokens - lines} token(s); a split needs at least 2")
    return {"tokens": tokens, "bytes": text_bytes, "unknown": unknown}


def _open(path: Path, dtype: str, *, tokens: int, bytes: int, unknown: int) -> TokenSplit:
    if path.stat().st_size != tokens * np.dtype(dtype).itemsize:
        raise ValueError(f"{path.name} has the wrong size")
    return TokenSplit(np.memmap(path, dtype, mode="r", shape=(tokens,)), bytes, unknown)
