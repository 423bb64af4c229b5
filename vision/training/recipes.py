"""Recipes of the vision tasks: every number of a training, as frozen dataclasses."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from eru.guess import did_you_mean
from eru.training import OptimizerName
from vision.data.sample import Task
from vision.training.schedules import Schedule

Size = tuple[int, int]
Freeze = Literal["nothing", "batch-norm", "backbone"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training of a vision model does; everything but its data, its model, and where it runs.

    A training has one stage for each of its ``rates``; the schedule runs over every stage anew.

    Attributes:
        name: The name of the recipe.
        task: ``"classify"``, ``"multilabel"``, ``"segment"`` or ``"detect"``.
        epochs: The passes over the training pictures in each stage.
        batch_size: The pictures of a step, of all processes together.
        accumulate: The parts into which each process cuts its pictures of a step; their gradients are added up one
            after the other, so that the memory of one part is enough. Batch norm sees one part at a time.
        sizes: Height and width of the model's input, for each stage.
        optimizer: ``"sgd"``, ``"adamw"`` or ``"adam"``.
        rates: The highest learning rate of each stage.
        momentum: How much of the last update SGD keeps; the two kinds of Adam have 0.9.
        weight_decay: The weight decay: decoupled for AdamW, a part of the gradient for the others.
        clip: The limit on the norm of the gradient.
        schedule: ``"cycles"``, ``"cosine"`` or ``"constant"``; see :func:`vision.training.schedules.rate_factor`, as
            for the next five.
        cycle: The epochs of a cycle.
        cycles_end: The epoch of a stage from which on one cycle reaches to its end; -1 for never.
        milestones: The epochs of a stage from which on the rate is multiplied by ``gamma`` once more.
        gamma: That factor.
        warmup_epochs: The epochs of the cosine's warm-up.
        ema: How much of the mean of the weights a step keeps (exponential moving average), which is validated in place
            of the weights; 0 for no such mean.
        smoothing: The share of the label that is spread over all classes (label smoothing), of one label a picture.
        mixup: The alpha of MixUp's beta distribution, of one label a picture; 0 for none.
        smallest_crop: The least share of a picture that a random crop shows, in classification of one kind or the
            other; 1 always shows the whole picture.
        scales: How much a picture is reduced or enlarged, at random between the two, before a crop of the input's size
            is cut out of it, in segmentation.
        expand: How many times as wide and high as a picture the canvas is at most on which it is put down, in
            detection; 1 for no canvas.
        flip: The probability that a picture is mirrored, left to right.
        photometric: How far brightness, contrast and saturation are changed at most, as a share; hue by a tenth of it.
        freeze: What does not learn: ``"nothing"``, ``"batch-norm"`` (its statistics stay too) or ``"backbone"`` (with
            the statistics of its batch norms).
        seed: The seed of everything random.
        log_every: The steps between two records of metrics.jsonl.
        checkpoint_every: The steps between two checkpoints; one follows every epoch too.
    """

    name: str
    task: Task
    epochs: int
    batch_size: int
    accumulate: int = 1
    sizes: tuple[Size, ...]
    optimizer: OptimizerName = "sgd"
    rates: tuple[float, ...]
    momentum: float = 0.9
    weight_decay: float = 4e-5
    clip: float = 10.0
    schedule: Schedule = "cycles"
    cycle: int = 5
    cycles_end: int = -1
    milestones: tuple[int, ...] = ()
    gamma: float = 0.5
    warmup_epochs: int = 0
    ema: float = 0.0
    smoothing: float = 0.0
    mixup: float = 0.0
    smallest_crop: float = 0.08
    scales: tuple[float, float] = (0.5, 2.0)
    expand: float = 4.0
    flip: float = 0.5
    photometric: float = 0.0
    freeze: Freeze = "nothing"
    seed: int = 1
    log_every: int = 20
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        """Refuse what nothing would notice where it is used."""
        choices_of = {"task": Task, "schedule": Schedule, "optimizer": OptimizerName, "freeze": Freeze}
        for name, choices in choices_of.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(get_args(choices))}")
        if not self.rates or len(self.sizes) != len(self.rates):
            raise ValueError(f"sizes={self.sizes}, rates={self.rates}: there must be one of each for every stage")
        for names, fits, rule in _RULES:
            for name in names.split():
                value = getattr(self, name)
                if not all(map(fits, value if isinstance(value, tuple) else [value])):
                    raise ValueError(f"{name}={value}: must be {rule}")
        if len(self.scales) != 2 or self.scales[0] > self.scales[1]:
            raise ValueError(f"scales={self.scales}: must be a smaller number and a larger one")
        for name in ("smoothing", "mixup"):
            if getattr(self, name) and self.task != "classify":
                raise ValueError(f"{name}={getattr(self, name)}: is for the task classify, not for {self.task}")

    @property
    def all_epochs(self) -> int:
        """The epochs of all stages."""
        return self.epochs * len(self.rates)

    def stage(self, epoch: int) -> tuple[int, int]:
        """The number of the stage after so many complete epochs, and that of its own complete epochs."""
        number = min(epoch // self.epochs, len(self.rates) - 1)
        return number, epoch - number * self.epochs


# Comparisons with NaN are false, so it fits nowhere.
_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("epochs batch_size accumulate cycle expand log_every checkpoint_every", lambda value: value >= 1, "at least 1"),
    ("rates clip gamma scales", lambda value: 0 < value < math.inf, "finite and above 0"),
    ("weight_decay mixup warmup_epochs", lambda value: 0 <= value < math.inf, "finite and not negative"),
    ("momentum ema smoothing photometric", lambda value: 0 <= value < 1, "from 0 to below 1"),
    ("flip", lambda value: 0 <= value <= 1, "from 0 to 1"),
    ("smallest_crop", lambda value: 0 < value <= 1, "above 0, at most 1"),
    ("sizes", lambda value: min(value) >= 32, "heights and widths of at least 32"),
)

_IMAGENET = Recipe(
    name="paper",
    task="classify",
    epochs=300,
    batch_size=512,
    sizes=((224, 224),),
    rates=(0.5,),
    milestones=(50, 100, 130, 160, 190, 220, 250, 280),
)
_FIXED = replace(_IMAGENET, name="paper-fixed", epochs=90, rates=(0.1,), cycle=1, milestones=(30, 60), gamma=0.1)
_SEGMENT = Recipe(
    name="paper",
    task="segment",
    epochs=100,
    batch_size=16,
    sizes=((256, 256), (384, 384)),
    rates=(0.007, 0.003),
    cycles_end=50,
)
_DETECT = Recipe(
    name="paper",
    task="detect",
    epochs=100,
    batch_size=32,
    sizes=((300, 300),),
    rates=(0.01,),
    weight_decay=5e-4,
    cycles_end=50,
    photometric=0.5,
)
_MODERN: dict[str, Any] = {
    "name": "modern",
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup_epochs": 5,
    "ema": 0.999,
}
_SHAPES: dict[str, Any] = {
    "name": "shapes",
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "sizes": ((128, 128),),
    "smallest_crop": 0.5,
}
_ALL = [
    _IMAGENET,
    replace(_IMAGENET, task="multilabel", epochs=100, batch_size=128, rates=(0.005,), milestones=(50, 80)),
    _SEGMENT,
    _DETECT,
    _FIXED,
    replace(_FIXED, name="paper-cyclic", rates=(0.5,), cycle=5, milestones=(30, 60), gamma=0.5),
    replace(_SEGMENT, name="paper-cityscapes", sizes=((256, 512), (512, 1024))),
    replace(_IMAGENET, **_MODERN, rates=(2e-3,), milestones=(), smoothing=0.1, mixup=0.2),
    replace(_IMAGENET, **_MODERN, task="multilabel", epochs=60, batch_size=128, rates=(1e-3,), milestones=()),
    replace(_SEGMENT, **_MODERN, sizes=((384, 384),), rates=(1e-3,), photometric=0.4),
    replace(_DETECT, **_MODERN, rates=(1e-3,)),
    replace(_IMAGENET, **_SHAPES, epochs=7, batch_size=16, rates=(4e-3,), milestones=()),
    # A crop would cut away shapes whose labels stay.
    replace(
        _IMAGENET,
        **{**_SHAPES, "smallest_crop": 1.0},
        task="multilabel",
        epochs=7,
        batch_size=16,
        rates=(4e-3,),
        milestones=(),
    ),
    replace(_SEGMENT, **_SHAPES, epochs=3, rates=(4e-3,), scales=(0.8, 1.25)),
    replace(_DETECT, **_SHAPES, epochs=5, batch_size=16, rates=(3e-3,), expand=1.5, photometric=0.1),
]
RECIPES: dict[str, dict[Task, Recipe]] = {}
"""The recipes by name and task.

``paper`` and its variants are those of ESPNetv2: classification (section 4.1; Table 6 for ``paper-fixed`` and
``paper-cyclic``), multi-label classification (Fig. 6), segmentation (section 4.2) and detection (section 4.3).
``modern`` has what came after it; ``shapes`` trains the small pictures that `vision.data.write_shapes` draws.
"""
for _recipe in _ALL:
    RECIPES.setdefault(_recipe.name, {})[_recipe.task] = _recipe


def make_recipe(name: str, task: str, /, **changes: Any) -> Recipe:
    """The recipe of that name for a task, with some fields changed.

    Raises:
        ValueError: There is no such recipe, it is not for this task, or a field or value does not fit.

    Example:
        >>> make_recipe("paper", "segment").stage(120)
        (1, 20)
    """
    if name not in RECIPES:
        raise ValueError(f"recipe={name!r}: must be one of {', '.join(RECIPES)}")
    own: dict[Any, Recipe] = {**RECIPES[name]}
    if task not in own:
        raise ValueError(f"recipe={name!r}: is for {', '.join(own)}, not for task={task!r}")
    known = [field.name for field in fields(Recipe) if field.name not in ("name", "task")]
    for field in changes:
        if field not in known:
            raise ValueError(f"unknown recipe field {field!r}: must be one of {', '.join(known)}")
    return replace(own[task], **changes)


def read_recipe(saved: Any) -> Recipe:
    """The recipe that a run's config.json holds, where tuples are lists.

    Raises:
        ValueError: A field is unknown, missing or has a value that does not fit.
    """
    try:
        return Recipe(**{name: with_tuples(value) for name, value in saved.items()})
    except (AttributeError, TypeError) as error:
        raise ValueError(f"no recipe: {error}") from error


def parse_field(text: str) -> tuple[str, Any]:
    """The name and the value of ``field=value``; of several stages the values stand between commas.

    Raises:
        ValueError: There is no such field, or the value is of another type.

    Example:
        >>> parse_field("sizes=256x256,384x512"), parse_field("rates=0.1"), parse_field("epochs=3")
        (('sizes', ((256, 256), (384, 512))), ('rates', (0.1,)), ('epochs', 3))
    """
    name, separator, value = text.partition("=")
    kinds = {name: kind for name, kind in get_type_hints(Recipe).items() if name not in ("name", "task")}
    if not separator or name not in kinds:
        meant = "" if name in kinds else did_you_mean(name, kinds)
        raise ValueError(f"{text!r}: {meant}must be field=value with a recipe field, one of {', '.join(kinds)}")
    read, expected = _READERS.get(kinds[name], (str, "a name"))
    try:
        return name, read(value)
    except ValueError:
        raise ValueError(f"{text!r}: the value must be {expected}") from None


def _size(text: str) -> Size:
    height, width = text.lower().split("x")
    return int(height), int(width)


def _several(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(read(part) for part in text.split(",") if part)


_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple[Size, ...]: (_several(_size), "sizes such as 256x256,384x384"),
    tuple[float, ...]: (_several(float), "numbers between commas"),
    tuple[float, float]: (_several(float), "two numbers with a comma between them"),
    tuple[int, ...]: (_several(int), "whole numbers between commas"),
}


def with_tuples(value: Any) -> Any:
    """A value of JSON with tuples in place of its lists."""
    return tuple(with_tuples(item) for item in value) if isinstance(value, list) else value
