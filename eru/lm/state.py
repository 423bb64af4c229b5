"""Where a language model's training stands: all that changes from step to step, and its way to the disk and back."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from eru.cell import State
from eru.lm.model import LanguageModel
from eru.training import Ranks, RunFolder, WeightAverage, rng_state, seed_everything, set_rng_state


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        epoch: epochs completed.
        window: windows completed of this epoch.
        step: steps completed of the whole run.
        loss: summed over this epoch's steps of all streams, in this process.
        tokens: of one stream, of this epoch.
        trained: tokens of the whole run, in this process.
        seconds: of training in the whole run, validation left out.
        train_loss: mean of the last completed epoch.
        history: validation losses of the completed epochs, before them that of the weights it started from, if any.
        best: validation loss of the saved weights.
    """

    epoch: int = 0
    window: int = 0
    step: int = 0
    loss: float = 0.0
    tokens: int = 0
    trained: int = 0
    seconds: float = 0.0
    train_loss: float = math.nan
    history: list[float] = field(default_factory=list)
    best: float = math.inf

    @property
    def running_loss(self) -> float:
        """Mean training loss of this epoch so far, in this process; at an epoch's start that of the last one."""
        return self.loss / self.tokens if self.tokens else self.train_loss

    @property
    def rate(self) -> float:
        """Tokens per second of this process over the whole run."""
        return self.trained / self.seconds if self.seconds else 0.0


@dataclass
class Training:
    """Everything that changes from step to step: what a checkpoint holds.

    Attributes:
        model: with the weights in training.
        optimizer: over its parameters.
        position: where the run stands.
        carried: the model's state at the end of the last window; ``None`` at an epoch's start.
        average: the mean of the weights, once averaging has started.
    """

    model: LanguageModel
    optimizer: torch.optim.Optimizer
    position: Position = field(default_factory=Position)
    carried: list[State] | None = None
    average: WeightAverage | None = None

    def save(self, folder: RunFolder) -> None:
        """Write the checkpoint."""
        folder.save_state(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "carried": self.carried,
                "position": asdict(self.position),
                "rng": rng_state(),
            }
        )

    def restore(self, folder: RunFolder, ranks: Ranks, seed: int) -> bool:
        """Go back to the checkpoint, if there is one, and tell whether there was.

        It holds the carried state and the generators of the first process. The others carry nothing over and seed
        generators of their own.

        Raises:
            ValueError: a checkpoint that is broken, or of another model or optimiser.
        """
        saved = folder.load_state()
        if saved is not None:
            try:
                self._load(saved, ranks)
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = f"{type(error).__name__}: {str(error).splitlines()[-1].strip()}"
                raise ValueError(f"{folder.state_path} does not fit its config.json: {reason}") from error
        if not ranks.is_main:
            seed_everything((seed + 1_000_003 * ranks.rank + self.position.step) % 2**32)
        return saved is not None

    def _load(self, saved: Mapping[str, Any], ranks: Ranks) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["average"] is not None:
            self.average = WeightAverage(self.model)
            self.average.load_state_dict(saved["average"])
        self.position = Position(**saved["position"])
        if ranks.is_main:
            carried = saved["carried"]
            self.carried = carried and [tuple(part.to(ranks.device) for part in layer) for layer in carried]
            set_rng_state(saved["rng"])
