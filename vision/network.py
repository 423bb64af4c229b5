"""What all whole models share: a backbone with a head, and a description from which they can be built again."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor, nn

from vision.backbone import LEVELS, ESPNetv2, FeatureInfo
from vision.datasets import Dataset
from vision.options import whole_number
from vision.preprocessing import Preprocessing

# Where a model lives, how many classes it has and which levels its kind uses are told apart from its options.
_MOST_CLASSES = 1_000_000  # far more than anyone has, and no more than memory has room for
_NOT_OPTIONS = {"num_classes", "depth", "image_levels", "out_indices", "device", "dtype"}


def option_names(build: Callable[..., nn.Module]) -> list[str]:
    """The options of :class:`vision.ESPNetv2` or of a class of whole models: what shapes them in their constructor."""
    return [name for name in signature(build).parameters if name not in _NOT_OPTIONS]


class Network(nn.Module):
    """A backbone with a head.

    Every option of a class (see :func:`option_names`) is also an attribute of that name, of the model or of its
    backbone. So :meth:`architecture` is read off the model, and an option that was not kept raises AttributeError.

    Args:
        options: What the backbone is made with, see :class:`vision.ESPNetv2`; depth and levels are those of the class.
    """

    depth: ClassVar[int] = LEVELS
    image_levels: ClassVar[tuple[int, ...]] = (2, 3, 4)  # the levels that are fed the image

    # What a kind of models tells by its weights: the number of classes or an option, the weight and its axis.
    told_by_shapes: ClassVar[dict[str, tuple[str, int]]] = {}

    num_classes: int
    reset_classifier: Callable[[int], None]
    name: str | None = None  # like preprocessing, where the registry made the model
    weights_record: Any = None  # the record of the published weights that were loaded last
    dataset: Dataset | None = None  # what the classes are called, if they are those of a known dataset
    preprocessing: Preprocessing | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.backbone = ESPNetv2(depth=self.depth, image_levels=self.image_levels, **options)

    def architecture(self) -> dict[str, Any]:
        """The model's options, by which a file of weights can say how to build it again."""
        names = option_names(type(self))
        return {name: getattr(self if hasattr(self, name) else self.backbone, name) for name in names}

    @classmethod
    def read_options(cls, state: Mapping[str, Tensor]) -> dict[str, int]:
        """What the shapes of a state dict say of its model: some of the options, and the number of classes."""
        shapes = {"in_channels": ("backbone.level1.0.weight", 1), **cls.told_by_shapes}
        # The sizes of an axis, which is missing where a file is crooked.
        sizes = {option: state[name].shape[axis:] for option, (name, axis) in shapes.items() if name in state}
        return {option: size[0] for option, size in sizes.items() if size}

    @property
    def feature_info(self) -> FeatureInfo:
        """What the backbone's maps are."""
        return self.backbone.feature_info

    @property
    def num_features(self) -> int:
        """Channels of the backbone's last map."""
        return self.feature_info[-1]["num_chs"]

    def forward_features(self, x: Tensor) -> Tensor:
        """The backbone's last map (N, num_features, H / r, W / r), with the last reduction r of ``feature_info``."""
        return self.backbone.forward_features(x)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See :meth:`vision.ESPNetv2.set_grad_checkpointing`."""
        self.backbone.set_grad_checkpointing(enable)

    def _take_classes(self, num_classes: int, least: int) -> None:
        """Remember how many classes there are from now on; what they are called is then unknown."""
        self.num_classes, self.dataset = whole_number("num_classes", num_classes, least, _MOST_CLASSES), None
