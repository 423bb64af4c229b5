"""How well a language model predicts a text, every token counted once."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eru.lm.adapt.dynamic import gradient_rms
from eru.lm.adapt.search import AdaptationGrid, choose_adaptation, grid_losses
from eru.lm.model import LanguageModel, evaluating
from eru.lm.run import LanguageModelRun, open_run, trained_on
from eru.lm.text.corpus import Corpus, load_corpus
from eru.lm.text.tokens import encode_corpus
from eru.training import counted

_IGNORED = -100
_STREAMS = 100  # For gradient statistics, as the authors of dynamic evaluation have it.
_CHOOSE_TOKENS = 10_000
_MANY_LACKING = 0.05


@dataclass(frozen=True)
class Evaluation:
    """How well a token array was predicted.

    Attributes:
        tokens: The number of predictions, one fewer than the array has tokens.
        loss: Mean negative log-likelihood of a token in nats.
    """

    tokens: int
    loss: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity_of(self.loss)


def perplexity_of(loss: float) -> float:
    """exp(loss), or infinity where that is too large or the loss is not known.

    Example:
        >>> perplexity_of(0.0), perplexity_of(1e4), perplexity_of(float("nan"))
        (1.0, inf, inf)
    """
    return math.exp(loss) if loss < 700 else math.inf


@torch.no_grad()
def evaluate_tokens(
    model: LanguageModel,
    ids: np.ndarray,
    *,
    batch_size: int = 1,
    window: int = 70,
    count: Callable[[int], object] | None = None,
) -> Evaluation:
    """Predict ``ids[1:]`` from ``ids[:-1]``, each token exactly once, the state carried from window to window.

    Args:
        model: The model, which is in evaluation mode during the call.
        ids: Token ids, at least 2.
        batch_size: The number of streams that the text is cut into, to go faster. Every stream but the first starts
            without its context, so only 1 is exact.
        window: Steps computed at once. It changes nothing but memory and speed.
        count: What is called with how many more predictions are made, as they are.

    Raises:
        ValueError: There are fewer than 2 tokens, or the batch size or the window is below 1.
    """
    if len(ids) < 2:
        raise ValueError(f"ids of {len(ids)} tokens: at least 2 are needed to predict one")
    for name, size in (("batch_size", batch_size), ("window", window)):
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
    predicted = len(ids) - 1
    # Streams of equal length, of which the last may be shorter; those that would be empty are left out.
    length = math.ceil(predicted / batch_size)
    batch_size = math.ceil(predicted / length)
    device = model.embedding.weight.device
    state, total = None, torch.zeros((), dtype=torch.float64, device=device)
    with evaluating(model):
        for start in range(0, length, window):
            inputs, targets = _window(ids, start, min(window, length - start), length, batch_size)
            logits, state = model(inputs.to(device), state)
            loss = F.cross_entropy(
                logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)),
                targets.to(device).flatten(),
                ignore_index=_IGNORED,
                reduction="none",
            )
            total += loss.sum(dtype=torch.float64)
            if count is not None:
                count(int((targets != _IGNORED).sum()))
    return Evaluation(predicted, total.item() / predicted)


@dataclass(frozen=True)
class Report:
    """How well a trained model predicts one split of a corpus. As a string it is what `lm-eval` prints.

    Attributes:
        run: The run folder.
        weights: SHA-256 of the file of its weights.
        data: Name of the corpus.
        split: The split of the corpus.
        tokenizer: The kind of tokens: ``word``, ``sentencepiece`` or ``char``.
        tokens: The number of predictions.
        perplexity: The perplexity of a token.
        word_perplexity: The perplexity of a word as white space separates them, where each end of a line counts as
            one. It compares between tokenizers that know every word, and so do the bits.
        bits_per_byte: The bits that the model needs for a byte of the text in UTF-8.
        unknown_rate: The share of unknown tokens, from 0 to 1.
        lacking_rate: The share of tokens that are unknown because the vocabulary lacks them. The other unknown ones
            are marked in the text itself, as in the Penn Treebank.
        text_changed: Whether the text that the run was trained on was asked for and has changed since.
        adaptation: The fields of `eru.lm.adapt.search.AdaptationGrid` that the predictions were made with.
        chosen_on: Predictions of the validation text that these fields were chosen on; 0 if there was no choice.
        valid_perplexity: Their perplexity with the chosen fields; None if there was no choice.
    """

    run: str
    weights: str
    data: str
    split: str
    tokenizer: str
    tokens: int
    perplexity: float
    word_perplexity: float
    bits_per_byte: float
    unknown_rate: float
    lacking_rate: float
    text_changed: bool
    adaptation: dict[str, float]
    chosen_on: int
    valid_perplexity: float | None

    def __str__(self) -> str:
        lines = [
            f"{self.data} {self.split}: perplexity {self.perplexity:.2f} over {self.tokens:,} {self.tokenizer} tokens "
            f"({self.word_perplexity:.2f} per word), {self.bits_per_byte:.3f} bits per byte, "
            f"{self.unknown_rate:.2%} unknown"
        ]
        if self.adaptation != _single(AdaptationGrid()):
            lines.append("adapted with " + ", ".join(f"{name}={value:g}" for name, value in self.adaptation.items()))
        if self.valid_perplexity is not None:
            lines.append(
                f"chosen on the first {self.chosen_on:,} validation tokens, perplexity {self.valid_perplexity:.2f}"
            )
        return "\n".join(lines)

    @property
    def notes(self) -> list[str]:
        """What must be known before the figures are quoted."""
        notes = []
        if self.text_changed:
            notes.append(f"{self.data} is not the text that this run was trained on: its files have changed since")
        if self.lacking_rate >= _MANY_LACKING:
            notes.append(
                f"the vocabulary lacks {self.lacking_rate:.0%} of the tokens, and whatever is unknown is easy to "
                f"predict, so these figures are too good: train with the tokenizer sentencepiece, which lacks nothing"
            )
        return notes


def evaluate(
    run: LanguageModelRun | str | Path,
    split: str = "test",
    *,
    data: Corpus | str | Path | None = None,
    data_dir: str | Path | None = None,
    grid: AdaptationGrid | None = None,
    choose_tokens: int | None = None,
    device: str = "cpu",
    quiet: bool = False,
) -> Report:
    """Exact perplexity of a trained model on a split of a corpus, adapted to it where a grid says so.

    Of several combinations of a grid the best one on the validation text is taken, and the split is read with that one
    alone.

    Args:
        run: A run, its folder, or the name of a trained model of the package.
        split: ``train``, ``valid`` or ``test``.
        data: The corpus, or what `eru.lm.text.corpus.load_corpus` finds it by; by default the one that the run was
            trained on. Gradient statistics for dynamic evaluation come from its training split.
        data_dir: For the Penn Treebank, the one folder to look in.
        grid: How to adapt; by default not at all. See `eru.lm.adapt.search.default_grid`.
        choose_tokens: How many predictions of the validation text to choose on. By default these are all, or the first
            10,000 where dynamic evaluation is in the grid, since it reads them once for each of its combinations.
        device: Where to compute.
        quiet: Show no progress.

    Raises:
        ValueError: There is no such run, corpus or split, the run has no weights yet, a number is out of range,
            ``choose_tokens`` is given with nothing to choose, or the model's outputs are not finite.

    Example:
        ``evaluate("ptb-awd-7m", "valid").perplexity`` reads the validation text of the Penn Treebank.
    """
    run = run if isinstance(run, LanguageModelRun) else open_run(run)
    grid = AdaptationGrid() if grid is None else grid
    if choose_tokens is not None and (choose_tokens < 1 or grid.combinations == 1):
        reason = "must be at least 1" if choose_tokens < 1 else "there is nothing to choose"
        raise ValueError(f"choose_tokens={choose_tokens}: {reason}")
    corpus, text_changed = _find_corpus(run, data, data_dir)
    words = lacking = 0
    for line in corpus.lines(split):
        words += len(line.split()) + 1
        lacking += len(run.tokenizer.lacking(line))
    model = run.load_model(device)
    splits = encode_corpus(corpus, run.tokenizer, quiet=quiet)
    text, rms, chosen_on, valid_perplexity = splits[split], None, 0, None
    shown: dict[str, Any] = {"unit": "tokens", "quiet": quiet}
    if grid.learns:
        ids = splits["train"].ids
        with counted(len(ids), "gradients of the training text", **shown) as count:
            rms = gradient_rms(model, ids, batch_size=min(_STREAMS, len(ids) // 2), count=count)
    if grid.combinations > 1:
        limit = choose_tokens or (_CHOOSE_TOKENS if grid.learns else None)
        ids = splits["valid"].ids[: None if limit is None else limit + 1]
        with counted(grid.readings * (len(ids) - 1), "choosing on the validation text", **shown) as count:
            grid, loss = choose_adaptation(model, ids, grid, rms, count)
        chosen_on, valid_perplexity = len(ids) - 1, perplexity_of(loss)
    tokens = len(text.ids) - 1  # The first token is only read, and so is the first word.
    with counted(tokens, f"reading the {split} text", **shown) as count:
        loss = grid_losses(model, text.ids, grid, rms, count).item()
    if not math.isfinite(loss):
        raise ValueError(f"the mean loss of the {split} text is {loss}: the model's outputs are not finite")
    return Report(
        run=str(run.folder.path),
        weights=run.folder.weights_sha256(),
        data=corpus.name,
        split=split,
        tokenizer=run.recipe.tokenizer,
        tokens=tokens,
        perplexity=perplexity_of(loss),
        word_perplexity=perplexity_of(loss * tokens / (words - 1)),
        bits_per_byte=loss * tokens / math.log(2) / text.bytes,
        unknown_rate=text.unknown_rate,
        lacking_rate=lacking / len(text.ids),
        text_changed=text_changed,
        adaptation=_single(grid),
        chosen_on=chosen_on,
        valid_perplexity=valid_perplexity,
    )


def _find_corpus(
    run: LanguageModelRun, data: Corpus | str | Path | None, data_dir: str | Path | None
) -> tuple[Corpus, bool]:
    """The corpus to read, and whether it was meant to be the run's own and is not any more."""
    if data is not None:
        return data if isinstance(data, Corpus) else load_corpus(data, data_dir), False
    name, fingerprint = trained_on(run.folder)
    corpus = load_corpus(name, data_dir)
    return corpus, corpus.fingerprint != fingerprint


def _single(grid: AdaptationGrid) -> dict[str, float]:
    """The fields of a grid of one combination."""
    return {name: values[0] for name, values in asdict(grid).items()}


def _window(ids: np.ndarray, start: int, steps: int, length: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a window of every stream, each of shape (T, B); what lies behind the text is ignored."""
    positions = np.arange(start, start + steps)[:, None] + length * np.arange(batch_size)[None, :]
    behind = positions >= len(ids) - 1
    positions = np.minimum(positions, len(ids) - 2)
    inputs = torch.from_numpy(ids[positions].astype(np.int64))
    targets = torch.from_numpy(ids[positions + 1].astype(np.int64))
    return inputs, targets.masked_fill(torch.from_numpy(behind), _IGNORED)
