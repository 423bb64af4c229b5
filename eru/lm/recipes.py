"""Recipes: every number of a training run, as functions that return a frozen dataclass."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from eru.lm.model import CellName, LanguageModel, nearest_hidden_size

SHAPE = ("tokenizer", "vocab_size", "cell", "embedding_size", "hidden_size", "num_layers", "conv_axis", "kernel_size")
"""The fields that say which weights there are and what they mean: a run that starts from another's has them too."""

_ACCEPTED: dict[Any, Any] = {float: (float, int)}
# Comparisons with NaN are false, so it fits nowhere.
_RULES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "embedding_size hidden_size num_layers batch_size bptt log_every checkpoint_every",
        lambda value: value >= 1,
        "at least 1",
    ),
    (
        "input_dropout layer_dropout output_dropout embedding_dropout weight_dropout",
        lambda value: 0 <= value < 1,
        "at least 0 and below 1",
    ),
    (
        "epochs warmup_steps weight_decay activation_regularization temporal_regularization nonmonotone_interval "
        "patience",
        lambda value: 0 <= value < math.inf,
        "finite and not negative",
    ),
    ("learning_rate clip", lambda value: 0 < value < math.inf, "finite and above 0"),
    ("floor", lambda value: 0 <= value <= 1, "from 0 to 1"),
    ("seed", lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1"),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training run does; everything but where it runs and where it writes.

    Attributes:
        name: of the recipe.
        tokenizer: ``"word"``, ``"sentencepiece"`` or ``"char"``.
        vocab_size: limit on the vocabulary; ``None`` for the tokenizer's own rule.
        cell: ``"eru"``, or ``"lstm"``, the control: its hidden size is the one whose model has the parameter count
            nearest to the ERU's of ``hidden_size``.
        embedding_size: E, tied to the softmax.
        hidden_size: H of all layers but the last, which has E.
        num_layers: recurrent layers.
        conv_axis: what the ERU's convolutions slide over, ``"feature"`` or ``"time"``.
        kernel_size: taps of the ERU's branches.
        input_dropout: on the embedded tokens.
        layer_dropout: between layers.
        output_dropout: before the softmax.
        embedding_dropout: drops whole words.
        weight_dropout: on the recurrent weights.
        locked: one dropout mask over time in place of a fresh one per step.
        activation_regularization: factor of the mean square of the dropped outputs (AR).
        temporal_regularization: factor of the mean square of the undropped outputs' change from step to step (TAR).
        epochs: passes over the training text, in total.
        batch_size: streams read side by side.
        bptt: steps through which gradients flow.
        random_bptt: draw the length of each window anew, as AWD-LSTM; its learning rate follows its length.
        partial_shuffle: rotate each stream by a random offset of its own, anew every epoch (arXiv 1903.04167).
        optimizer: ``"adamw"`` or ``"sgd"``.
        learning_rate: at its highest.
        schedule: ``"constant"``, ``"cosine"`` or ``"linear"``, down to ``floor``.
        warmup_steps: steps of linear warm-up.
        floor: last learning rate as a share of the highest.
        weight_decay: decoupled for AdamW.
        clip: limit on the norm of the gradient.
        averaging: evaluate the mean of the weights, once the validation loss has not improved for
            ``nonmonotone_interval`` epochs (NT averaging).
        nonmonotone_interval: n of that rule; 0 waits for nothing and averages from the first step.
        patience: end the run once the validation loss has not improved for that many epochs, by the same rule;
            0 for never.
        seed: of everything random.
        log_every: steps between two records of metrics.jsonl.
        checkpoint_every: steps between two checkpoints; one follows every epoch too.
    """

    name: str
    tokenizer: Literal["word", "sentencepiece", "char"] = "word"
    vocab_size: int | None = None
    cell: CellName = "eru"
    embedding_size: int = 400
    hidden_size: int = 448
    num_layers: int = 3
    conv_axis: Literal["feature", "time"] = "feature"
    kernel_size: int = 3
    input_dropout: float = 0.5
    layer_dropout: float = 0.5
    output_dropout: float = 0.5
    embedding_dropout: float = 0.0
    weight_dropout: float = 0.0
    locked: bool = False
    activation_regularization: float = 0.0
    temporal_regularization: float = 0.0
    epochs: int = 200
    batch_size: int = 20
    bptt: int = 70
    random_bptt: bool = True
    partial_shuffle: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_steps: int = 100
    floor: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.25
    averaging: bool = False
    nonmonotone_interval: int = 5
    patience: int = 0
    seed: int = 1
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Refuse values that cannot train, naming them."""
        for name, kind in get_type_hints(Recipe).items():
            value, choices = getattr(self, name), get_args(kind)
            if get_origin(kind) is Literal:
                if value not in choices:
                    raise ValueError(f"{name}={value!r}: must be one of {', '.join(choices)}")
            elif not isinstance(value, _ACCEPTED.get(kind, kind)) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{name}={value!r}: must be of type {getattr(kind, '__name__', kind)}")
        for names, fits, rule in _RULES:
            for name in names.split():
                if not fits(getattr(self, name)):
                    raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")


def small() -> Recipe:
    """Minutes on a CPU: a small model of any small text."""
    return Recipe(
        name="small",
        embedding_size=200,
        hidden_size=256,
        input_dropout=0.25,
        layer_dropout=0.25,
        output_dropout=0.35,
        epochs=3,
        batch_size=20,
        bptt=35,
        learning_rate=4e-3,
        weight_decay=0.02,
    )


def paper_7m() -> Recipe:
    """7 M parameters with standard dropout, as Table 4 of ESPNetv2 and the PRU recipe behind it."""
    return Recipe(
        name="paper-7m",
        activation_regularization=2.0,
        temporal_regularization=1.0,
        optimizer="sgd",
        learning_rate=30.0,
        schedule="constant",
        warmup_steps=0,
        weight_decay=1.2e-6,
        averaging=True,
    )


def paper_15m() -> Recipe:
    """15 M parameters, otherwise :func:`paper_7m`."""
    return replace(paper_7m(), name="paper-15m", hidden_size=976)


def awd_7m() -> Recipe:
    """7 M parameters with AWD-LSTM's regularisers (arXiv 1708.02182) and partial shuffle (arXiv 1903.04167).

    In place of AWD-LSTM's hundreds of epochs of SGD and averaging, AdamW and a rate that falls to zero.
    """
    return Recipe(
        name="awd-7m",
        input_dropout=0.5,
        layer_dropout=0.2,
        output_dropout=0.4,
        embedding_dropout=0.1,
        weight_dropout=0.45,
        locked=True,
        activation_regularization=2.0,
        temporal_regularization=1.0,
        epochs=60,
        batch_size=64,
        bptt=35,
        partial_shuffle=True,
        learning_rate=4e-3,
        schedule="linear",
        warmup_steps=200,
        weight_decay=0.03,
    )


def awd_15m() -> Recipe:
    """15 M parameters and the lower rate that they take, otherwise :func:`awd_7m`."""
    return replace(awd_7m(), name="awd-15m", hidden_size=976, learning_rate=2.5e-3)


RECIPES = {"small": small, "paper-7m": paper_7m, "paper-15m": paper_15m, "awd-7m": awd_7m, "awd-15m": awd_15m}


def make_recipe(name: str, /, **changes: Any) -> Recipe:
    """The recipe of that name, with some fields changed.

    Raises:
        ValueError: an unknown recipe or field, or a value that does not fit.

    Example:
        >>> make_recipe("small", epochs=2).epochs
        2
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r}: must be one of {', '.join(RECIPES)}")
    known = {field.name for field in fields(Recipe)} - {"name"}
    for field in changes:
        if field not in known:
            raise ValueError(f"unknown recipe field {field!r}: must be one of {', '.join(sorted(known))}")
    return replace(RECIPES[name](), **changes)


def parse_field(text: str) -> tuple[str, Any]:
    """Name and value of ``field=value``, the value read as the field's type.

    Raises:
        ValueError: no such field, or a value of another type.

    Example:
        >>> parse_field("hidden_size=64"), parse_field("locked=true"), parse_field("vocab_size=none")
        (('hidden_size', 64), ('locked', True), ('vocab_size', None))
    """
    name, separator, value = text.partition("=")
    kinds = get_type_hints(Recipe)
    if not separator or name not in kinds or name == "name":
        known = ", ".join(sorted(set(kinds) - {"name"}))
        raise ValueError(f"{text!r}: must be field=value with a recipe field, one of {known}")
    kind = kinds[name]
    if kind is bool:
        read = {"true": True, "false": False}.get(value.lower())
    elif kind in (int, float):
        read = _number(kind, value)
    elif kind == int | None:
        return name, None if value.lower() == "none" else _required(
            text, _number(int, value), "a whole number or none"
        )
    else:
        read = value
    expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "text")
    return name, _required(text, read, expected)


def _number(kind: type, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        return None


def _required(text: str, value: Any, expected: str) -> Any:
    if value is None:
        raise ValueError(f"{text!r}: the value must be {expected}")
    return value


def build_model(recipe: Recipe, vocab_size: int) -> LanguageModel:
    """The recipe's model for a vocabulary.

    Example:
        >>> sum(p.numel() for p in build_model(make_recipe("paper-7m"), 10_000).parameters())
        6962576
    """
    build = partial(
        LanguageModel,
        vocab_size,
        recipe.embedding_size,
        num_layers=recipe.num_layers,
        conv_axis=recipe.conv_axis,
        kernel_size=recipe.kernel_size,
        input_dropout=recipe.input_dropout,
        layer_dropout=recipe.layer_dropout,
        output_dropout=recipe.output_dropout,
        embedding_dropout=recipe.embedding_dropout,
        weight_dropout=recipe.weight_dropout,
        locked=recipe.locked,
    )
    if recipe.cell == "eru":
        return build(hidden_size=recipe.hidden_size)
    # On the meta device nothing is drawn, so the seed's sequence stays as it was.
    with torch.device("meta"):
        wanted = sum(p.numel() for p in build(hidden_size=recipe.hidden_size).parameters())
    size = nearest_hidden_size(wanted, lambda size: build(hidden_size=size, cell="lstm"))
    return build(hidden_size=size, cell="lstm")
