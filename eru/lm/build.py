"""From a recipe to its model, and what that takes."""

from typing import Any

import torch

from eru.lm.model import CellName, LanguageModel, nearest_hidden_size
from eru.lm.recipes import Recipe
from eru.training import check_memory
from eru.undrawn import Undrawn


def build_model(recipe: Recipe, vocab_size: int) -> LanguageModel:
    """The recipe's model for a vocabulary, with weights drawn from the current seed.

    Raises:
        ValueError: A size or a probability is out of its range.

    Example:
        >>> from eru.lm.recipes import make_recipe
        >>> sum(p.numel() for p in build_model(make_recipe("paper-7m"), 10_000).parameters())
        6954740
    """
    hidden_size, groups = recipe.hidden_size, recipe.recurrent_groups
    if recipe.cell == "lstm":  # The groups must divide its hidden size.
        wanted = count_parameters(recipe, vocab_size)
        share = nearest_hidden_size(wanted, lambda share: _count(recipe, vocab_size, "lstm", groups * share))
        hidden_size = groups * share
    return _build(recipe, vocab_size, recipe.num_layers, recipe.cell, hidden_size)


def count_parameters(recipe: Recipe, vocab_size: int) -> int:
    """The number of parameters of the recipe's ERU, about that of its control, found without building it.

    Raises:
        ValueError: A size is out of its range, or larger than any memory.
    """
    sizes = (recipe.embedding_size, recipe.hidden_size, recipe.kernel_size, vocab_size)
    try:
        return _count(recipe, vocab_size, "eru", recipe.hidden_size)
    except (RuntimeError, TypeError) as error:  # PyTorch says so where a tensor's size overflows its integers.
        if max(sizes) < 10**6:
            raise
        raise ValueError(f"{_sizes_of(recipe, vocab_size)}: no memory is large enough for such a model") from error


def check_model_fits(recipe: Recipe, vocab_size: int, device: str | torch.device, *, training: bool) -> None:
    """Refuse a model that the device has not memory enough for, before anything of it is made.

    A training needs the weights, their gradients, and what the optimiser and the averaging keep of each, in float32.

    Raises:
        ValueError: It does not fit.
    """
    kept = 1 + (2 if recipe.optimizer == "adamw" else 0) + (1 if recipe.averaging else 0)
    needed = 4 * count_parameters(recipe, vocab_size) * (1 + kept if training else 1)
    check_memory(needed, device, _sizes_of(recipe, vocab_size))


def _sizes_of(recipe: Recipe, vocab_size: int) -> str:
    names = ("hidden_size", "num_layers", "embedding_size")
    return ", ".join([*(f"{name}={getattr(recipe, name)}" for name in names), f"a vocabulary of {vocab_size}"])


def _count(recipe: Recipe, vocab_size: int, cell: CellName, hidden_size: int) -> int:
    """The parameters of a model; of its layers between the first and the last, which are alike, one is built."""

    def count(num_layers: int) -> int:
        with Undrawn():  # Nothing is drawn there, so the seed's sequence stays as it was.
            return sum(p.numel() for p in _build(recipe, vocab_size, num_layers, cell, hidden_size).parameters())

    if recipe.num_layers <= 3:
        return count(recipe.num_layers)
    return count(3) + (recipe.num_layers - 3) * (count(3) - count(2))


def _build(recipe: Recipe, vocab_size: int, num_layers: int, cell: CellName, hidden_size: int) -> LanguageModel:
    names = ("kernel_size", "branches", "groups", "shared_reduce") if cell == "eru" else ()
    unit: dict[str, Any] = {name: getattr(recipe, name) for name in names}
    return LanguageModel(
        vocab_size,
        recipe.embedding_size,
        hidden_size,
        num_layers,
        cell=cell,
        **unit,
        recurrent_groups=recipe.recurrent_groups,
        softmax_head=recipe.softmax_head,
        sampled_softmax=recipe.sampled_softmax,
        input_dropout=recipe.input_dropout,
        layer_dropout=recipe.layer_dropout,
        output_dropout=recipe.output_dropout,
        embedding_dropout=recipe.embedding_dropout,
        weight_dropout=recipe.weight_dropout,
        hidden_dropout=recipe.hidden_dropout,
        locked=recipe.locked,
    )
