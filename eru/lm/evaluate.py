"""Perplexity of a language model on a token array, every token counted once."""

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eru.lm.adapt.dynamic import gradient_rms
from eru.lm.adapt.search import Grid, choose, losses
from eru.lm.model import LanguageModel, evaluating
from eru.lm.run_folder import LanguageModelRun
from eru.lm.text.corpus import Corpus
from eru.lm.text.tokens import encode_corpus

_IGNORED = -100
_STREAMS = 100  # for gradient statistics, as the authors of dynamic evaluation
_CHOOSE_TOKENS = 10_000


@dataclass(frozen=True)
class Evaluation:
    """How well a text was predicted.

    Attributes:
        tokens: predictions made, one fewer than the text has tokens.
        loss: mean negative log-likelihood of a token in nats.
    """

    tokens: int
    loss: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return perplexity_of(self.loss)

    def bits_per_byte(self, text_bytes: int) -> float:
        """All bits spent, over the bytes of the text in UTF-8: comparable between tokenizers."""
        return self.loss * self.tokens / math.log(2) / text_bytes


def perplexity_of(loss: float) -> float:
    """exp(loss), infinite where that is too large or the loss is not known.

    Example:
        >>> perplexity_of(0.0), perplexity_of(1e4), perplexity_of(float("nan"))
        (1.0, inf, inf)
    """
    return math.exp(loss) if loss < 700 else math.inf


@torch.no_grad()
def evaluate(model: LanguageModel, ids: np.ndarray, *, batch_size: int = 1, window: int = 70) -> Evaluation:
    """Predict ``ids[1:]`` from ``ids[:-1]``, each token exactly once, the state carried from window to window.

    Args:
        model: it is put into evaluation mode for the call.
        ids: token ids, at least 2.
        batch_size: streams that the text is cut into, to go faster. Every stream but the first starts without its
            context, so only 1 is exact.
        window: steps computed at once; it changes nothing but memory and speed.

    Raises:
        ValueError: fewer than 2 tokens, or a batch size or a window below 1.

    Example:
        >>> model = LanguageModel(10, 8, 8)
        >>> evaluate(model, np.array([1, 2, 3, 4])).tokens
        3
    """
    if len(ids) < 2:
        raise ValueError(f"ids of {len(ids)} tokens: at least 2 are needed to predict one")
    for name, size in (("batch_size", batch_size), ("window", window)):
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
    predicted = len(ids) - 1
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
    return Evaluation(predicted, total.item() / predicted)


@dataclass(frozen=True)
class Report:
    """How well a trained model predicts one split of a corpus.

    Attributes:
        run: the run folder.
        weights: SHA-256 of its weights' file.
        data: the corpus.
        split: of the corpus.
        tokens: predictions made.
        perplexity: per token.
        word_perplexity: per word as white space separates them, each line's end counted as one; comparable between
            tokenizers that know every word.
        bits_per_byte: likewise, per byte of UTF-8.
        unknown_rate: share of unknown tokens.
        adaptation: the fields of :class:`eru.lm.adapt.search.Grid` that the predictions were made with.
        chosen_on: predictions of the validation text that these were chosen on; 0 if there was nothing to choose.
        valid_perplexity: of the chosen ones, on these predictions.
    """

    run: str
    weights: str
    data: str
    split: str
    tokens: int
    perplexity: float
    word_perplexity: float
    bits_per_byte: float
    unknown_rate: float
    adaptation: dict[str, float]
    chosen_on: int = 0
    valid_perplexity: float | None = None


def evaluate_run(
    run: LanguageModelRun,
    corpus: Corpus,
    split: str,
    *,
    grid: Grid | None = None,
    choose_tokens: int | None = None,
    device: str = "cpu",
) -> Report:
    """Exact perplexity of a run's saved weights on a split, adapted to it where a grid says so.

    Of several combinations the best one on the validation text is taken, and the split is read with that one alone.

    Args:
        run: a trained run.
        corpus: the text; gradient statistics for dynamic evaluation come from its training split.
        split: the one to report on.
        grid: how to adapt; ``None`` for the model as it is.
        choose_tokens: how many predictions of the validation text to choose on; by default all, or the first 10,000
            where dynamic evaluation is among the choices, since it reads them once for each of its combinations.
        device: where to compute.

    Raises:
        ValueError: no such split, no weights yet, a number out of range, or ``choose_tokens`` with nothing to choose.
    """
    grid = Grid() if grid is None else grid
    if choose_tokens is not None and (choose_tokens < 1 or grid.combinations == 1):
        reason = "must be at least 1" if choose_tokens < 1 else "there is nothing to choose"
        raise ValueError(f"choose_tokens={choose_tokens}: {reason}")
    words = sum(len(line.split()) + 1 for line in corpus.lines(split)) - 1
    model = run.load_model(device)
    splits = encode_corpus(corpus, run.tokenizer)
    tokens, rms, chosen_on, valid_perplexity = splits[split], None, 0, None
    if grid.learns:
        ids = splits["train"].ids
        rms = gradient_rms(model, ids, batch_size=min(_STREAMS, len(ids) // 2))
    if grid.combinations > 1:
        limit = choose_tokens or (_CHOOSE_TOKENS if grid.learns else None)
        ids = splits["valid"].ids[: None if limit is None else limit + 1]
        grid, loss = choose(model, ids, grid, rms)
        chosen_on, valid_perplexity = len(ids) - 1, perplexity_of(loss)
    found = Evaluation(len(tokens.ids) - 1, losses(model, tokens.ids, grid, rms).item())
    return Report(
        run=str(run.folder.path),
        weights=run.folder.weights_sha256(),
        data=corpus.name,
        split=split,
        tokens=found.tokens,
        perplexity=found.perplexity,
        word_perplexity=perplexity_of(found.loss * found.tokens / words),
        bits_per_byte=found.bits_per_byte(tokens.bytes),
        unknown_rate=tokens.unknown_rate,
        adaptation={name: values[0] for name, values in asdict(grid).items()},
        chosen_on=chosen_on,
        valid_perplexity=valid_perplexity,
    )


def _window(ids: np.ndarray, start: int, steps: int, length: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (T, B) of steps start, ... of every stream; what lies behind the text is ignored."""
    positions = np.arange(start, start + steps)[:, None] + length * np.arange(batch_size)[None, :]
    behind = positions >= len(ids) - 1
    positions = np.minimum(positions, len(ids) - 2)
    inputs = torch.from_numpy(ids[positions].astype(np.int64))
    targets = torch.from_numpy(ids[positions + 1].astype(np.int64))
    return inputs, targets.masked_fill(torch.from_numpy(behind), _IGNORED)
