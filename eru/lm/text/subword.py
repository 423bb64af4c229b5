"""Subwords by sentencepiece's unigram model, with bytes for whatever has no piece."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import sentencepiece

from eru.lm.text.vocabulary import split_at
from eru.sealed import save_sealed_json
from eru.storage import atomic_write

_SPACE = "\u2581"  # sentencepiece's own sign for a space
_DEFAULT_VOCAB_SIZE = 4000
_LEAST_VOCAB_SIZE = 259  # 256 bytes, <unk>, </s> and one piece
_TRAINING_LINES = 1_000_000  # sentencepiece holds them in memory
_LINE_LENGTH = 1000  # in characters; sentencepiece drops longer lines in silence
_SILENT = 4  # above FATAL, sentencepiece's highest level


class SentencePieceTokenizer:
    """Subwords of a sentencepiece model.

    Decoding gives an encoded line back as it was. Only ``▁`` (U+2581), sentencepiece's own sign for a space, comes
    back as a space.

    Args:
        model: The content of a ``.model`` file with a piece that ends a line (``</s>``) and byte fallback.

    Raises:
        ValueError: The model is damaged, or lacks ``</s>``.

    Example:
        >>> tokenizer = SentencePieceTokenizer.build(["a rose is a rose is a rose"] * 9, vocab_size=280)
        >>> tokenizer.decode(tokenizer.encode("a rosé"))
        'a rosé'
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"the sentencepiece model is damaged: {error}") from error
        self.unknown = self._processor.unk_id()  # No text is encoded to it, since every byte has a piece.
        self.eos = self._processor.eos_id()
        if self.eos < 0:
            raise ValueError("the sentencepiece model has no </s>")

    @property
    def vocab_size(self) -> int:
        """The number of pieces, the 256 bytes and two special ones included."""
        return self._processor.get_piece_size()

    @classmethod
    def build(cls, lines: Iterable[str], vocab_size: int | None = None) -> Self:
        """Train a unigram model, in one thread and always to the same result.

        Of a very large text the first million lines are used. One too small for so many pieces gets fewer.

        Raises:
            ValueError: The text is empty, or ``vocab_size`` is too small for the bytes and the frequent characters.
        """
        wanted = _DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
        if wanted < _LEAST_VOCAB_SIZE:
            raise ValueError(f"vocab_size={wanted}: must be at least {_LEAST_VOCAB_SIZE}, 256 of them for the bytes")
        short = islice(_short_lines(lines), _TRAINING_LINES)
        first = next(short, None)
        if first is None:
            raise ValueError("lines: the training text is empty")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=chain([first], short),
                model_writer=model,
                model_type="unigram",
                vocab_size=wanted,
                hard_vocab_limit=False,
                byte_fallback=True,
                # White space and signs stay as they are, so that decoding gives the line back.
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                # A space is a piece even where the text has next to none, as in Chinese or Japanese. Otherwise a space
                # would become the bytes of the sign that stands for it, and come back as that sign.
                required_chars=_SPACE,
                unk_id=0,
                eos_id=1,
                bos_id=-1,
                pad_id=-1,
                num_threads=1,
                minloglevel=_SILENT,
            )
        except RuntimeError as error:
            # Its message starts with a line of its source, and may end with an option of its own program.
            reason = str(error).rpartition("] ")[2].partition(" or decrease")[0]
            raise ValueError(f"no sentencepiece model with vocab_size={wanted} from this text: {reason}") from error
        return cls(model.getvalue())

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer.model`` into ``folder``, which is made where it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(folder) / "tokenizer.model", "wb") as file:
            file.write(self._model)
        digest = hashlib.sha256(self._model).hexdigest()
        save_sealed_json({"kind": self.kind, "model": digest}, Path(folder) / "tokenizer.json")

    def plain(self) -> dict[str, Any]:
        """All that encodes and decodes, as JSON can express it, for programs without sentencepiece."""
        ask, ids = self._processor, range(self.vocab_size)
        kinds = {"unknown": ask.is_unknown, "control": ask.is_control, "byte": ask.is_byte}
        types = [next((kind for kind, is_kind in kinds.items() if is_kind(i)), "normal") for i in ids]
        pieces, scores = [ask.id_to_piece(i) for i in ids], [ask.get_score(i) for i in ids]
        fields = {"kind": self.kind, "unknown": self.unknown, "eos": self.eos}
        return {**fields, "pieces": pieces, "scores": scores, "types": types}

    def encode(self, line: str) -> list[int]:
        """The ids of one line's pieces.

        Raises:
            ValueError: The line holds half of a surrogate pair, which UTF-8 cannot express.
        """
        try:
            return self._processor.encode(line)
        except (RuntimeError, UnicodeError) as error:
            raise ValueError(f"line={line!r}: cannot be expressed in UTF-8") from error

    def lacking(self, line: str) -> list[str]:
        """No part of a line is lacking, since every byte has a piece."""
        return []

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; ``eos`` becomes a newline."""
        return "\n".join(self._processor.decode(line) if line else "" for line in split_at(self.eos, ids))


def _short_lines(lines: Iterable[str]) -> Iterator[str]:
    """Cut every line into parts that sentencepiece does not drop."""
    for line in lines:
        yield from (line[start : start + _LINE_LENGTH] for start in range(0, len(line), _LINE_LENGTH))
