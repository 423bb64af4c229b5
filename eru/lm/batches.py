"""Truncated backpropagation through time: parallel streams of tokens, read window by window with carried state."""

from copy import copy

import numpy as np
import torch


def segments(total: int, bptt: int, *, seed: int, epoch: int, randomised: bool = True) -> list[tuple[int, int]]:
    """The (start, length) of an epoch's windows, a pure function of its arguments: a resumed run goes on at the next.

    Randomised as in AWD-LSTM (arXiv 1708.02182): a window is ``max(5, int(N(base, 5)))`` steps long, where base is
    ``bptt`` with probability 0.95 and ``bptt // 2`` otherwise, and never longer than ``bptt + 20``.

    Args:
        total: Predicted tokens of one stream; the windows cover each once, in order.
        bptt: Steps of a window, at least 1.
        seed: Seed of the run, not negative.
        epoch: Number of the epoch, not negative; each has windows of its own.
        randomised: False makes every window ``bptt`` long. The last may be shorter.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> segments(10, 4, seed=0, epoch=0, randomised=False)
        [(0, 4), (4, 4), (8, 2)]
    """
    for name, value, least in (("total", total, 1), ("bptt", bptt, 1), ("seed", seed, 0), ("epoch", epoch, 0)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least}")
    rng = np.random.default_rng([seed, epoch])
    windows, start = [], 0
    while start < total:
        length = bptt
        if randomised:
            base = bptt if rng.random() < 0.95 else bptt // 2
            length = min(max(5, int(rng.normal(base, 5))), bptt + 20)
        length = min(length, total - start)
        windows.append((start, length))
        start += length
    return windows


class Streams:
    """A token array as ``batch_size`` contiguous streams side by side, so that the state can be carried along.

    All ranks together cut the array into ``batch_size`` streams of equal length, each rank has an equal share of them,
    and what remains at the end is left out. ``Streams(ids, 1)`` leaves nothing out: evaluation takes it.

    Args:
        ids: 1-D array of token ids, memory-mapped or not; only windows that are asked for are read.
        batch_size: Streams of all ranks together.
        rank: Which part this process reads, from 0 to ``world_size - 1``.
        world_size: How many processes share the array.

    Attributes:
        length: Predicted tokens of a stream; its first token is only ever an input.

    Raises:
        ValueError: The array is too short to give every stream two tokens, the ranks cannot share the streams equally,
            or a number is out of its range.

    Example:
        >>> inputs, targets = Streams(np.arange(10), 2).window(0, 3)
        >>> inputs.T.tolist(), targets.T.tolist()
        ([[0, 1, 2], [5, 6, 7]], [[1, 2, 3], [6, 7, 8]])
    """

    def __init__(self, ids: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}: must be from 0 to world_size - 1 = {world_size - 1}")
        if batch_size % world_size:
            raise ValueError(f"batch_size={batch_size}: must be a multiple of the {world_size} processes")
        size = len(ids) // batch_size
        if size < 2:
            raise ValueError(
                f"{len(ids)} tokens are too few for batch_size={batch_size}: each of the streams needs at least 2"
            )
        self._streams = ids[: size * batch_size].reshape(batch_size, size)
        self._rows = np.arange(batch_size).reshape(world_size, -1)[rank]  # ours among the streams of all ranks
        self._offsets = np.zeros(len(self._rows), np.int64)
        self.length = size - 1

    def shuffled(self, *, seed: int, epoch: int) -> "Streams":
        """The same streams, each rotated by a random offset of its own: partial shuffle.

        A stream of M tokens w_0 .. w_{M-1} with offset k is read as

            w_k, ..., w_{M-1}, w_0, ..., w_{k-1}

        so that every epoch has other windows, side by side with others; behind w_{M-1} the token to predict is w_0.
        The tokens stay where they are. The offsets are a pure function of the run's seed and the epoch's number, and
        the same whether one rank reads all streams or several share them.

        Raises:
            ValueError: A number is negative.

        Source:
            Press 2019, "Partially Shuffling the Training Data to Improve Language Models", arXiv 1903.04167.

        Example:
            >>> inputs, targets = Streams(np.arange(10), 2).shuffled(seed=0, epoch=0).window(0, 4)
            >>> inputs.T.tolist(), targets.T.tolist()
            ([[4, 0, 1, 2], [7, 8, 9, 5]], [[0, 1, 2, 3], [8, 9, 5, 6]])
        """
        for name, value in (("seed", seed), ("epoch", epoch)):
            if value < 0:
                raise ValueError(f"{name}={value}: must be at least 0")
        rotated = copy(self)
        # The 1 keeps these draws apart from those of `segments`; every rank draws for all and takes its own.
        offsets = np.random.default_rng([seed, epoch, 1]).integers(self.length + 1, size=len(self._streams))
        rotated._offsets = offsets[self._rows]
        return rotated

    def window(self, start: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps of this rank's streams: inputs, and targets one token later, each int64 of shape (length, streams).

        Raises:
            ValueError: The window leaves the streams.
        """
        if start < 0 or length < 1 or start + length > self.length:
            raise ValueError(f"start={start}, length={length}: not a window of streams of length {self.length}")
        steps = np.arange(start, start + length + 1)[:, None]
        tokens = self._streams[self._rows, (steps + self._offsets) % (self.length + 1)]  # (T + 1, B)
        block = torch.from_numpy(tokens.astype(np.int64))
        return block[:-1], block[1:]
