"""The parts of the training loop: what precedes it, one step, and the end of an epoch."""

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eru.storage import atomic_write
from eru.training import (
    Precision,
    Ranks,
    RunFolder,
    Session,
    Step,
    TrainingState,
    autocast,
    check_finite,
    make_optimizer,
    update,
)
from vision.data.sample import Reader
from vision.network import Network
from vision.predictor import Predictor
from vision.training.evaluation import QUALITY, Measured, measure
from vision.training.loading import Batch, Broken
from vision.training.objectives import loss_of
from vision.training.recipes import Freeze, Recipe
from vision.training.run import VisionRun
from vision.training.schedules import rate_factor
from vision.training.sheet import draw_sheet


def begin(model: Network, recipe: Recipe, folder: RunFolder, ranks: Ranks) -> TrainingState:
    """The training's state: that of the last checkpoint, or a new one, which is saved as the first checkpoint."""
    hold_still(model, recipe.freeze)
    optimizer = make_optimizer(
        recipe.optimizer,
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        learning_rate=recipe.rates[0],
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
    )
    state = TrainingState(model, optimizer)
    if recipe.ema:
        # The statistics of the batch norms belong to the weights, so they are averaged too.
        state.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    if not state.restore(folder, ranks, recipe.seed):
        state.save(folder, ranks)
    return state


def hold_still(model: Network, freeze: Freeze) -> None:
    """Take what is frozen out of the training."""
    for module in _frozen(model, freeze):
        module.requires_grad_(False)


def learning_rate(recipe: Recipe, epoch: int, batch: int, batches: int) -> float:
    """The learning rate of a batch of an epoch, where every epoch has that many ``batches``."""
    stage, epoch = recipe.stage(epoch)
    return recipe.rates[stage] * rate_factor(
        recipe.schedule,
        epoch,
        batch,
        epochs=recipe.epochs,
        batches=batches,
        cycle=recipe.cycle,
        cycles_end=None if recipe.cycles_end < 0 else recipe.cycles_end,
        milestones=recipe.milestones,
        gamma=recipe.gamma,
        warmup_epochs=recipe.warmup_epochs,
    )


def train_step(
    state: TrainingState,
    recipe: Recipe,
    rate_of: Callable[[int], float],
    ranks: Ranks,
    precision: Precision,
    batch: Batch,
) -> Step:
    """Take one step of the optimiser on one batch; its loss is NaN where a gradient is not finite."""
    model = cast(Network, state.model).train()
    for module in _frozen(model, recipe.freeze):
        module.eval()  # so that the statistics of its batch norms stay
    images, targets, _ = batch
    targets = _moved(targets, ranks.device)
    rng = np.random.default_rng([recipe.seed, state.position.step, ranks.rank])
    images = images.to(ranks.device, memory_format=torch.channels_last)
    size = len(images) // recipe.accumulate
    losses: list[Tensor] = []

    def objectives() -> Iterator[Tensor]:
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            with autocast(ranks.device, precision):
                loss = loss_of(model, images[part], targets[part], recipe, rng)
            losses.append(loss.detach())
            yield loss

    how: dict[str, Any] = {"learning_rate": rate_of(state.position.batch), "clip": recipe.clip, "ranks": ranks}
    norm = update(state.optimizer, objectives(), parts=recipe.accumulate, **how)
    if state.average is not None:
        state.average.update_parameters(model)
    # The norm knows the losses of all processes, so that they stop together, before any saves a broken checkpoint.
    loss = torch.where(norm.isfinite(), torch.stack(losses).mean(), math.nan)
    return Step(loss, counted=len(images), trained=len(images) * ranks.world_size)


def end_epoch(
    state: TrainingState,
    run: VisionRun,
    reader: Reader,
    rate_of: Callable[[int], float],
    batches: int,
    passed_over: int,
    session: Session,
    precision: Precision,
    workers: int,
    broken: Broken,
) -> Measured:
    """Validate, keep the weights if they are the best so far, and turn to the next epoch if this one is complete.

    Of two models the one with the smaller error is better: what is missing to 1 of its task's quality. A run that goes
    on from a stop inside of an epoch must equal one that never stopped, so a stop keeps the weights only where there
    are none of a complete epoch.
    """
    recipe, position, ranks = run.recipe, state.position, session.ranks
    complete = position.batch == batches
    averaged = state.average is not None and bool(state.average.n_averaged)
    model = cast(Network, state.average.module if averaged and state.average is not None else state.model)
    measured = measure(
        model,
        reader,
        recipe.task,
        run.preprocessing,
        batch_size=recipe.batch_size,
        device=ranks.device,
        precision=precision,
        workers=workers,
        broken=broken,
        count=session.progress.validating(len(reader)),
    )
    quality = QUALITY[recipe.task]
    error = ranks.mean(1 - measured.numbers[quality])
    check_finite(error, position.step)
    if not position.history or (complete and error < position.best):
        position.best = error
        if ranks.is_main:
            session.folder.save_weights(model.state_dict())
    train_loss = ranks.mean(position.running_loss)
    last_rate = rate_of(position.batch - 1)
    if complete:
        position.end_epoch(train_loss, error)
    if ranks.is_main:
        session.folder.log(
            {
                "event": "epoch" if complete else "stop",
                "step": position.step,
                "epoch": position.epoch,
                "train_loss": train_loss,
                "valid_loss": error,
                **measured.numbers,
                "passed_over": passed_over,
                "learning_rate": last_rate,
                "pictures_per_second": position.rate,
                "seconds": position.seconds,
            }
        )
        sheet = draw_sheet(Predictor(model, run.preprocessing, run.dataset), reader)
        with atomic_write(session.folder.path / "sheet.png", "wb") as file:
            sheet.save(file, format="PNG")
    numbers = ", ".join(f"{name} {value:.4f}" for name, value in measured.numbers.items())
    skipped = f", {passed_over} broken pictures passed over" if passed_over else ""
    session.tell(position, recipe.all_epochs, f"{session.told(train_loss)}, validation {numbers}{skipped}")
    return measured


def _frozen(model: Network, freeze: Freeze) -> list[nn.Module]:
    if freeze == "backbone":
        return [model.backbone]
    if freeze == "batch-norm":
        return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return []


def _moved(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, list):
        return [{name: tensor.to(device) for name, tensor in target.items()} for target in targets]
    return targets.to(device)
