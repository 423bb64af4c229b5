"""Training a language model, readable from top to bottom."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor

from eru.lm.batches import Streams
from eru.lm.card import model_card
from eru.lm.evaluate import evaluate_tokens, perplexity_of
from eru.lm.job import Job, Precision
from eru.lm.model import Features, LanguageModel, detach
from eru.lm.ngram import bigram_perplexity, unigram_perplexity
from eru.lm.recipes import Recipe
from eru.lm.run_folder import LanguageModelRun, start_run
from eru.lm.state import Position, Training
from eru.lm.text.corpus import Corpus
from eru.lm.text.tokens import TokenSplit
from eru.training import (
    Progress,
    Ranks,
    WeightAverage,
    check_finite,
    has_stalled,
    machine,
    plot_curve,
    seed_everything,
)


@dataclass(frozen=True)
class Result:
    """What a training run came to.

    Attributes:
        run: the run folder.
        parameters: of the model, tied ones once.
        finished: whether it has come to the last epoch that this call was given; otherwise a resumed call goes on.
        epochs: completed.
        steps: done.
        train_tokens: tokens of the training text.
        fingerprint: of the corpus.
        train_perplexity: mean over the last epoch, with dropout.
        valid_perplexity: of the saved weights, the best of the run, as validated during training.
        unigram_perplexity: of the validation text under word frequencies alone.
        bigram_perplexity: of the validation text under an interpolated bigram model.
        unknown_rate: share of unknown tokens in the validation text.
        tokens_per_second: of training, validation left out.
    """

    run: str
    parameters: int
    finished: bool
    epochs: int
    steps: int
    train_tokens: int
    fingerprint: str
    train_perplexity: float
    valid_perplexity: float
    unigram_perplexity: float
    bigram_perplexity: float
    unknown_rate: float
    tokens_per_second: float


def train(
    recipe: Recipe,
    corpus: Corpus,
    out: str | Path,
    *,
    resume: bool = False,
    epochs: int | None = None,
    max_steps: int | None = None,
    start: str | Path | None = None,
    stop: Callable[[], bool] | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    quiet: bool = False,
) -> Result:
    """Train a language model into a run folder.

    The schedule runs over the recipe's epochs (over ``epochs`` where a new run is given more); ``epochs`` and
    ``max_steps`` say where to stop, counted from the very start of the run, and ``stop`` says when. A run stopped by
    any of them and resumed, in a copy of its folder too, equals one that was never stopped (with several processes but
    for the state that the others carry and their draws, see :meth:`eru.lm.state.Training.restore`).

    Args:
        recipe: what to do.
        corpus: the text.
        out: the run folder; it must hold no run unless ``resume``.
        resume: go on from the last checkpoint; without one start, and when finished do nothing.
        epochs: total epochs; ``None`` for the recipe's.
        max_steps: total steps; ``None`` for no limit.
        start: another run's folder, whose best weights and tokenizer a new run starts from (finetuning; the optimiser
            starts afresh); a resumed run has them already.
        stop: asked before the first step and after each; once it answers true, the call ends as at ``max_steps``.
        device: where to compute.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast.
        quiet: show no progress.

    Raises:
        ValueError: a corpus too small, a folder or a start that does not fit, more epochs than a resumed run's
            schedule has, or a loss that is no longer finite (the last checkpoint then stays as it is).
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: must be one of {', '.join(get_args(Precision))}")
    for name, limit in (("epochs", epochs), ("max_steps", max_steps)):
        if limit is not None and limit < 0:
            raise ValueError(f"{name}={limit}: must not be negative")
    ranks = Ranks.from_environment(device)
    try:
        # A new run's schedule spans all the epochs that it is told to do; a resumed run keeps the schedule it has.
        recipe = replace(recipe, epochs=max(recipe.epochs, epochs or 0))
        run, splits = start_run(out, recipe, corpus, precision, resume=resume, ranks=ranks, start=start)
        if recipe.epochs != run.recipe.epochs and not quiet:
            print(f"this run keeps its schedule of {run.recipe.epochs} epochs", file=sys.stderr)
        recipe = run.recipe
        if epochs is not None and epochs > recipe.epochs and recipe.schedule != "constant" and recipe.floor == 0:
            raise ValueError(
                f"epochs={epochs}: this run's learning rate ends at 0 after {recipe.epochs} epochs; "
                f"start a new run to train longer"
            )
        streams = Streams(splits["train"].ids, recipe.batch_size, ranks.rank, ranks.world_size)
        seed_everything(recipe.seed)
        model = run.build_model(ranks.device)
        ranks.broadcast(model)
        last_epoch = recipe.epochs if epochs is None else epochs
        last_step = 2**62 if max_steps is None else max_steps
        job = Job(recipe, run.folder, streams, splits["valid"].ids, ranks, precision, last_epoch, last_step, stop)
        quiet = quiet or not ranks.is_main
        training = fit(model, job, quiet=quiet)
        result = _result(job, run, corpus, splits, training)
        if not quiet and result.steps and not run.folder.curve_path.exists():
            print("no curve.png: it needs matplotlib", file=sys.stderr)
        if ranks.is_main:
            run.folder.write_card(model_card(recipe, corpus.name, asdict(result), run.folder.config))
        return result
    finally:
        ranks.close()


def fit(model: LanguageModel, job: Job, *, quiet: bool = False) -> Training:
    """Train any model of this kind by a plan, from the plan's folder's checkpoint where there is one.

    What :func:`train` does with a recipe's own model.

    Args:
        model: as drawn; it is trained in place.
        job: the plan.
        quiet: show no progress.

    Raises:
        ValueError: a checkpoint that does not fit, or a loss that is no longer finite.
    """
    training = Training(model, make_optimizer(job.recipe, model))
    if not training.restore(job.folder, job.ranks, job.recipe.seed):
        _begin(job, training)
    _train_epochs(job, training, quiet)
    return training


def make_optimizer(recipe: Recipe, model: LanguageModel) -> torch.optim.Optimizer:
    """The recipe's optimiser over all of the model's parameters."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def _begin(job: Job, training: Training) -> None:
    """What precedes the first step: the weights to start from, validated, and averaging that waits for nothing.

    A run that starts from another's weights keeps them as the best until it has better ones, so its checkpoint is
    written before any other weights can take their place in the folder.
    """
    recipe, position, folder = job.recipe, training.position, job.folder
    started = "start" in folder.config
    if started:
        training.model.load_state_dict(folder.load_weights(job.ranks.device))
        position.best = _validation_loss(job, training.model)
        position.history.append(position.best)
    if recipe.averaging and recipe.nonmonotone_interval == 0:
        training.average = WeightAverage(training.model)
    if started and job.ranks.is_main:
        training.save(folder)


def _train_epochs(job: Job, training: Training, quiet: bool) -> None:
    """Train until the run or the call is over, with a checkpoint after every epoch."""
    position, folder, is_main = training.position, job.folder, job.ranks.is_main
    if is_main and not job.is_over(position):
        folder.log(
            {"event": "resume" if position.step else "start", "step": position.step, **machine(job.ranks.device)}
        )
    complete = True
    with Progress(job.total_steps, first_step=position.step, quiet=quiet) as progress:
        while complete and not job.is_over(position) and not job.is_stopped():
            complete = _train_epoch(job, training, progress)
            _end_epoch(job, training, complete, progress)
            if is_main:
                training.save(folder)
                plot_curve(folder.metrics(), folder.curve_path)


def _train_epoch(job: Job, training: Training, progress: Progress) -> bool:
    """Train from the position to the epoch's end, or to where the call ends; whether the epoch is complete."""
    recipe, position = job.recipe, training.position
    windows = job.windows(position.epoch)
    losses: list[tuple[int, Tensor]] = []
    before = time.perf_counter()
    for start, length in windows[position.window :]:
        losses.append((length, _step(job, training, start, length)))
        position.tokens += length
        position.window += 1
        position.step += 1
        position.trained += length * recipe.batch_size
        progress.advance()
        logs, saves = position.step % recipe.log_every == 0, position.step % recipe.checkpoint_every == 0
        ends = position.step == job.last_step or job.is_stopped() or position.window == len(windows)
        if logs or saves or ends:
            _settle(position, losses)
            position.seconds += time.perf_counter() - before
            if logs:
                _log_step(job, training, len(windows), progress)
            # A checkpoint of the last step would claim an end that was not validated; its own follows the validation.
            if saves and position.step < job.total_steps and job.ranks.is_main:
                training.save(job.folder)
            before = time.perf_counter()
        if ends:
            break
    return position.window == len(windows)


def _settle(position: Position, losses: list[tuple[int, Tensor]]) -> None:
    """Add up the losses of the last steps, read all at once: the device need not wait for us at every step."""
    first = position.step - len(losses) + 1
    means = torch.stack([mean for _, mean in losses]).tolist()
    for step, ((length, _), mean) in enumerate(zip(losses, means, strict=True), first):
        check_finite(mean, step)
        position.loss += length * mean
    losses.clear()


def _step(job: Job, training: Training, start: int, length: int) -> Tensor:
    """One step of the optimiser on one window; the mean loss of its tokens, NaN if a gradient is not finite."""
    recipe, model, optimizer = job.recipe, training.model, training.optimizer
    inputs, targets = job.window(training.position.epoch, start, length)
    for group in optimizer.param_groups:
        group["lr"] = job.learning_rate(training.position.step, length)
    model.train()
    with job.autocast():
        features = model.features(inputs, training.carried)
        loss = model.loss(features, targets)
    (loss + activation_penalty(features, recipe)).backward()
    job.ranks.average_gradients(model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    optimizer.zero_grad()
    training.carried = detach(features.state)
    if training.average is not None:
        training.average.update(model)
    # The norm knows the losses of all processes, so that they stop together, before any saves a broken checkpoint.
    return torch.where(norm.isfinite(), loss.detach(), math.nan)


def activation_penalty(features: Features, recipe: Recipe) -> Tensor | float:
    """AR and TAR of AWD-LSTM (arXiv 1708.02182, section 4.6): on the dropped outputs, and on the raw ones' changes."""
    penalty: Tensor | float = 0.0
    if recipe.activation_regularization:
        penalty = recipe.activation_regularization * features.dropped.float().square().mean()
    if recipe.temporal_regularization and len(features.raw) > 1:
        penalty = penalty + recipe.temporal_regularization * features.raw.float().diff(dim=0).square().mean()
    return penalty


def _log_step(job: Job, training: Training, windows: int, progress: Progress) -> None:
    """Record the mean loss of the epoch so far."""
    position = training.position
    loss = job.ranks.mean(position.running_loss)
    epoch = position.epoch + position.window / windows
    rate = position.rate * job.ranks.world_size
    progress.show(epoch=epoch, loss=loss, rate=rate)
    if job.ranks.is_main:
        job.folder.log(
            {
                "event": "step",
                "step": position.step,
                "epoch": epoch,
                "loss": loss,
                "learning_rate": job.learning_rate(position.step - 1, job.recipe.bptt),
                "tokens_per_second": rate,
            }
        )


def _end_epoch(job: Job, training: Training, complete: bool, progress: Progress) -> None:
    """Validate, keep the weights if they are the best so far, and turn to the next epoch if this one is complete.

    Once averaging has started, both the weights in training and their mean are validated; the mean is what counts.
    A run that goes on from a stop inside an epoch must equal one that never stopped, so a stop keeps the weights only
    where there are none of a complete epoch.
    """
    recipe, position, ranks = job.recipe, training.position, job.ranks
    raw = loss = _validation_loss(job, training.model)
    model = training.model
    if training.average is not None and training.average.count:
        model = cast(LanguageModel, training.average.module)
        loss = _validation_loss(job, model)
    check_finite(loss, position.step)
    if not position.history or (complete and loss < position.best):
        position.best = loss
        if ranks.is_main:
            job.folder.save_weights(model.state_dict())
    train_loss = ranks.mean(position.running_loss)
    if complete:
        position.train_loss = train_loss
        position.history.append(loss)
        position.epoch, position.window, position.loss, position.tokens = position.epoch + 1, 0, 0.0, 0
        training.carried = None
        waiting = recipe.averaging and training.average is None
        if waiting and has_stalled(position.history, recipe.nonmonotone_interval):
            training.average = WeightAverage(training.model)
    if ranks.is_main:
        job.folder.log(
            {
                "event": "epoch" if complete else "stop",
                "step": position.step,
                "epoch": position.epoch,
                "train_loss": train_loss,
                "valid_loss": loss,
                "raw_valid_loss": raw,
                "averaging": training.average is not None,
                "learning_rate": job.learning_rate(position.step - 1, recipe.bptt),
                "tokens_per_second": position.rate * ranks.world_size,
                "seconds": position.seconds,
            }
        )
    progress.end_epoch(
        f"epoch {position.epoch}, step {position.step}, training perplexity {perplexity_of(train_loss):.2f}, "
        f"validation perplexity {perplexity_of(loss):.2f}"
    )


def _validation_loss(job: Job, model: LanguageModel) -> float:
    """Mean loss of the validation text, read in as many streams as the training text."""
    found = evaluate_tokens(model, job.valid, batch_size=job.recipe.batch_size)
    return job.ranks.mean(found.loss)


def _result(
    job: Job, run: LanguageModelRun, corpus: Corpus, splits: dict[str, TokenSplit], training: Training
) -> Result:
    position, ranks, vocabulary = training.position, job.ranks, run.tokenizer.vocab_size
    ids, valid = splits["train"].ids, splits["valid"].ids
    return Result(
        run=str(run.folder.path),
        parameters=sum(p.numel() for p in training.model.parameters()),
        finished=job.is_finished(position),
        epochs=position.epoch,
        steps=position.step,
        train_tokens=len(ids),
        fingerprint=corpus.fingerprint,
        train_perplexity=perplexity_of(ranks.mean(position.running_loss)),
        valid_perplexity=perplexity_of(position.best),
        unigram_perplexity=unigram_perplexity(ids, valid, vocabulary),
        bigram_perplexity=bigram_perplexity(ids, valid, vocabulary),
        unknown_rate=splits["valid"].unknown_rate,
        tokens_per_second=position.rate * ranks.world_size,
    )
