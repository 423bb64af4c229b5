"""Where a training stands: everything that changes from step to step, and its way to the disk and back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from eru.training.carried import joined, moved, part_of
from eru.training.distributed import Ranks
from eru.training.numerics import check_finite, first_broken
from eru.training.rng import rng_state, seed_everything, set_rng_state
from eru.training.run_folder import RunFolder

_OLD_NAMES = {"window": "batch", "tokens": "counted"}  # The fields' names in older checkpoints.


@dataclass
class Position:
    """Where a training stands, in plain numbers.

    Attributes:
        epoch: The epochs completed.
        batch: The batches completed of this epoch.
        step: The steps completed of the whole training.
        loss: The sum of this epoch's losses, each times what it counts, in this process.
        counted: What the losses of this epoch count together.
        recent_loss: The same sum of the losses since the last record of one, in this process.
        recent_counted: What these count together.
        trained: The samples of the whole training, in all processes.
        seconds: The time of the whole training, without validation and writing.
        train_loss: The mean loss of the last completed epoch.
        history: The validation losses of the completed epochs (or whatever else a training wants to fall), behind that
            of the weights it started from, if any.
        best: The validation loss of the saved weights.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    counted: int = 0
    recent_loss: float = 0.0
    recent_counted: int = 0
    trained: int = 0
    seconds: float = 0.0
    train_loss: float = math.nan
    history: list[float] = field(default_factory=list)
    best: float = math.inf

    def advance(self, counted: int, trained: int) -> None:
        """Note one more step: what its loss counts in the epoch's mean, and its samples."""
        self.batch += 1
        self.step += 1
        self.counted += counted
        self.recent_counted += counted
        self.trained += trained

    def add_losses(self, losses: Sequence[tuple[int, Tensor]], model: nn.Module) -> None:
        """Add the losses of the last steps, each behind what it counts.

        They are read all at once, so that the device need not wait for us at every step. Of the model the gradient of
        the last one is known, which tells where a loss that is not finite came from.

        Raises:
            NonFiniteLossError: A loss is NaN or infinite.
        """
        if not losses:
            return
        means = torch.stack([mean for _, mean in losses]).tolist()
        for step, ((count, _), mean) in enumerate(zip(losses, means, strict=True), self.step - len(losses) + 1):
            place = f"epoch {self.epoch + 1}"
            if not math.isfinite(mean) and (name := first_broken(model)) is not None:
                place += f", the first gradient that is not finite is that of {name}"
            check_finite(mean, step, place)
            self.loss += count * mean
            self.recent_loss += count * mean

    def take_recent_loss(self) -> float:
        """The mean training loss since this was last asked, in this process."""
        mean = self.recent_loss / self.recent_counted
        self.recent_loss, self.recent_counted = 0.0, 0
        return mean

    def end_epoch(self, train_loss: float, valid_loss: float) -> None:
        """Turn to the next epoch, with the mean loss of this one and the validation loss at its end."""
        self.train_loss = train_loss
        self.history.append(valid_loss)
        self.epoch, self.batch, self.loss, self.counted = self.epoch + 1, 0, 0.0, 0

    @property
    def running_loss(self) -> float:
        """The mean training loss of this epoch so far, in this process; at an epoch's start that of the last one."""
        return self.loss / self.counted if self.counted else self.train_loss

    @property
    def rate(self) -> float:
        """The samples per second over the whole training."""
        return self.trained / self.seconds if self.seconds else 0.0


@dataclass
class TrainingState:
    """Everything that changes from step to step: what a checkpoint holds.

    Attributes:
        model: The model, with the weights in training.
        optimizer: The optimiser of its parameters.
        position: Where the training stands.
        carried: What one step hands to the next besides the weights, see :mod:`eru.training.carried`; None for
            nothing.
        average: The mean of the weights, once averaging has started. One of another kind than torch's equal mean is
            here before the checkpoint is read.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    position: Position = field(default_factory=Position)
    carried: Any = None
    average: AveragedModel | None = None

    def save(self, folder: RunFolder, ranks: Ranks) -> None:
        """Write the checkpoint, with what every process carries and the state of its random generators.

        All processes call this together, and the first one writes.
        """
        losses = {name: ranks.mean(getattr(self.position, name)) for name in ("loss", "recent_loss")}
        carried, generators = ranks.gather(moved(self.carried, "cpu")), ranks.gather(rng_state())
        if ranks.is_main:
            folder.save_state(
                {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "average": None if self.average is None else self.average.state_dict(),
                    "carried": joined(carried),
                    "position": {**asdict(self.position), **losses},
                    "rng": generators,
                }
            )

    def restore(self, folder: RunFolder, ranks: Ranks, seed: int) -> bool:
        """Go back to the checkpoint, if there is one, and tell whether there was.

        With as many processes as before all goes on as if it had not stopped. Where there are more or fewer of them,
        they share out anew what was carried; all but the first seed their random generators from the training's seed.

        Raises:
            ValueError: The checkpoint is lost, broken, or of another model or optimiser.
        """
        saved = folder.load_state(remove_damaged=ranks.is_main)
        ranks.barrier()  # No process may write a first checkpoint before every other one has looked for it.
        if saved is not None:
            try:
                self._load(saved, ranks)
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = f"{type(error).__name__}: {str(error).splitlines()[-1].strip()}"
                raise ValueError(f"{folder.state_path} does not fit its config.json: {reason}") from error
        if not ranks.is_main and (saved is None or len(_generators(saved)) != ranks.world_size):
            seed_everything((seed + 1_000_003 * ranks.rank + self.position.step) % 2**32)
        return saved is not None

    def _load(self, saved: Mapping[str, Any], ranks: Ranks) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if saved["average"] is not None:
            self.average = self.average or AveragedModel(self.model)
            self.average.load_state_dict(saved["average"])
        position: dict[str, Any] = saved["position"]
        self.position = Position(**{_OLD_NAMES.get(name, name): value for name, value in position.items()})
        self.carried = moved(part_of(saved["carried"], ranks.rank, ranks.world_size), ranks.device)
        generators = _generators(saved)
        if ranks.is_main or len(generators) == ranks.world_size:
            set_rng_state(generators[ranks.rank])


def _generators(saved: Mapping[str, Any]) -> list[Any]:
    """The states of every process's random generators; an older checkpoint has those of the first one alone."""
    return saved["rng"] if isinstance(saved["rng"], list) else [saved["rng"]]
