"""Training a vision model: from a recipe and a data set to a run folder, and the loop in between."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eru.training import (
    Interrupted,
    Limits,
    Precision,
    Progress,
    Ranks,
    Session,
    StopSignals,
    TrainingState,
    machine,
    plot_curve,
    run_epoch,
    seed_everything,
    why_not_drawn,
)
from vision.classification import Classifier
from vision.data import Layout, open_data
from vision.data.sample import Reader
from vision.detection import Detector
from vision.network import Network
from vision.registry import create_model, list_models, network_of
from vision.segmentation import Segmenter
from vision.training.evaluation import QUALITY
from vision.training.loading import Batch, Broken, Prepared, epoch_order, load
from vision.training.objectives import Varied
from vision.training.recipes import Recipe
from vision.training.run import VisionRun, create_run, resume_run, run_config
from vision.training.steps import begin, end_epoch, learning_rate, train_step


@dataclass(frozen=True)
class Result:
    """What a training run came to.

    Attributes:
        run: The run folder.
        task: What the model does.
        parameters: Its parameters.
        finished: Whether the training is over; otherwise a resumed call goes on.
        epochs: The epochs completed.
        steps: The steps done.
        train_pictures: The training pictures.
        valid_pictures: The validation pictures.
        quality: What says which of two models is better: ``"top1"``, ``"f1"``, ``"mean_iou"`` or ``"map"``.
        best: That number of the saved weights on the validation pictures, from 0 to 1.
        pictures_per_second: The speed of the training, validation left out.
    """

    run: str
    task: str
    parameters: int
    finished: bool
    epochs: int
    steps: int
    train_pictures: int
    valid_pictures: int
    quality: str
    best: float
    pictures_per_second: float


def train(
    recipe: Recipe,
    model: str,
    layout: Layout,
    data: str | Path,
    out: str | Path,
    *,
    splits: tuple[str, str] = ("train", "val"),
    weights: str | Path | None = None,
    weights_backbone: str | Path | None = None,
    resume: bool = False,
    max_steps: int | None = None,
    minutes: float | None = None,
    stop: Callable[[], bool] | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    workers: int = 0,
    broken: Broken = "refuse",
    quiet: bool = False,
    **options: Any,
) -> Result:
    """Train a vision model into a run folder.

    A run that was stopped, or killed, and resumed equals one that never was, on a CPU bit by bit.

    Args:
        recipe: What to do, and at which task.
        model: The model's name, see :func:`vision.list_models`, of a kind that fits the task.
        layout: How the data set lies on the disk: ``"imagenet"``, ``"coco"``, ``"voc"`` or ``"cityscapes"``.
        data: Its folder.
        out: The run folder. It must hold no run unless ``resume``.
        splits: What the parts to train on and to validate on are called.
        weights: Weights to start from, as :func:`vision.create_model` takes them; of other classes the last layer is
            drawn anew.
        weights_backbone: Weights of which only the backbone is taken, such as a classifier's for a segmenter.
        resume: Go on from the last checkpoint. Without one the run starts, and when it is finished nothing happens.
        max_steps: The steps of the whole run after which this call ends.
        minutes: The time after which this call ends.
        stop: A question that is asked before the first step and after each; this call ends where it answers true.
        device: Where to compute.
        precision: ``"float32"``, or ``"bfloat16"`` for products in bfloat16.
        workers: The processes that read and prepare pictures ahead of time; 0 for none but this one.
        broken: Whether a picture that cannot be read is an error (``"refuse"``), or the next good one takes its place
            and is counted (``"skip"``).
        quiet: Show no progress.
        options: Options of the model, see :func:`vision.create_model`.

    Raises:
        ValueError: The data set, the model, the folder or a number does not fit, or the loss is no longer finite (the
            last checkpoint then stays as it is).
        Interrupted: SIGINT, SIGTERM or SIGHUP came. The step was finished and the checkpoint saved.
    """
    limits = Limits(max_steps=max_steps, minutes=minutes, stop=stop)
    ranks = Ranks.from_environment(device)
    quiet = quiet or not ranks.is_main
    with ExitStack() as stack:
        stack.callback(ranks.close)
        if not quiet:
            print(f"reading the data set {data}", file=sys.stderr)
        train_set, valid_set = (open_data(layout, recipe.task, data, split) for split in splits)
        if valid_set.dataset.categories != train_set.dataset.categories:
            raise ValueError(
                f"data={str(data)!r}: the splits {' and '.join(splits)} have other classes than each other"
            )
        seed_everything(recipe.seed)
        network = make_model(model, recipe, train_set, weights, weights_backbone, options)
        epoch_order(len(train_set), recipe.batch_size, seed=0, epoch=0, ranks=ranks.world_size)  # refuses too few
        ranks.check_parts(recipe.batch_size, recipe.accumulate)
        described: dict[str, Any] = {
            "layout": layout,
            "root": str(data),
            "splits": list(splits),
            "pictures": [len(train_set), len(valid_set)],
        }
        start = {"weights": weights, "weights_backbone": weights_backbone}
        if any(start.values()):
            described["start"] = {name: str(value) for name, value in start.items() if value}
        config = run_config(recipe, network, train_set.dataset, described, precision)
        run = resume_run(out, config, ranks) if resume else None
        is_new = run is None
        run = run or create_run(out, config, ranks)
        if ranks.is_main:
            stack.enter_context(run.folder.held())
        # Depth-wise convolutions and poolings are faster with the channels of a pixel side by side.
        network = network.to(device=ranks.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        ranks.broadcast(network)
        if not quiet:
            parameters, classes = sum(p.numel() for p in network.parameters()), len(train_set.dataset.categories)
            print(
                f"{len(train_set):,} training and {len(valid_set):,} validation pictures of {classes} classes\n"
                f"{out}: {model}, {parameters:,} parameters on "
                f"{ranks.device.type}; epochs: {recipe.all_epochs}, a line follows after each",
                file=sys.stderr,
            )
        try:
            state = fit(
                network,
                run,
                train_set,
                valid_set,
                ranks=ranks,
                limits=limits,
                precision=precision,
                workers=workers,
                broken=broken,
                quiet=quiet,
            )
        except Exception:
            if is_new and ranks.is_main and not run.folder.has_begun():
                run.folder.discard()  # So that it does not stand in the way of the corrected call.
            raise
        if not quiet and state.position.step and not run.folder.curve_path.exists():
            print(why_not_drawn(run.folder.curve_path.name), file=sys.stderr)
        return _result(run, state, len(train_set), len(valid_set))


def make_model(
    name: str,
    recipe: Recipe,
    reader: Reader,
    weights: str | Path | None,
    weights_backbone: str | Path | None,
    options: dict[str, Any],
) -> Network:
    """The model of that name for the classes of a data set and the task of a recipe.

    Raises:
        ValueError: There is no such model, it is of another kind, or weights or options do not fit.
    """
    kind = {"classify": Classifier, "multilabel": Classifier, "segment": Segmenter, "detect": Detector}[recipe.task]
    if network_of(name) is not kind:
        fitting = [other for other in list_models() if network_of(other) is kind]
        raise ValueError(f"model={name!r}: cannot do the task {recipe.task}; take one of {', '.join(fitting)}")
    needed: dict[str, Any] = {"multilabel": {"multi_label": True}, "detect": {"size": recipe.sizes[-1]}}
    options = {**needed.get(recipe.task, {}), **options}
    classes = len(reader.dataset.categories)
    network = create_model(name, num_classes=classes, weights=weights, weights_backbone=weights_backbone, **options)
    network.dataset = reader.dataset
    return network


def fit(
    model: Network,
    run: VisionRun,
    train_set: Reader,
    valid_set: Reader,
    *,
    ranks: Ranks,
    limits: Limits,
    precision: Precision = "float32",
    workers: int = 0,
    broken: Broken = "refuse",
    quiet: bool = False,
) -> TrainingState:
    """Train a model, from the run's checkpoint where there is one: the loop itself.

    Args:
        model: The model with its first weights, on the device; it is trained in place.
        run: The run folder with the recipe.
        train_set: The pictures to learn from.
        valid_set: The pictures to validate on.
        ranks: The processes that train together.
        limits: Where this call ends.
        precision: The precision of the products.
        workers: The processes that read ahead.
        broken: What is done about pictures that cannot be read.
        quiet: Show no progress.

    Raises:
        ValueError: A checkpoint does not fit, a picture is broken and refused, or the loss is no longer finite.
        Interrupted: SIGINT, SIGTERM or SIGHUP came. The step was finished and the checkpoint saved.
    """
    recipe, folder = run.recipe, run.folder
    state = begin(model, recipe, folder, ranks)
    position = state.position
    with StopSignals() as signals, Progress(first_step=position.step, unit="pictures", quiet=quiet) as progress:
        every = {"log_every": recipe.log_every, "checkpoint_every": recipe.checkpoint_every}
        session = Session(folder, ranks, limits, signals, progress, **every, unit="pictures", told=_told)
        over = session.is_called_off(position.step) or position.epoch >= recipe.all_epochs
        if ranks.is_main and not over:
            event = "resume" if position.step else "start"
            folder.log({"event": event, "step": position.step, "processes": ranks.world_size, **machine(ranks.device)})
        while not over:
            stage, _ = recipe.stage(position.epoch)
            # What an epoch reads follows from its number alone, so a resumed run goes on inside of it.
            draw: dict[str, Any] = {"seed": recipe.seed, "epoch": position.epoch}
            share = {"rank": ranks.rank, "ranks": ranks.world_size}
            order = epoch_order(len(train_set), recipe.batch_size, **draw, **share)
            prepared = Prepared(train_set, Varied(recipe, recipe.sizes[stage]), **draw, broken=broken)
            counted = CountingBroken(load(prepared, order[position.batch :], workers))
            steps = position.step - position.batch + (recipe.all_epochs - position.epoch) * len(order)
            progress.expect(steps if limits.max_steps is None else min(steps, limits.max_steps))
            rate_of = partial(learning_rate, recipe, position.epoch, batches=len(order))
            take_step = partial(train_step, state, recipe, rate_of, ranks, precision)
            over = run_epoch(state, counted, len(order), take_step, rate_of, session)
            end_epoch(
                state, run, valid_set, rate_of, len(order), counted.passed_over, session, precision, workers, broken
            )
            state.save(folder, ranks)
            if ranks.is_main:
                quantity = f"training loss, validation error (1 - {QUALITY[recipe.task]})"
                plot_curve(folder.metrics(), folder.curve_path, quantity=quantity)
            over = over or session.is_called_off(position.step) or position.epoch >= recipe.all_epochs
    if signals.received is not None:
        raise Interrupted(signals.received, position.step)
    return state


class CountingBroken:
    """Batches as they come, with a count of the broken pictures that were passed over on the way.

    Attributes:
        passed_over: That count so far.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self.passed_over = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        """Each batch in turn."""
        for batch in self._batches:
            self.passed_over += batch[2]
            yield batch


def _result(run: VisionRun, state: TrainingState, train_pictures: int, valid_pictures: int) -> Result:
    position = state.position
    return Result(
        run=str(run.folder.path),
        task=run.task,
        parameters=sum(p.numel() for p in state.model.parameters()),
        finished=position.epoch >= run.recipe.all_epochs,
        epochs=position.epoch,
        steps=position.step,
        train_pictures=train_pictures,
        valid_pictures=valid_pictures,
        quality=QUALITY[run.task],
        best=1 - position.best,
        pictures_per_second=position.rate,
    )


def _told(loss: float) -> str:
    return f"training loss {loss:.4f}"
