"""Subwords by sentencepiece's unigram model, with bytes for whatever has no piece, without sentencepiece."""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from eru_runtime.vocabulary import special_ids, split_at

_SPACE = "\u2581"  # how a space is written in the pieces
_PENALTY = 10  # how far below the worst piece a character without a piece is scored
_UNKNOWN_TEXT = " \u2047 "  # what sentencepiece writes for the unknown piece
_KINDS = ("normal", "byte", "unknown", "control")
_NOT_DECODED = re.compile("[\udc80-\udcff]")  # what Python writes for a byte that is no part of a character


class UnigramTokenizer:
    """Subwords, of which a line gets those whose scores have the largest sum.

    Text stays as it is: nothing is normalised, put before a line or taken away, except that ``▁`` (U+2581), which
    stands for a space, comes back as a space.

    Args:
        pieces: The piece of every id; that of a byte is written ``<0x41>``.
        scores: The score of every piece, the logarithm of its probability.
        types: Of every piece ``"normal"``, ``"byte"``, ``"unknown"`` or ``"control"``; only the first are matched.
        unknown: The id of the unknown piece, to which no text is encoded, since every byte has a piece.
        eos: The id that ends a line.

    Raises:
        ValueError: The lists do not fit, a byte has no piece, or an id is out of range.

    Example:
        >>> special, a_byte = ["<unk>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
        >>> types = ["unknown", "control"] + ["byte"] * 256 + ["normal"] * 3
        >>> scores = [0.0] * 258 + [-1.0, -2.0, -2.5]
        >>> tokenizer = UnigramTokenizer([*special, *a_byte, "a", "b", "ab"], scores, types, unknown=0, eos=1)
        >>> tokenizer.encode("aab")
        [258, 260]
        >>> tokenizer.decode(tokenizer.encode("abé"))
        'abé'
    """

    def __init__(
        self, pieces: Sequence[str], scores: Sequence[float], types: Sequence[str], *, unknown: int, eos: int
    ) -> None:
        _check(pieces, scores, types)
        self.unknown, self.eos = special_ids(unknown, eos, len(pieces))
        self._pieces, self._types = tuple(pieces), tuple(types)
        ids = {piece: index for index, piece in enumerate(pieces) if types[index] == "byte"}
        try:
            self._byte_ids = [ids[f"<0x{byte:02X}>"] for byte in range(256)]
        except KeyError as error:
            raise ValueError(
                f"pieces: lack the byte {error.args[0]}, and each of the 256 must have a piece"
            ) from error
        self._bytes = {index: byte for byte, index in enumerate(self._byte_ids)}
        # Sums are of single precision, as in sentencepiece, so that of two almost equal ones the same is the larger.
        self._normal = {
            piece: (index, np.float32(scores[index]))
            for index, piece in enumerate(pieces)
            if types[index] == "normal" and piece
        }
        if not self._normal:
            raise ValueError("types: hold no 'normal' piece")
        self._longest = max(map(len, self._normal))
        self._unknown_score = min(score for _, score in self._normal.values()) - np.float32(_PENALTY)

    @property
    def vocab_size(self) -> int:
        """The number of pieces, the 256 bytes and the special ones included."""
        return len(self._pieces)

    def encode(self, line: str) -> list[int]:
        """The ids of one line's pieces.

        Raises:
            ValueError: The line holds half of a surrogate pair, which UTF-8 cannot express.
        """
        try:
            line.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"line={line!r}: cannot be expressed in UTF-8") from error
        ids: list[int] = []
        for piece in self._best_split(line.replace(" ", _SPACE)):
            if piece in self._normal:
                ids.append(self._normal[piece][0])
            else:
                ids += [self._byte_ids[byte] for byte in piece.encode()]
        return ids

    def _best_split(self, text: str) -> list[str]:
        """The pieces with the largest sum of scores that the text splits into, by Viterbi's algorithm."""
        sums = [np.float32(0)] + [np.float32(-math.inf)] * len(text)  # the best of each beginning of the text
        starts = [0] * len(sums)  # where the last piece of that best one begins
        for start in range(len(text)):
            for end in range(start + 1, min(start + self._longest, len(text)) + 1):
                if found := self._normal.get(text[start:end]):
                    score = found[1]
                elif end == start + 1:
                    score = self._unknown_score
                else:
                    continue
                if sums[start] + score > sums[end]:
                    sums[end], starts[end] = sums[start] + score, start
        pieces: list[str] = []
        end = len(text)
        while end:
            pieces.append(text[starts[end] : end])
            end = starts[end]
        return pieces[::-1]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; ``eos`` becomes a newline, and a byte that is no part of a character U+FFFD."""
        return "\n".join(self._decode_line(line) for line in split_at(self.eos, ids))

    def _decode_line(self, ids: Sequence[int]) -> str:
        parts: list[str] = []
        for is_bytes, run in groupby(ids, key=self._bytes.__contains__):
            if is_bytes:
                text = bytes(self._bytes[index] for index in run).decode(errors="surrogateescape")
                parts.append(_NOT_DECODED.sub("\ufffd", text))
            else:
                parts += map(self._text, run)
        return "".join(parts)

    def _text(self, index: int) -> str:
        """The text of a piece that is no byte."""
        special = {"control": "", "unknown": _UNKNOWN_TEXT}
        return special.get(self._types[index], self._pieces[index].replace(_SPACE, " "))


def _check(pieces: Sequence[str], scores: Sequence[float], types: Sequence[str]) -> None:
    for name, values, kinds in (
        ("pieces", pieces, (str,)),
        ("scores", scores, (int, float)),
        ("types", types, (str,)),
    ):
        if not isinstance(values, list | tuple) or not all(isinstance(value, kinds) for value in values):
            raise ValueError(f"{name}={values!r:.60}: must be a list of {'numbers' if float in kinds else 'strings'}")
    if not len(pieces) == len(scores) == len(types):
        counts = f"{len(pieces)} pieces, {len(scores)} scores, {len(types)} types"
        raise ValueError(f"pieces, scores and types: must be of one length, not {counts}")
    if not all(map(math.isfinite, scores)):
        raise ValueError("scores: must be finite numbers")
    if wrong := set(types) - set(_KINDS):
        raise ValueError(f"types: hold {min(wrong)!r}: must be among {', '.join(_KINDS)}")
