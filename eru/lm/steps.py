"""The parts of the training loop: what precedes it, one step, and the end of an epoch."""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from eru.lm.batches import Streams
from eru.lm.evaluation import evaluate_tokens, perplexity_of
from eru.lm.model import Features, LanguageModel, detach
from eru.lm.recipes import Recipe
from eru.training import (
    Precision,
    Ranks,
    RunFolder,
    Session,
    Step,
    TrainingState,
    autocast,
    check_finite,
    has_stalled,
    schedule_factor,
    update,
)
from eru.training.carried import joined, part_of


def begin(
    state: TrainingState, recipe: Recipe, folder: RunFolder, valid: np.ndarray, ranks: Ranks, pretrained: bool
) -> None:
    """Go back to the checkpoint; where there is none, do what comes before the first step, and save the first one.

    Weights that are worth keeping count as the best until the run has better ones.
    """
    if not state.restore(folder, ranks, recipe.seed):
        if pretrained:
            state.position.best = validation_loss(state.model, valid, recipe, ranks)
            state.position.history.append(state.position.best)
        begin_averaging(state, recipe)
        state.save(folder, ranks)
    position = state.position
    # The weights follow the checkpoint, so that weights without a checkpoint are a sign of loss. A kill may have come
    # between the two.
    if ranks.is_main and not position.step and position.history and not folder.weights_path.exists():
        folder.save_weights(state.model.state_dict())


def begin_averaging(state: TrainingState, recipe: Recipe) -> None:
    """Begin the mean of the weights, where the recipe has one and its time has come."""
    epoch, history, interval = state.position.epoch, state.position.history, recipe.nonmonotone_interval
    if not recipe.averaging or state.average is not None or epoch < recipe.averaging_start * recipe.epochs:
        return
    if interval == 0 or has_stalled(history, interval):
        state.average = AveragedModel(state.model)


def learning_rate(recipe: Recipe, epoch: int, batch: int, batches: int) -> float:
    """The rate of a batch of an epoch, on a schedule that takes every epoch to have as many batches as this one."""
    step, total = epoch * batches + batch, recipe.epochs * batches
    return recipe.learning_rate * schedule_factor(
        recipe.schedule, step, total, warmup_steps=recipe.warmup_steps, hold=recipe.hold, floor=recipe.floor
    )


def train_step(
    state: TrainingState,
    text: Streams,
    recipe: Recipe,
    rate_of: Callable[[int], float],
    ranks: Ranks,
    precision: Precision,
    window: tuple[int, int],
) -> Step:
    """Take one step of the optimiser on one batch: a window, given by its first time step and its length.

    Its loss is NaN where a gradient is not finite.
    """
    first, length = window
    rate = rate_of(state.position.batch)
    if recipe.random_bptt:
        rate *= length / recipe.bptt  # As in AWD-LSTM: a longer window is a better guess at the gradient.
    model = cast(LanguageModel, state.model).train()
    inputs, targets = (ids.to(ranks.device) for ids in text.window(first, length))
    losses: list[Tensor] = []
    carried: list[Any] = []

    def objectives() -> Iterator[Tensor]:
        for part in range(recipe.accumulate):
            with autocast(ranks.device, precision):
                features = model.features(
                    part_of(inputs, part, recipe.accumulate), part_of(state.carried, part, recipe.accumulate)
                )
                loss = model.loss(features, part_of(targets, part, recipe.accumulate))
            losses.append(loss.detach())
            carried.append(detach(features.state))
            yield loss + activation_penalty(features, recipe)

    how: dict[str, Any] = {"learning_rate": rate, "clip": recipe.clip, "ranks": ranks}
    norm = update(state.optimizer, objectives(), parts=recipe.accumulate, **how)
    state.carried = joined(carried)
    if state.average is not None:
        state.average.update_parameters(model)
    # The norm knows the losses of all processes, so that they stop together, before any saves a broken checkpoint.
    loss = torch.where(norm.isfinite(), torch.stack(losses).mean(), math.nan)
    return Step(loss, counted=length, trained=length * recipe.batch_size)


def activation_penalty(features: Features, recipe: Recipe) -> Tensor | float:
    """The two penalties of AWD-LSTM (arXiv 1708.02182, section 4.6).

    AR is on the size of the dropped outputs, TAR on the change of the raw ones from step to step.
    """
    penalty: Tensor | float = 0.0
    if recipe.activation_regularization:
        penalty = recipe.activation_regularization * features.dropped.float().square().mean()
    if recipe.temporal_regularization and len(features.raw) > 1:
        penalty = penalty + recipe.temporal_regularization * features.raw.float().diff(dim=0).square().mean()
    return penalty


def end_epoch(
    state: TrainingState,
    recipe: Recipe,
    valid: np.ndarray,
    rate_of: Callable[[int], float],
    batches: int,
    session: Session,
) -> None:
    """Validate, keep the weights if they are the best so far, and turn to the next epoch if this one is complete.

    Once averaging has started, both the weights in training and their mean are validated, and the better ones count. A
    run that goes on from a stop inside of an epoch must equal one that never stopped, so a stop keeps the weights only
    where there are none of a complete epoch.
    """
    position, model = state.position, state.model
    folder, ranks = session.folder, session.ranks
    complete = position.batch == batches
    average = state.average.module if state.average is not None and state.average.n_averaged else None
    count = session.progress.validating((len(valid) - 1) * (1 if average is None else 2))
    raw = loss = validation_loss(model, valid, recipe, ranks, count)
    if average is not None:
        mean = validation_loss(average, valid, recipe, ranks, count)
        if not loss <= mean:  # and not mean < loss, since a mean that is no number must not pass unseen
            model, loss = average, mean
    check_finite(loss, position.step)
    if not position.history or (complete and loss < position.best):
        position.best = loss
        if ranks.is_main:
            folder.save_weights(model.state_dict())
    train_loss = ranks.mean(position.running_loss)
    last_rate = rate_of(position.batch - 1)
    if complete:
        position.end_epoch(train_loss, loss)
        state.carried = None
        begin_averaging(state, recipe)
    if ranks.is_main:
        folder.log(
            {
                "event": "epoch" if complete else "stop",
                "step": position.step,
                "epoch": position.epoch,
                "train_loss": train_loss,
                "valid_loss": loss,
                "raw_valid_loss": raw,
                "averaging": state.average is not None,
                "learning_rate": last_rate,
                "tokens_per_second": position.rate,
                "seconds": position.seconds,
            }
        )
    figures = f"{session.told(train_loss)}, validation perplexity {perplexity_of(loss):.2f}"
    if not complete and position.history:
        figures += "; the best weights of a complete epoch are kept until this one is complete"
    session.tell(position, recipe.epochs, figures)


def validation_loss(
    model: nn.Module, valid: np.ndarray, recipe: Recipe, ranks: Ranks, count: Callable[[int], object] | None = None
) -> float:
    """The mean loss of the validation text, read in as many streams as the training text."""
    found = evaluate_tokens(cast(LanguageModel, model), valid, batch_size=recipe.batch_size, count=count)
    return ranks.mean(found.loss)
