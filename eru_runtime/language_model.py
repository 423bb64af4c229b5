"""Text from an exported language model."""

import re
from collections.abc import Iterator

import numpy as np

from eru_runtime.checks import whole_number
from eru_runtime.folder import Folder
from eru_runtime.recurrent import Reader, Recurrent
from eru_runtime.sampling import Sampler
from eru_runtime.tokenizer import decode_stream, read_tokenizer


class LanguageModel:
    """A language model of an exported folder; :func:`eru_runtime.load` makes one.

    Attributes:
        tokenizer: Lines of text to token ids and back.
    """

    def __init__(self, folder: Folder, threads: int | None = None) -> None:
        self.tokenizer = read_tokenizer(folder)
        self._network = Recurrent(folder, threads, self.tokenizer.vocab_size)

    def start(self) -> Reader:
        """A reader that has read nothing, for scores token by token.

        What a line starts with is learned from the end of the line before it, so ``tokenizer.eos`` comes first.
        """
        return self._network.start()

    def generate(
        self,
        prompt: str,
        tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Continue a text; the unknown token is never made.

        Args:
            prompt: The text to continue, from the start of a line; it may be empty and have several lines. It is part
                of what is returned, with what the vocabulary lacks as the tokenizer writes it.
            tokens: How many tokens to add.
            temperature: Divides the scores: below 1 the text is likelier, and 0 always takes the likeliest token.
            top_k: Draw from the k likeliest tokens only; None for all.
            top_p: Draw from the likeliest tokens that together reach this probability only; None for all.
            seed: For the same text again; None makes another one every time.

        Raises:
            TypeError: The prompt is no string.
            ValueError: The prompt is not UTF-8 text, a number is out of range, or the model's outputs are not finite.
        """
        return "".join(self.stream(prompt, tokens, temperature, top_k, top_p, seed))

    def stream(
        self,
        prompt: str,
        tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The same text as by :meth:`generate`, part by part as it is made; the first part is the prompt."""
        draw = Sampler(temperature, top_k, top_p, seed)
        count = whole_number("tokens", tokens, least=0)
        return decode_stream(self.tokenizer, self._continued(self._encode(prompt), count, draw))

    def _continued(self, start: list[int], count: int, draw: Sampler) -> Iterator[list[int]]:
        """The ids of the prompt, and then each that follows it."""
        yield start
        reader, fed = self.start(), [self.tokenizer.eos, *start]
        for _ in range(count):
            scores = reader.read(fed).astype(float)
            if not np.isfinite(scores).all():
                raise ValueError("the model's outputs are not finite: has its training diverged?")
            scores[self.tokenizer.unknown] = -np.inf
            fed = [draw(scores)]
            yield fed

    def _encode(self, prompt: str) -> list[int]:
        """The ids of a prompt, whose lines end with the newline of any system."""
        if not isinstance(prompt, str):
            raise TypeError(f"prompt={prompt!r}: must be a string")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt={prompt!r}: is not UTF-8 text") from error
        first, *more = (self.tokenizer.encode(line) for line in re.split("\r\n|\r|\n", prompt))
        return first + [index for line in more for index in (self.tokenizer.eos, *line)]
