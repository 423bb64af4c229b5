"""The steps of one epoch: their records, their checkpoints, and where a call of a training ends."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from eru.training.distributed import Ranks
from eru.training.limits import Limits
from eru.training.progress import Progress
from eru.training.run_folder import RunFolder
from eru.training.signals import StopSignals
from eru.training.state import Position, TrainingState

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Session:
    """What surrounds one call of a training.

    Attributes:
        folder: Where its records and checkpoints are written.
        ranks: The processes that train together.
        limits: Where the call ends.
        signals: What may end it earlier.
        progress: What a person sees of it.
        log_every: The steps between two records.
        checkpoint_every: The steps between two checkpoints.
        unit: What a step trains on, in the plural.
        told: A mean training loss, as people are told it.
    """

    folder: RunFolder
    ranks: Ranks
    limits: Limits
    signals: StopSignals
    progress: Progress
    log_every: int
    checkpoint_every: int
    unit: str
    told: Callable[[float], str]

    def is_called_off(self, step: int) -> bool:
        """Whether the call is to end after so many steps of the whole training, in any of its processes."""
        return self.ranks.any(self.limits.reached(step) or self.signals.received is not None)

    def tell(self, position: Position, epochs: int, figures: str) -> None:
        """Tell people what an epoch of so many came to, or a stop inside of one; its last batch is behind us."""
        if position.batch:
            self.progress.say(f"stopped in epoch {position.epoch + 1} of {epochs}, step {position.step}, {figures}")
        else:
            self.progress.end_epoch(f"epoch {position.epoch} of {epochs}, step {position.step}, {figures}")


@dataclass(frozen=True)
class Step:
    """What one step was.

    Attributes:
        loss: Its mean loss, a scalar; NaN where the weights may be broken.
        counted: The weight of that loss in the epoch's mean.
        trained: Its samples, of all processes.
    """

    loss: Tensor
    counted: int
    trained: int


def run_epoch(
    state: TrainingState,
    batches: Iterable[Batch],
    total: int,
    take_step: Callable[[Batch], Step],
    rate_of: Callable[[int], float],
    session: Session,
) -> bool:
    """Take the steps of what is left of an epoch, until it or the call ends.

    Args:
        state: Where the training stands; it moves on.
        batches: The batches from ``state.position.batch`` on.
        total: The number of batches of the whole epoch.
        take_step: Trains on one batch.
        rate_of: The learning rate of the batch of that number, for the records.
        session: What surrounds the call.

    Returns:
        Whether the call is to end.

    Raises:
        NonFiniteLossError: A loss is NaN or infinite; no checkpoint holds it.
    """
    position, limits = state.position, session.limits
    losses: list[tuple[int, Tensor]] = []
    over = False
    clock = time.perf_counter()
    for batch in batches:
        step = take_step(batch)
        losses.append((step.counted, step.loss))
        position.advance(step.counted, step.trained)
        session.progress.advance()
        over = session.is_called_off(position.step)
        # On a CPU it costs nothing to ask at once, while the gradient is there that tells what broke.
        broken = step.loss.device.type == "cpu" and not step.loss.isfinite()
        logs, saves = position.step % session.log_every == 0, position.step % session.checkpoint_every == 0
        if logs or saves or over or broken or position.batch == total:
            position.add_losses(losses, state.model)
            losses = []
            position.seconds += time.perf_counter() - clock
            if logs:
                _log_step(state, total, rate_of, session)
            # After a signal the time may be short, so the checkpoint does not wait for the validation. That of the
            # last step does, since it would claim an end that was not validated.
            hurries = over and session.ranks.any(session.signals.received is not None)
            if (saves or hurries) and position.step != limits.max_steps:
                state.save(session.folder, session.ranks)
            clock = time.perf_counter()
        if over:
            break
    return over


def _log_step(state: TrainingState, total: int, rate_of: Callable[[int], float], session: Session) -> None:
    """Record the mean loss since the last record, of all processes."""
    position, ranks = state.position, session.ranks
    epoch = position.epoch + position.batch / total
    loss, speed = ranks.mean(position.take_recent_loss()), position.rate
    session.progress.show(epoch=epoch, figures=session.told(loss), rate=speed)
    if ranks.is_main:
        record = {"event": "step", "step": position.step, "epoch": epoch, "loss": loss}
        rate = rate_of(position.batch - 1)
        session.folder.log({**record, "learning_rate": rate, f"{session.unit}_per_second": speed})
