"""Tokenizers that look whole units up in a list: words between white space, or characters."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from eru.sealed import save_sealed_json

UNKNOWN = "<unk>"
EOS = "<eos>"


class _VocabularyTokenizer:
    """Units of text with an id each.

    Args:
        types: The unit of every id, in the order of the ids; each occurs once.
        unknown: The id for units that are not among the types.
        eos: The id that ends a line.

    Raises:
        ValueError: A type is not a string or occurs twice, or an id is out of range.
    """

    kind: ClassVar[str]
    _separator: ClassVar[str]  # between two units of a line
    _least_count: ClassVar[int]  # of a unit that a vocabulary without a size limit keeps

    def __init__(self, types: Sequence[str], *, unknown: int, eos: int) -> None:
        self.types = tuple(types)
        self._ids = {unit: index for index, unit in enumerate(self.types)}
        if not all(isinstance(unit, str) for unit in self.types):
            raise ValueError("types: must all be strings")
        if len(self._ids) < len(self.types):
            twice = Counter(self.types).most_common(1)[0][0]
            raise ValueError(f"types: {twice!r} occurs more than once")
        for name, index in (("unknown", unknown), ("eos", eos)):
            if not isinstance(index, int) or not 0 <= index < len(self.types):
                raise ValueError(f"{name}={index!r}: must be an id from 0 to {len(self.types) - 1}")
        if unknown == eos:
            raise ValueError(f"unknown=eos={eos}: must be two ids")
        self.unknown = unknown
        self.eos = eos

    @property
    def vocab_size(self) -> int:
        """The number of types, special tokens included."""
        return len(self.types)

    @classmethod
    def build(cls, lines: Iterable[str], vocab_size: int | None = None) -> Self:
        """Collect the types of a text: ``<unk>``, ``<eos>``, then by falling count, equal counts by alphabet.

        Without a limit on their number, words seen only once make way for ``<unk>``, so that ``<unk>`` is trained,
        unless the text marks unknown words itself, as the Penn Treebank's does.

        Raises:
            ValueError: The text is empty, or ``vocab_size`` leaves no room beside the special types.
        """
        counts = Counter(unit for line in lines for unit in cls._units(line))
        if not counts:
            raise ValueError("lines: the training text is empty")
        if vocab_size is not None and vocab_size < 3:
            raise ValueError(f"vocab_size={vocab_size}: must be at least 3, two of them for {UNKNOWN} and {EOS}")
        least = 1 if vocab_size is not None or UNKNOWN in counts else cls._least_count
        kept = {unit for unit, count in counts.items() if count >= least} - {UNKNOWN, EOS}
        ranked = sorted(kept, key=lambda unit: (-counts[unit], unit))
        room = None if vocab_size is None else vocab_size - 2
        return cls([UNKNOWN, EOS, *ranked[:room]], unknown=0, eos=1)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` into ``folder``, which is made where it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_sealed_json(self.plain(), Path(folder) / "tokenizer.json")

    def plain(self) -> dict[str, Any]:
        """All that encodes and decodes, as JSON can express it, for programs without this package."""
        return {"kind": self.kind, "unknown": self.unknown, "eos": self.eos, "types": self.types}

    def encode(self, line: str) -> list[int]:
        """The ids of one line's units, ``unknown`` for those that have none."""
        find, unknown = self._ids.get, self.unknown
        return [find(unit, unknown) for unit in self._units(line)]

    def lacking(self, line: str) -> list[str]:
        """The units of one line that have no id, in order."""
        return [unit for unit in self._units(line) if unit not in self._ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; ``eos`` becomes a newline."""
        return "\n".join(self._separator.join(self.types[index] for index in line) for line in split_at(self.eos, ids))

    @classmethod
    def _units(cls, line: str) -> Iterable[str]:
        return line.split() if cls._separator else line


class WordTokenizer(_VocabularyTokenizer):
    """Words between white space; ``<unk>`` in the text is the unknown token, ``<eos>`` the end of a line.

    Example:
        >>> tokenizer = WordTokenizer.build(["b a b", "a b c"])
        >>> tokenizer.types
        ('<unk>', '<eos>', 'b', 'a')
        >>> tokenizer.encode("a b c")
        [3, 2, 0]
    """

    kind = "word"
    _separator = " "
    _least_count = 2

    @classmethod
    def from_vocab(cls, vocab: Any) -> Self:
        """Take over torchtext's ``Vocab`` with its ids, without torchtext.

        Args:
            vocab: A new or legacy ``Vocab``, recognised by its methods. The unknown token is its ``<unk>``, else its
                default index. ``<unk>`` and ``<eos>`` are appended where it has none.

        Raises:
            TypeError: It is no ``Vocab``.
            ValueError: A word occurs twice.

        Example:
            >>> from types import SimpleNamespace
            >>> vocab = SimpleNamespace(itos=["<unk>", "hello", "<eos>"])
            >>> WordTokenizer.from_vocab(vocab).encode("hello world")
            [1, 0]
        """
        if hasattr(vocab, "get_itos"):
            types, default = list(vocab.get_itos()), vocab.get_default_index()
        elif hasattr(vocab, "itos"):
            types, default = list(vocab.itos), getattr(vocab, "unk_index", None)
        else:
            raise TypeError(f"vocab: must be torchtext's Vocab, not {type(vocab).__name__}")
        special = [EOS] if default is not None else [UNKNOWN, EOS]
        types += [unit for unit in special if unit not in types]
        unknown = types.index(UNKNOWN) if default is None or UNKNOWN in types else default
        return cls(types, unknown=unknown, eos=types.index(EOS))


class CharTokenizer(_VocabularyTokenizer):
    r"""Single characters.

    Example:
        >>> tokenizer = CharTokenizer.build(["hello"])
        >>> tokenizer.decode([*tokenizer.encode("hole"), tokenizer.eos])
        'hole\n'
    """

    kind = "char"
    _separator = ""
    _least_count = 1


def split_at(eos: int, ids: Iterable[int]) -> list[list[int]]:
    """The runs of ids between the ends of lines; one more than there are ends."""
    runs: list[list[int]] = [[]]
    for index in ids:
        if index == eos:
            runs.append([])
        else:
            runs[-1].append(int(index))
    return runs
