"""Sampling text from a language model."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from eru.inference import optimize
from eru.lm.model import LanguageModel
from eru.lm.run import LanguageModelRun, open_run


def generate(
    run: LanguageModelRun | str | Path,
    prompt: str,
    tokens: int = 100,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> str:
    """Continue a text with a trained model; the unknown word is never made.

    Args:
        run: A run, its folder, or the name of a trained model of the package.
        prompt: The text to continue, from the start of a line; it may be empty and have several lines. It is part of
            what is returned, with what the vocabulary lacks (see `lacking`) as the tokenizer writes it.
        tokens: How many tokens to add.
        temperature: Divides the logits: below 1 the text is likelier, and 0 always takes the likeliest token.
        top_k: Sample from the k likeliest tokens only; None for all.
        top_p: Sample from the likeliest tokens that together reach this probability only; None for all.
        seed: For the same text again; None draws from torch's global generator of the CPU.
        device: Where to compute.

    Raises:
        TypeError: The prompt is not a string.
        ValueError: There is no such run, it has no weights yet, the prompt is not UTF-8 text, or a number is out of
            range.

    Example:
        >>> generate("ptb-awd-7m", "the company said", tokens=5, seed=1).startswith("the company said")
        True
    """
    run = run if isinstance(run, LanguageModelRun) else open_run(run)
    tokenizer = run.tokenizer
    first, *more = _lines(prompt)
    start = tokenizer.encode(first)
    for line in more:
        start += [tokenizer.eos, *tokenizer.encode(line)]
    made = generate_tokens(
        run.load_model(device),
        [tokenizer.eos, *start],  # What a line starts with is learned from the end of the line before it.
        tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        banned=[tokenizer.unknown],
    )
    return tokenizer.decode([*start, *made])


def lacking(run: LanguageModelRun, prompt: str) -> list[str]:
    """The words (or characters, where these are the tokens) of a prompt that a run's vocabulary lacks, each once.

    Raises:
        TypeError: The prompt is not a string.
        ValueError: The prompt is not UTF-8 text.

    Example:
        >>> lacking(open_run("ptb-awd-7m"), "the zebra said")
        ['zebra']
    """
    return list(dict.fromkeys(unit for line in _lines(prompt) for unit in run.tokenizer.lacking(line)))


def _lines(prompt: str) -> list[str]:
    """The lines of a prompt, which end where those of a corpus do: with the newline of any system."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt={prompt!r}: must be a string")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"prompt={prompt!r}: is not UTF-8 text") from error
    return re.split("\r\n|\r|\n", prompt)


@torch.no_grad()
def generate_tokens(
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
    """The ids that continue a prompt of at least one, without the ``banned`` ones; the rest is as `generate` has it.

    The model stays as it is, in its own mode; its inference form does the work.

    Raises:
        ValueError: The prompt is empty, a number is out of range, every token is banned, or the model's outputs are
            not finite.

    Example:
        >>> model = LanguageModel(10, 8, 8)
        >>> generate_tokens(model, [1], 3, seed=0) == generate_tokens(model, [1], 3, seed=0)
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
    if seed is not None and not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed}: must be from 0 to 2**64 - 1")
    device = model.embedding.weight.device
    # Sampling is on the CPU and in float64, so that a seed gives the same text everywhere, at any temperature.
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    fed, state = torch.tensor(prompt, device=device).unsqueeze(1), None
    made: list[int] = []
    model = optimize(model)
    for _ in range(tokens):
        features = model.features(fed, state)
        state = features.state
        scores = model.logits(features.dropped[-1, 0]).double().cpu()
        if not scores.isfinite().all():
            raise ValueError("the model's outputs are not finite: has its training diverged?")
        scores[list(banned)] = -torch.inf
        if temperature == 0:
            token = scores.argmax()
        else:
            scores = (scores - scores.max()) / temperature  # The largest is 0, at the smallest temperature too.
            token = torch.multinomial(truncate(scores, top_k, top_p).softmax(dim=-1), 1, generator=generator)
        made.append(int(token))
        fed = token.view(1, 1).to(device)
    return made


def truncate(scores: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Scores (V,) with minus infinity for all tokens that are not to be sampled.

    ``top_p`` is the probability, among those that ``top_k`` keeps, that the kept ones must reach.

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
