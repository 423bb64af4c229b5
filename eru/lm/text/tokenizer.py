"""Tokenizers: what all of them do, and how one is built from a text or read back from its folder.

Those of words and characters look units up in a list (vocabulary.py); that of sentencepiece learns parts of words
(subword.py).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

from eru.lm.text.subword import SentencePieceTokenizer
from eru.lm.text.vocabulary import CharTokenizer, WordTokenizer
from eru.storage import read_json

TokenizerKind = Literal["word", "sentencepiece", "char"]


class Tokenizer(Protocol):
    """Lines of text to token ids and back.

    Attributes:
        vocab_size: Ids run from 0 to ``vocab_size - 1``.
        eos: The id that ends a line; `encode` does not append it.
        unknown: The id of whatever the vocabulary lacks.
    """

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    @property
    def eos(self) -> int: ...  # noqa: D102

    @property
    def unknown(self) -> int: ...  # noqa: D102

    def encode(self, line: str) -> list[int]:
        """The ids of one line, given without its newline."""
        ...

    def lacking(self, line: str) -> list[str]:
        """The words or characters of one line that the vocabulary lacks, in order."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; ``eos`` becomes a newline."""
        ...

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` (and ``tokenizer.model``, if need be) into a folder for `load_tokenizer`."""
        ...


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
    fields = read_json(path)
    try:
        if fields["kind"] not in _CLASSES:
            raise ValueError(f"kind={fields['kind']!r}: must be one of {', '.join(_CLASSES)}")
        return _CLASSES[fields["kind"]].from_saved(fields, path.parent)
    except OSError as error:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}") from error
    except KeyError as error:
        raise ValueError(f"{path}: not a tokenizer saved by eru: has no {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a tokenizer saved by eru: {error}") from error
