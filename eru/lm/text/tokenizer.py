"""Tokenizers: what all of them do, and how one is built from a text or read back from its folder."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from eru.lm.text.subword import SentencePieceTokenizer
from eru.lm.text.vocabulary import CharTokenizer, WordTokenizer
from eru.sealed import load_sealed_json

TokenizerKind = Literal["word", "sentencepiece", "char"]


Tokenizer = WordTokenizer | CharTokenizer | SentencePieceTokenizer
"""Lines of text, without their newlines, to token ids and back.

All have ``vocab_size``, above all ids; ``eos``, the id that ends a line, which ``encode`` does not append; and
``unknown``, the id of whatever the vocabulary lacks. ``save`` writes what `load_tokenizer` reads.
"""
_CLASSES = {"word": WordTokenizer, "char": CharTokenizer, "sentencepiece": SentencePieceTokenizer}


def build_tokenizer(kind: TokenizerKind, lines: Iterable[str], vocab_size: int | None = None) -> Tokenizer:
    """Make a tokenizer from training text.

    Args:
        kind: ``word``, ``sentencepiece`` or ``char``.
        lines: The training text, line by line.
        vocab_size: Most ids that the vocabulary may have, special tokens included. Without it: 4000 for
            ``sentencepiece``; for ``char`` every character; for ``word`` every word of a text that marks unknown
            words with ``<unk>`` itself, as the Penn Treebank's does, and of other texts every word seen twice.

    Raises:
        ValueError: The kind is unknown, the size too small, or the text empty.

    Example:
        >>> tokenizer = build_tokenizer("word", ["the cat saw the dog", "the dog saw"])
        >>> tokenizer.decode(tokenizer.encode("the dog ran"))
        'the dog <unk>'
    """
    if kind not in _CLASSES:
        raise ValueError(f"kind={kind!r}: must be one of {', '.join(_CLASSES)}")
    return _CLASSES[kind].build(lines, vocab_size)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read the tokenizer that ``save`` wrote into ``folder``.

    Raises:
        ValueError: A file is missing, damaged, or of another kind.
    """
    path = Path(folder) / "tokenizer.json"
    fields = load_sealed_json(path)
    try:
        kind = fields["kind"]
        if kind not in _CLASSES:
            raise ValueError(f"kind={kind!r}: must be one of {', '.join(_CLASSES)}")
        if kind == "sentencepiece":
            file = path.parent / "tokenizer.model"
            digest = hashlib.sha256(model := file.read_bytes()).hexdigest()
            if fields.get("model", digest) != digest:
                raise ValueError(f"{file} is not what was written (its SHA-256 differs)")
            return SentencePieceTokenizer(model)
        return _CLASSES[kind](fields["types"], unknown=fields["unknown"], eos=fields["eos"])
    except OSError as error:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}") from error
    except KeyError as error:
        raise ValueError(f"{path}: not a tokenizer saved by eru: has no {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a tokenizer saved by eru: {error}") from error
