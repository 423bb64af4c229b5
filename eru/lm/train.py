"""Training a language model, readable from top to bottom."""

import math
import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from eru.cell import State
from eru.lm.batches import Streams, segments
from eru.lm.card import model_card
from eru.lm.corpus import Corpus
from eru.lm.evaluate import evaluate
from eru.lm.model import Features, LanguageModel, detach
from eru.lm.ngram import bigram_perplexity, unigram_perplexity
from eru.lm.recipes import Recipe
from eru.lm.run import LanguageModelRun, start_run
from eru.lm.tokens import TokenSplit
from eru.training import (
    Progress,
    Ranks,
    RunFolder,
    Schedule,
    WeightAverage,
    check_finite,
    make_schedule,
    plot_curve,
    rng_state,
    seed_everything,
    set_rng_state,
    should_start_averaging,
)

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Result:
    """What a training run came to.

    Attributes:
        run: the run folder.
        parameters: of the model, tied ones once.
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


@dataclass
class Position:
    """Where a run stands."""

    epoch: int = 0  # completed
    window: int = 0  # of this epoch, completed
    step: int = 0  # of the whole run, completed
    loss: float = 0.0  # summed over this epoch's tokens
    tokens: int = 0  # of this epoch, in this process
    trained: int = 0  # tokens of the whole run, in this process
    seconds: float = 0.0  # of training in the whole run, validation left out
    train_loss: float = math.nan  # mean of the last completed epoch
    history: list[float] = field(default_factory=list)  # validation losses of the weights in training
    best: float = math.inf  # validation loss of the saved weights
    at_stop: float = math.inf  # validation loss where the run was stopped inside an epoch

    def __str__(self) -> str:
        """Where, and how good, in words."""
        loss = self.loss / self.tokens if self.tokens else self.train_loss
        return f"epoch {self.epoch}, step {self.step}, training perplexity {_exp(loss):.2f}"


@dataclass
class Training:
    """Everything that changes from step to step: what a checkpoint holds."""

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

    def restore(self, folder: RunFolder, ranks: Ranks, seed: int) -> None:
        """Go back to the checkpoint, if there is one.

        It holds the carried state and the generators of the first process; others start theirs anew.
        """
        saved = folder.load_state()
        if saved is None:
            return
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
            folder.log({"event": "resume", "step": self.position.step})
        else:
            seed_everything((seed + 1_000_003 * ranks.rank + self.position.step) % 2**32)


@dataclass(frozen=True)
class Job:
    """Everything that stays the same during a call of :func:`train`."""

    recipe: Recipe
    folder: RunFolder
    streams: Streams
    valid: np.ndarray
    ranks: Ranks
    precision: Precision
    last_epoch: int
    last_step: int

    def windows(self, epoch: int) -> list[tuple[int, int]]:
        """Start and length of every window of an epoch."""
        recipe = self.recipe
        length = self.streams.length
        return segments(length, recipe.bptt, seed=recipe.seed, epoch=epoch, randomised=recipe.random_bptt)

    @cached_property
    def total_steps(self) -> int:
        """Steps at which this call's limits end the run."""
        return min(sum(len(self.windows(epoch)) for epoch in range(self.last_epoch)), self.last_step)

    @cached_property
    def schedule(self) -> Schedule:
        """Learning-rate factor of a step; it spans the recipe's epochs wherever the run is told to stop."""
        recipe = self.recipe
        steps = max(sum(len(self.windows(epoch)) for epoch in range(recipe.epochs)), 1)
        warmup = min(recipe.warmup_steps, steps - 1)
        return make_schedule(recipe.schedule, warmup=warmup, total=steps, floor=recipe.floor)

    def learning_rate(self, step: int, length: int) -> float:
        """Of a step; with random window lengths it follows the length, as in AWD-LSTM."""
        share = length / self.recipe.bptt if self.recipe.random_bptt else 1.0
        return self.recipe.learning_rate * self.schedule(step) * share

    def autocast(self) -> AbstractContextManager:
        """The precision of the forward pass."""
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=enabled)


def train(
    recipe: Recipe,
    corpus: Corpus,
    out: str | Path,
    *,
    resume: bool = False,
    epochs: int | None = None,
    max_steps: int | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    quiet: bool = False,
) -> Result:
    """Train a language model into a run folder.

    The schedule runs over the recipe's epochs; ``epochs`` and ``max_steps`` say where to stop, counted from the very
    start of the run, so that a run stopped there and resumed equals one that was never stopped.

    Args:
        recipe: what to do.
        corpus: the text.
        out: the run folder; it must hold no run unless ``resume``.
        resume: go on from the last checkpoint; without one start, and when finished do nothing.
        epochs: total epochs; ``None`` for the recipe's.
        max_steps: total steps; ``None`` for no limit.
        device: where to compute.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast.
        quiet: show no progress.

    Raises:
        ValueError: a corpus too small, a folder that does not fit, or a loss that is no longer finite (the last
            checkpoint then stays as it is).
    """
    for name, limit in (("epochs", epochs), ("max_steps", max_steps)):
        if limit is not None and limit < 0:
            raise ValueError(f"{name}={limit}: must not be negative")
    ranks = Ranks.from_environment(device)
    try:
        run, splits = start_run(out, recipe, corpus, precision, resume=resume, ranks=ranks)
        recipe = run.recipe
        streams = Streams(splits["train"].ids, recipe.batch_size, ranks.rank, ranks.world_size)
        seed_everything(recipe.seed)
        model = run.build_model(ranks.device)
        ranks.broadcast(model)
        training = Training(model, make_optimizer(recipe, model))
        training.restore(run.folder, ranks, recipe.seed)

        last_epoch = recipe.epochs if epochs is None else epochs
        last_step = 2**62 if max_steps is None else max_steps
        job = Job(recipe, run.folder, streams, splits["valid"].ids, ranks, precision, last_epoch, last_step)
        position = training.position
        with Progress(job.total_steps, first_step=position.step, quiet=quiet or not ranks.is_main) as progress:
            while position.epoch < last_epoch and position.step < last_step:
                complete = _train_epoch(job, training, progress)
                loss = _validate(job, training, complete)
                progress.end_epoch(f"{position}, validation perplexity {_exp(loss):.2f}")
                if ranks.is_main:
                    training.save(run.folder)
                    if not plot_curve(run.folder.metrics(), run.folder.curve_path):
                        progress.end_epoch("no curve.png: it needs matplotlib (pip install 'eru[plots]')")

        result = _result(run, corpus, splits, training, ranks)
        if ranks.is_main:
            run.folder.write_card(model_card(recipe, corpus.name, asdict(result), run.folder.config["versions"]))
        return result
    finally:
        ranks.close()


def make_optimizer(recipe: Recipe, model: LanguageModel) -> torch.optim.Optimizer:
    """The recipe's optimiser over all of the model's parameters."""
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.AdamW(model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def _train_epoch(job: Job, training: Training, progress: Progress) -> bool:
    """Train from the position to the epoch's end, or to the last step; whether the epoch is complete."""
    recipe, position = job.recipe, training.position
    windows = job.windows(position.epoch)
    position.at_stop = math.inf
    for start, length in windows[position.window :]:
        if position.step == job.last_step:
            return False
        before = time.perf_counter()
        position.loss += length * _step(job, training, start, length)
        position.tokens += length
        position.window += 1
        position.step += 1
        position.trained += length * recipe.batch_size
        position.seconds += time.perf_counter() - before
        progress.advance()
        if position.step % recipe.log_every == 0:
            _log_step(job, training, len(windows), progress)
        if position.step % recipe.checkpoint_every == 0:
            check_finite(position.loss, position.step)
            if job.ranks.is_main:
                training.save(job.folder)
    check_finite(position.loss, position.step)
    return True


def _step(job: Job, training: Training, start: int, length: int) -> float:
    """One step of the optimiser on one window; the mean loss of its tokens."""
    recipe, model, optimizer = job.recipe, training.model, training.optimizer
    inputs, targets = (tokens.to(job.ranks.device) for tokens in job.streams.window(start, length))
    for group in optimizer.param_groups:
        group["lr"] = job.learning_rate(training.position.step, length)
    model.train()
    with job.autocast():
        features = model.features(inputs, training.carried)
        loss = model.loss(features, targets)
    (loss + activation_penalty(features, recipe)).backward()
    job.ranks.average_gradients(model.parameters())
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    optimizer.zero_grad()
    training.carried = detach(features.state)
    if training.average is not None:
        training.average.update(model)
    return loss.item()


def activation_penalty(features: Features, recipe: Recipe) -> Tensor | float:
    """AR and TAR of AWD-LSTM (arXiv 1708.02182, section 4.6): on the dropped outputs, and on the raw ones' changes."""
    penalty: Tensor | float = 0.0
    if recipe.activation_regularization:
        penalty = recipe.activation_regularization * features.dropped.float().square().mean()
    if recipe.temporal_regularization and len(features.raw) > 1:
        penalty = penalty + recipe.temporal_regularization * features.raw.float().diff(dim=0).square().mean()
    return penalty


def _log_step(job: Job, training: Training, windows: int, progress: Progress) -> None:
    position = training.position
    loss = job.ranks.mean(position.loss / position.tokens)
    check_finite(loss, position.step)
    epoch = position.epoch + position.window / windows
    rate = position.trained * job.ranks.world_size / position.seconds
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


def _validate(job: Job, training: Training, complete: bool) -> float:
    """Validate, keep the weights if they are the best so far, and turn to the next epoch if this one is complete.

    Once averaging has started, both the weights in training and their mean are validated; the mean is what counts.
    """
    recipe, position, folder = job.recipe, training.position, job.folder
    raw = job.ranks.mean(evaluate(training.model, job.valid, batch_size=recipe.batch_size).loss)
    loss, best = raw, training.model
    if training.average is not None and training.average.count:
        best = cast(LanguageModel, training.average.module)
        loss = job.ranks.mean(evaluate(best, job.valid, batch_size=recipe.batch_size).loss)
    if job.ranks.is_main and loss < position.best:
        folder.save_weights(best.state_dict())
    if not complete:
        # Not remembered as the best: a run that goes on from here must equal one that never stopped.
        position.at_stop = loss
    else:
        position.best = min(position.best, loss)
        position.history.append(loss)
        position.train_loss = job.ranks.mean(position.loss / position.tokens)
        position.epoch, position.window, position.loss, position.tokens = position.epoch + 1, 0, 0.0, 0
        training.carried = None
        if (
            recipe.averaging
            and training.average is None
            and should_start_averaging(position.history, recipe.nonmonotone_interval)
        ):
            training.average = WeightAverage(training.model)
    if job.ranks.is_main:
        folder.log(
            {
                "event": "epoch" if complete else "stop",
                "step": position.step,
                "epoch": position.epoch,
                "train_loss": position.train_loss,
                "valid_loss": loss,
                "raw_valid_loss": raw,
                "averaging": training.average is not None,
                "learning_rate": job.learning_rate(position.step - 1, recipe.bptt),
                "tokens_per_second": position.trained * job.ranks.world_size / max(position.seconds, 1e-9),
                "seconds": position.seconds,
            }
        )
    return loss


def _result(
    run: LanguageModelRun, corpus: Corpus, splits: dict[str, TokenSplit], training: Training, ranks: Ranks
) -> Result:
    position, vocabulary = training.position, run.tokenizer.vocab_size
    ids, valid = splits["train"].ids, splits["valid"].ids
    return Result(
        run=str(run.folder.path),
        parameters=sum(p.numel() for p in training.model.parameters()),
        epochs=position.epoch,
        steps=position.step,
        train_tokens=len(ids),
        fingerprint=corpus.fingerprint,
        train_perplexity=_exp(position.loss / position.tokens if position.tokens else position.train_loss),
        valid_perplexity=_exp(min(position.best, position.at_stop)),
        unigram_perplexity=unigram_perplexity(ids, valid, vocabulary),
        bigram_perplexity=bigram_perplexity(ids, valid, vocabulary),
        unknown_rate=splits["valid"].unknown_rate,
        tokens_per_second=position.trained * ranks.world_size / max(position.seconds, 1e-9),
    )


def _exp(loss: float) -> float:
    """Perplexity of a loss; infinite where it is not known."""
    return math.exp(loss) if loss < 700 else math.inf
