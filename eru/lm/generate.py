"""Sampling text from a language model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from eru.inference import optimize
from eru.lm.model import LanguageModel
from eru.lm.run_folder import LanguageModelRun


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    banned: Sequence[int] = (),
) -> list[int]:
    """Continue a prompt token by token.

    Args:
        model: it stays as it is, in its own mode; its inference form does the work.
        prompt: ids to start from, at least one.
        tokens: how many to add.
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: keep the k likeliest tokens; ``None`` for all.
        top_p: keep the likeliest tokens that together reach this probability; ``None`` for all.
        seed: of the sampling; ``None`` draws from torch's global generator of the CPU.
        banned: ids that are never sampled, such as the unknown word.

    Returns:
        The new ids, without the prompt.

    Raises:
        ValueError: an empty prompt, a number out of range, or every token banned.

    Example:
        >>> model = LanguageModel(10, 8, 8)
        >>> generate(model, [1], 3, seed=0) == generate(model, [1], 3, seed=0)
        True
    """
    _check_ids(prompt, banned, model.vocab_size)
    if tokens < 0:
        raise ValueError(f"tokens={tokens}: must not be negative")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature}: must be finite and not negative")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: must be above 0 and at most 1")
    device = model.embedding.weight.device
    # Sampling is on the CPU and in float64: the same seed gives the same text everywhere, at any temperature.
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    fed, state = torch.tensor(prompt, device=device).unsqueeze(1), None
    made: list[int] = []
    model = optimize(model)
    for _ in range(tokens):
        features = model.features(fed, state)
        state = features.state
        scores = model.logits(features.dropped[-1, 0]).double().cpu()
        scores[list(banned)] = -torch.inf
        if temperature == 0:
            token = scores.argmax()
        else:
            scores = (scores - scores.max()) / temperature
            token = torch.multinomial(truncate(scores, top_k, top_p).softmax(dim=-1), 1, generator=generator)
        made.append(int(token))
        fed = token.view(1, 1).to(device)
    return made


def generate_text(
    run: LanguageModelRun,
    prompt: str,
    tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> str:
    """Continue a text with a run's saved weights; the unknown word is never made.

    Args:
        run: a trained run.
        prompt: at the start of a line; it is part of what is returned, its unknown words as the tokenizer writes them.
        tokens: how many to add.
        temperature: see :func:`generate`.
        top_k: see :func:`generate`.
        top_p: see :func:`generate`.
        seed: see :func:`generate`.
        device: where to compute.

    Raises:
        ValueError: a number out of range, or no weights yet.
    """
    tokenizer = run.tokenizer
    first, *more = prompt.split("\n")
    start = tokenizer.encode(first)
    for line in more:
        start += [tokenizer.eos, *tokenizer.encode(line)]
    banned = () if tokenizer.unknown is None else (tokenizer.unknown,)
    made = generate(
        run.load_model(device),
        [tokenizer.eos, *start],
        tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        banned=banned,
    )
    return tokenizer.decode([*start, *made])


def truncate(scores: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Scores (V,) with all but the ``top_k`` and the ``top_p`` nucleus at minus infinity.

    Example:
        >>> truncate(torch.tensor([1.0, 3.0, 2.0]), top_k=2, top_p=None)
        tensor([-inf, 3., 2.])
    """
    ordered, order = scores.sort(descending=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k is not None:
        keep[top_k:] = False
    if top_p is not None:
        probabilities = ordered.masked_fill(~keep, -torch.inf).softmax(dim=-1)
        # A token stays while those before it have not reached top_p, so the likeliest always stays.
        keep &= probabilities.cumsum(dim=-1) - probabilities < top_p
    return torch.full_like(scores, -torch.inf).scatter(0, order[keep], ordered[keep])


def _check_ids(prompt: Sequence[int], banned: Sequence[int], vocab_size: int) -> None:
    if not len(prompt):
        raise ValueError("prompt=[]: at least one token is needed to start from")
    for name, ids in (("prompt", prompt), ("banned", banned)):
        if wrong := [token for token in ids if not 0 <= token < vocab_size]:
            raise ValueError(f"{name} has the id {wrong[0]}: must be from 0 to {vocab_size - 1}")
    if len(set(banned)) == vocab_size:
        raise ValueError(f"banned: all {vocab_size} tokens are, so none is left")
