"""Recipes: every number of a training run, as functions that return a frozen dataclass."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from eru.guess import did_you_mean
from eru.lm.model import CellName
from eru.lm.text.tokenizer import TokenizerKind
from eru.training import OptimizerName, Schedule

FORM: dict[str, Any] = {"shared_reduce": True, "branches": 1, "groups": 4, "recurrent_groups": 4}
"""The form that the recipes take: of the ERU's it learned best at equal size. docs/results.md has the comparison.

A :class:`Recipe` has other defaults, so that the config.json of an older run means what it meant.
"""
# Whatever else has limits is checked by the function that uses it. Comparisons with NaN are false, so it fits nowhere.
_RULES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("epochs accumulate log_every checkpoint_every", lambda value: value >= 1, "at least 1"),
    ("softmax_head sampled_softmax", lambda value: value >= 0, "at least 0"),
    (
        "weight_decay activation_regularization temporal_regularization nonmonotone_interval patience",
        lambda value: 0 <= value < math.inf,
        "finite and not negative",
    ),
    ("learning_rate clip", lambda value: 0 < value < math.inf, "finite and above 0"),
    ("averaging_start", lambda value: 0 <= value <= 1, "from 0 to 1"),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training run does; everything but where it runs and where it writes.

    Attributes:
        name: The name of the recipe.
        tokenizer: ``"word"``, ``"sentencepiece"`` or ``"char"``.
        vocab_size: The limit on the vocabulary; ``None`` for the tokenizer's own rule.
        cell: ``"eru"``, or ``"lstm"`` for the control. Its hidden size is the one whose model has the parameter count
            nearest to that of the ERU's model with this ``hidden_size`` and ``kernel_size``.
        embedding_size: E, the width of the embedding, which is tied to the softmax.
        hidden_size: H, the width of all layers but the last, which has E.
        num_layers: The number of recurrent layers.
        kernel_size: The number of taps of the ERU's branches.
        branches: K, the number of the ERU's branches; ``None`` for its own choice, as in the next field.
        groups: The number of groups of the ERU's maps.
        shared_reduce: Whether the gates of an ERU cell share one EESP unit, in place of one unit for each gate.
        recurrent_groups: R, the number of blocks into which the recurrent maps are cut, of either cell.
        softmax_head: How many of the most frequent words the softmax predicts in one step, of a vocabulary of many; 0
            for all.
        sampled_softmax: How many words, on average, the loss of a training step looks at, of a vocabulary of at least
            twice as many; 0 for all.
        input_dropout: The dropout on the embedded tokens.
        layer_dropout: The dropout between layers.
        output_dropout: The dropout before the softmax.
        embedding_dropout: The dropout of whole words.
        weight_dropout: The dropout on the recurrent weights.
        hidden_dropout: The dropout on the hidden state where it recurs, one mask for a window.
        locked: Whether one dropout mask holds for all steps of a window in place of a fresh one for each.
        activation_regularization: The factor of the mean square of the dropped outputs (AR).
        temporal_regularization: The factor of the mean square of the undropped outputs' change between steps (TAR).
        epochs: The passes over the training text, over which the schedule runs.
        batch_size: The number of streams that are read side by side, by all processes together.
        accumulate: The parts into which each process cuts its streams; their gradients are added up one after the
            other, so that the memory of one part is enough.
        bptt: The steps of a window, through which gradients flow.
        random_bptt: Whether each window's length is drawn, as in AWD-LSTM; its learning rate follows its length.
        partial_shuffle: Whether each stream is rotated by a random offset, anew every epoch (arXiv 1903.04167).
        optimizer: ``"adamw"``, ``"adam"`` or ``"sgd"``.
        beta1: How much of the mean gradient the two kinds of Adam keep from step to step.
        learning_rate: The highest learning rate.
        schedule: ``"constant"``, or ``"cosine"``, ``"linear"`` or ``"drop"`` (at once), which fall to ``floor``.
        warmup_steps: The steps of linear warm-up.
        hold: The share of the run after the warm-up over which the highest rate stays before it falls.
        floor: The last learning rate as a share of the highest.
        weight_decay: The weight decay: decoupled for AdamW, a part of the gradient for the others.
        clip: The limit on the norm of the gradient.
        averaging: Whether a mean of the weights is made, once the validation loss has not improved for
            ``nonmonotone_interval`` epochs (NT averaging). It is validated beside them, and the better ones count.
        nonmonotone_interval: The n of that rule; 0 waits for no such thing.
        averaging_start: The share of the epochs before which no mean begins.
        patience: The run ends once the validation loss has not improved for that many epochs, by the same rule;
            0 for never.
        seed: The seed of everything random.
        log_every: The steps between two records of metrics.jsonl.
        checkpoint_every: The steps between two checkpoints; one follows every epoch too.
    """

    name: str
    tokenizer: TokenizerKind = "word"
    vocab_size: int | None = None
    cell: CellName = "eru"
    embedding_size: int = 400
    hidden_size: int = 448
    num_layers: int = 3
    kernel_size: int = 3
    branches: int | None = None
    groups: int | None = None
    shared_reduce: bool = False
    recurrent_groups: int = 1
    softmax_head: int = 0
    sampled_softmax: int = 0
    input_dropout: float = 0.5
    layer_dropout: float = 0.5
    output_dropout: float = 0.5
    embedding_dropout: float = 0.0
    weight_dropout: float = 0.0
    hidden_dropout: float = 0.0
    locked: bool = False
    activation_regularization: float = 0.0
    temporal_regularization: float = 0.0
    epochs: int = 200
    batch_size: int = 20
    accumulate: int = 1
    bptt: int = 70
    random_bptt: bool = True
    partial_shuffle: bool = False
    optimizer: OptimizerName = "adamw"
    beta1: float = 0.9
    learning_rate: float = 2e-3
    schedule: Schedule = "cosine"
    warmup_steps: int = 100
    hold: float = 0.0
    floor: float = 0.0
    weight_decay: float = 0.0
    clip: float = 0.25
    averaging: bool = False
    nonmonotone_interval: int = 5
    averaging_start: float = 0.0
    patience: int = 0
    seed: int = 1
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Refuse values of another type, and those that nothing would notice where they are used."""
        for name, kind in get_type_hints(Recipe).items():
            value, choices = getattr(self, name), get_args(kind)
            accepted = (float, int) if kind is float else kind
            if get_origin(kind) is Literal:
                if value not in choices:
                    raise ValueError(f"{name}={value!r}: must be one of {', '.join(choices)}")
            elif not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{name}={value!r}: must be of type {getattr(kind, '__name__', kind)}")
        for names, fits, rule in _RULES:
            for name in names.split():
                if not fits(getattr(self, name)):
                    raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")
        if self.softmax_head and self.sampled_softmax:  # said here, before a long text is read for nothing
            raise ValueError(
                f"softmax_head={self.softmax_head}, sampled_softmax={self.sampled_softmax}: one of the two must be 0"
            )


def small() -> Recipe:
    """A small model of any small text, trained in minutes on a CPU."""
    return Recipe(
        name="small",
        **FORM,
        embedding_size=200,
        hidden_size=368,
        sampled_softmax=2500,
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
    """7 M parameters with standard dropout, as in Table 4 of ESPNetv2 and the PRU recipe behind it."""
    return Recipe(
        name="paper-7m",
        **FORM,
        hidden_size=648,
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
    """15 M parameters, otherwise `paper_7m`."""
    return replace(paper_7m(), name="paper-15m", hidden_size=1376)


def awd_7m() -> Recipe:
    """7 M parameters with AWD-LSTM's regularisers (arXiv 1708.02182) and partial shuffle (arXiv 1903.04167).

    AdamW, whose rate falls to a third late in the run, takes the place of AWD-LSTM's SGD, and the mean of the weights
    over the last epochs that of a mean whose beginning the validation loss chooses.
    """
    return Recipe(
        name="awd-7m",
        **FORM,
        hidden_size=648,
        sampled_softmax=2500,
        input_dropout=0.5,
        layer_dropout=0.2,
        output_dropout=0.4,
        embedding_dropout=0.1,
        weight_dropout=0.45,
        locked=True,
        activation_regularization=2.0,
        temporal_regularization=1.0,
        epochs=66,
        batch_size=32,
        bptt=35,
        partial_shuffle=True,
        learning_rate=3e-3,
        schedule="drop",
        warmup_steps=200,
        hold=0.725,
        floor=1 / 3,
        weight_decay=0.03,
        averaging=True,
        nonmonotone_interval=0,
        averaging_start=0.87,
        checkpoint_every=400,
    )


def awd_15m() -> Recipe:
    """15 M parameters, otherwise `awd_7m`. That they take a lower rate was seen in an older form of the ERU."""
    return replace(awd_7m(), name="awd-15m", hidden_size=1376, learning_rate=2e-3)


def lstm_7m() -> Recipe:
    """The control of `awd_7m`: an LSTM of equal size, its recurrent maps in as many groups."""
    return replace(awd_7m(), name="lstm-7m", cell="lstm")


RECIPES = {make().name: make for make in (small, paper_7m, paper_15m, awd_7m, awd_15m, lstm_7m)}


def make_recipe(name: str, /, **changes: Any) -> Recipe:
    """The recipe of that name, with some fields changed.

    Args:
        name: One of `RECIPES`.
        **changes: Fields of `Recipe` and their new values.

    Raises:
        ValueError: There is no such recipe or field, or a value does not fit.

    Example:
        >>> make_recipe("small", epochs=2).epochs
        2
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r}: must be one of {', '.join(RECIPES)}")
    known = _field_types()
    for field in changes:
        if field not in known:
            raise ValueError(f"unknown recipe field {field!r}: must be one of {', '.join(sorted(known))}")
    return replace(RECIPES[name](), **changes)


def read_recipe(fields: Any) -> Recipe:
    """The recipe that a run's config.json holds, by whichever version of this library.

    A field that is younger than the file means its default. An older file's ``conv_axis`` says what the ERU's
    convolutions slid over; only ``"feature"`` is left of that.

    Raises:
        ValueError: A field is unknown or has a value that does not fit, or the run needs a form that is gone.
    """
    try:
        fields = dict(fields)
        if fields.pop("conv_axis", "feature") != "feature":
            raise ValueError("conv_axis='time': this form of the ERU is no longer part of the library")
        return Recipe(**fields)
    except TypeError as error:
        raise ValueError(f"no recipe: {error}") from error


def shape_of(recipe: Recipe) -> dict[str, Any]:
    """The fields that say what weights there are and what they mean: a run that starts from another's has them too."""
    sizes = ["tokenizer", "vocab_size", "cell", "embedding_size", "hidden_size", "num_layers"]
    form = ["kernel_size", "branches", "groups", "shared_reduce", "recurrent_groups", "softmax_head"]
    return {name: getattr(recipe, name) for name in (*sizes, *form)}


def parse_field(text: str) -> tuple[str, Any]:
    """The name and the value of ``field=value``, the value read as the type of that field of `Recipe`.

    Raises:
        ValueError: There is no such field, or the value is of another type.

    Example:
        >>> parse_field("hidden_size=64"), parse_field("locked=true"), parse_field("vocab_size=none")
        (('hidden_size', 64), ('locked', True), ('vocab_size', None))
    """
    name, separator, value = text.partition("=")
    kinds = _field_types()
    if not separator or name not in kinds:
        meant = "" if name in kinds else did_you_mean(name, kinds)
        raise ValueError(
            f"{text!r}: {meant}must be field=value with a recipe field, one of {', '.join(sorted(kinds))}"
        )
    readers: dict[Any, tuple[Callable[[str], Any], str]] = {
        bool: (lambda word: {"true": True, "false": False}[word.lower()], "true or false"),
        int: (int, "a whole number"),
        float: (float, "a number"),
        int | None: (lambda word: None if word.lower() == "none" else int(word), "a whole number or none"),
    }
    read, expected = readers.get(kinds[name], (str, "text"))  # A choice stays text, which the recipe checks.
    try:
        return name, read(value)
    except (KeyError, ValueError):
        raise ValueError(f"{text!r}: the value must be {expected}") from None


def _field_types() -> dict[str, Any]:
    """The fields of a recipe that can be changed, with their types."""
    return {name: kind for name, kind in get_type_hints(Recipe).items() if name != "name"}
