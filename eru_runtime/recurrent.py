"""A recurrent network that reads tokens and gives the scores of the next one."""

from collections.abc import Sequence

import numpy as np

from eru_runtime.checks import whole_number
from eru_runtime.folder import Folder
from eru_runtime.session import Session

_AT_ONCE = 128  # tokens, of whose scores a graph of sequences makes all, though only the last are wanted


class Recurrent:
    """The graph of a language model, with the state that it carries from token to token.

    A graph of one ``step`` takes one token at a time. One of a ``sequence`` takes several, if its number of steps is
    dynamic.

    Args:
        folder: The exported folder.
        threads: As for :class:`Session`.
        vocab_size: How many tokens there are (V).

    Raises:
        ValueError: The graph takes or gives something else than a language model's.
    """

    def __init__(self, folder: Folder, threads: int | None, vocab_size: int) -> None:
        if (graph := folder.field("graph")) not in ("step", "sequence"):
            raise folder.misfit(f"graph={graph!r}: must be 'step' or 'sequence'")
        session = self._session = Session(folder, threads)
        states = [name for name in session.inputs if name != "tokens"]
        session.check_names(["tokens", *states], ["logits", *(f"{name}_next" for name in states)])
        self._shape = (-1,) if graph == "step" else (-1, 1)
        ones = (1,) * len(self._shape)
        session.check("tokens", "int64", ones)
        session.check("logits", "float32", (*ones, "V"))
        if (found := session.shapes["logits"][-1]) != vocab_size:
            raise ValueError(f"{session.file}: gives scores of {found} tokens, but the tokenizer has {vocab_size}")
        self.vocab_size, self._states = vocab_size, {name: _state_shape(session, name) for name in states}
        is_dynamic = graph == "sequence" and not isinstance(session.shapes["tokens"][0], int)
        self._at_once = _AT_ONCE if is_dynamic else 1

    def start(self) -> "Reader":
        """A reader that has read nothing."""
        return Reader(self, {name: np.zeros(shape, dtype=np.float32) for name, shape in self._states.items()})

    def advance(self, tokens: Sequence[int], state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The scores (V,) after at least one token, and the state then."""
        outputs: dict[str, np.ndarray] = {}
        for start in range(0, len(tokens), self._at_once):
            some = np.array(tokens[start : start + self._at_once], dtype=np.int64).reshape(self._shape)
            outputs = self._session.run({"tokens": some, **state})
            state = {name: outputs[f"{name}_next"] for name in state}
        return outputs["logits"].reshape(-1, self.vocab_size)[-1], state


class Reader:
    """What a language model has read so far. Several readers of one model do not disturb each other."""

    def __init__(self, network: Recurrent, state: dict[str, np.ndarray]) -> None:
        self._network, self._state = network, state

    def step(self, token: int) -> np.ndarray:
        """Read one token.

        Returns:
            The scores (V,) of every token to come next, float32, of which the softmax gives the probabilities.

        Raises:
            ValueError: There is no such token.
        """
        return self.read([token])

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read several tokens, at least one; otherwise as :meth:`step`."""
        if not len(tokens):
            raise ValueError(f"tokens={tokens!r}: must hold at least one token")
        ids = [whole_number("token", token, least=0, most=self._network.vocab_size - 1) for token in tokens]
        scores, self._state = self._network.advance(ids, self._state)
        return scores


def _state_shape(session: Session, name: str) -> tuple[int, int]:
    """The shape of one state of one sequence."""
    session.check(name, "float32", (1, "size"))
    size = session.shapes[name][1]
    if not isinstance(size, int):
        raise ValueError(f"{session.file}: {name} is of any size ({size}): must be of a fixed one")
    return 1, size
