"""Tokenizers that look whole units up in a list: words between white space, or characters."""

from collections.abc import Iterable, Sequence

from eru_runtime.checks import whole_number


class VocabularyTokenizer:
    r"""Units of text with an id each.

    Args:
        types: The unit of every id, in the order of the ids; each occurs once.
        unknown: The id for units that are not among the types.
        eos: The id that ends a line.
        words: Whether the units are words between white space; otherwise they are single characters.

    Raises:
        ValueError: A type is no string or occurs twice, or an id is out of range.

    Example:
        >>> tokenizer = VocabularyTokenizer(["<unk>", "<eos>", "the", "cat"], unknown=0, eos=1, words=True)
        >>> tokenizer.encode("the  black cat")
        [2, 0, 3]
        >>> tokenizer.decode([2, 0, 3, 1])
        'the <unk> cat\n'
    """

    def __init__(self, types: Sequence[str], *, unknown: int, eos: int, words: bool) -> None:
        if not isinstance(types, list | tuple) or not types or not all(isinstance(unit, str) for unit in types):
            raise ValueError(f"types={types!r:.60}: must be a list of strings")
        self.types = tuple(types)
        self._ids = {unit: index for index, unit in enumerate(self.types)}
        if len(self._ids) < len(self.types):
            twice = next(unit for index, unit in enumerate(self.types) if self._ids[unit] != index)
            raise ValueError(f"types: {twice!r} occurs more than once")
        self.unknown, self.eos = special_ids(unknown, eos, len(self.types))
        self._words = words

    @property
    def vocab_size(self) -> int:
        """The number of types, special ones included."""
        return len(self.types)

    def encode(self, line: str) -> list[int]:
        """The ids of one line's units, ``unknown`` for those that have none."""
        units: Iterable[str] = line.split() if self._words else line
        return [self._ids.get(unit, self.unknown) for unit in units]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; ``eos`` becomes a newline."""
        separator = " " if self._words else ""
        return "\n".join(separator.join(self.types[index] for index in line) for line in split_at(self.eos, ids))


def special_ids(unknown: int, eos: int, count: int) -> tuple[int, int]:
    """The two special ids, checked against the number of types.

    Raises:
        ValueError: One is out of range, or both are the same.

    Example:
        >>> special_ids(0, 1, count=10)
        (0, 1)
    """
    if unknown == eos:
        raise ValueError(f"unknown=eos={eos!r}: must be two ids")
    return whole_number("unknown", unknown, 0, count - 1), whole_number("eos", eos, 0, count - 1)


def split_at(eos: int, ids: Iterable[int]) -> list[list[int]]:
    """The runs of ids between the ends of lines; one more than there are ends.

    Example:
        >>> split_at(1, [5, 1, 6, 7])
        [[5], [6, 7]]
    """
    runs: list[list[int]] = [[]]
    for index in ids:
        if index == eos:
            runs.append([])
        else:
            runs[-1].append(index)
    return runs
