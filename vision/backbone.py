"""The ESPNetv2 backbone: five levels, each half the size of the one before."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from eru import EESP2d
from eru.eesp import Convolution
from eru.strided import pool_by_two
from vision.layers import ConvNormAct, PublishedDown, init_weights
from vision.options import whole_number

WIDTHS = (0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0)
LEVELS = 5
SMALLEST_SIDE = 32
REPEATS = {3: 3, 4: 7, 5: 3}
# Limits on what a branch may see, by level: of the strided unit and of the units after it.
_DOWN_LIMITS = {2: 13, 3: 11, 4: 9, 5: 7}
_UNIT_LIMITS = {3: 9, 4: 7, 5: 5}


def channels(width: float) -> tuple[int, ...]:
    """Channels of the five levels, and of the map that a classifier pools, for a width s (Table 2).

    The base is 32 times the width, rounded up to a multiple of 4, so widths a few hundredths apart may be one and the
    same network. Where the paper's division into branches and groups does not fit the channels, the units choose
    another one.

    Raises:
        ValueError: The width is not a number above 0.

    Example:
        >>> channels(0.5), channels(2.0)
        ((16, 32, 64, 128, 256, 1024), (32, 128, 256, 512, 1024, 1280))
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < math.inf:
        raise ValueError(f"width={width!r}: must be a number above 0, such as {', '.join(map(str, WIDTHS))}")
    base = 4 * math.ceil(max(1, int(32 * width)) / 4)
    return (min(32, base), *(base * 2**level for level in range(1, LEVELS)), 1024 if width <= 1.5 else 1280)


class FeatureInfo(list[dict[str, Any]]):
    """What the maps of a backbone are: a list of ``{"num_chs", "reduction", "module"}``, as in timm.

    Its methods answer for the maps that the backbone gives, or for those of other ``indices``.

    Example:
        >>> info = ESPNetv2(0.5, out_indices=(1, 3), device="meta").feature_info
        >>> info.channels(), info.reduction((0, 4))
        ([32, 128], [2, 32])
    """

    def __init__(self, maps: Iterable[dict[str, Any]], out_indices: Sequence[int]) -> None:
        super().__init__(maps)
        self.out_indices = tuple(out_indices)

    @property
    def info(self) -> list[dict[str, Any]]:
        """The list itself."""
        return self

    def get_dicts(
        self, keys: Sequence[str] | None = None, indices: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """What the maps are, or of that the ``keys``."""
        chosen = [self[i] for i in (self.out_indices if indices is None else indices)]
        return [one if keys is None else {key: one[key] for key in keys} for one in chosen]

    def channels(self, indices: Sequence[int] | None = None) -> list[int]:
        """Channels of the maps."""
        return self._get("num_chs", indices)

    def reduction(self, indices: Sequence[int] | None = None) -> list[int]:
        """How many times smaller than the image the maps are."""
        return self._get("reduction", indices)

    def module_name(self, indices: Sequence[int] | None = None) -> list[str]:
        """Which part of the backbone gives each map."""
        return self._get("module", indices)

    def _get(self, key: str, indices: Sequence[int] | None) -> list[Any]:
        return [self[i][key] for i in (self.out_indices if indices is None else indices)]


class Level(nn.Module):
    """One level: a strided unit that sees the image again, then units that keep the size."""

    def __init__(self, down: PublishedDown, units: Sequence[nn.Module]) -> None:
        super().__init__()
        self.down = down
        self.units = nn.Sequential(*units)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Halve (N, M, H, W); ``image`` is already as large as the result."""
        return self.units(self.down(x, image))


class ESPNetv2(nn.Module):
    """The ESPNetv2 backbone (Table 2), giving the feature maps of its levels.

    Args:
        width: The paper's s: 0.5, 1.0, 1.25, 1.5, 1.75, 2.0, or 3.0 of Fig. 3c, or any other number above 0.
        in_channels: Channels of the image.
        depth: How many levels are built, 1 to 5.
        out_indices: Which maps :meth:`forward` gives, 0 to ``depth`` - 1 (negative ones count from the end); all by
            default.
        image_levels: Levels whose strided unit is fed the image. Level 5 of the published classifiers is not, that of
            the detectors is. Where it is not, the shortcut is held all the same, see
            :class:`vision.layers.PublishedDown`.
        convolution: Kind of the branches' convolutions; ablation of Table 5, see :class:`eru.EESP`.
        fusion: Whether there is hierarchical feature fusion; ablation of Table 6.
        shortcut: Whether to build the long-range shortcuts to the image; ablation of Table 6.
        device, dtype: Of the parameters.

    Shape:
        image (N, in_channels, H, W), H and W at least 32; maps of H / 2, H / 4, ... H / 32, rounded up.

    Raises:
        ValueError: Options that do not fit, or an image that is too small or has other channels.
        TypeError: An image that is no tensor of floating-point numbers.

    Source:
        ESPNetv2, section 3.3, Table 2.

    Example:
        >>> [tuple(m.shape[1:]) for m in ESPNetv2(1.0, out_indices=(1, 4))(torch.zeros(1, 3, 65, 97))]
        [(64, 17, 25), (1024, 3, 4)]
    """

    def __init__(
        self,
        width: float = 1.0,
        in_channels: int = 3,
        *,
        depth: int = LEVELS,
        out_indices: Sequence[int] | None = None,
        image_levels: Sequence[int] = (2, 3, 4),
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        shortcut: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if depth not in range(1, LEVELS + 1):
            raise ValueError(f"depth={depth}: must be 1 to {LEVELS}")
        if not set(image_levels) <= set(range(2, LEVELS + 1)):
            raise ValueError(f"image_levels={tuple(image_levels)}: must be among 2 to {LEVELS}")
        in_channels = whole_number("in_channels", in_channels, least=1)
        self.width, self.in_channels, self.depth = width, in_channels, depth
        self.convolution, self.fusion, self.shortcut = convolution, fusion, shortcut
        self.out_indices = resolve_indices(range(depth) if out_indices is None else out_indices, depth)
        self.weights_record: Any = None
        self.checkpointing = False
        sizes = channels(width)
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        kind: dict[str, Any] = {"convolution": convolution, "fusion": fusion}
        self.level1 = ConvNormAct(in_channels, sizes[0], 3, stride=2, **place)
        for level in range(2, depth + 1):
            here = sizes[level - 1]
            down = PublishedDown(
                sizes[level - 2],
                here,
                receptive_field=_DOWN_LIMITS[level],
                shortcut_channels=in_channels if shortcut else None,
                feed_image=level in image_levels,
                **kind,
                **place,
            )
            units: list[nn.Module] = [
                EESP2d(here, here, receptive_field=_UNIT_LIMITS[level], **kind, **place)
                for _ in range(REPEATS.get(level, 0))
            ]
            if level == LEVELS:
                units.append(ConvNormAct(here, here, 3, groups=here, **place))
                units.append(ConvNormAct(here, sizes[-1], 1, groups=4, **place))
            setattr(self, f"level{level}", Level(down, units))
        maps = enumerate([*sizes[: LEVELS - 1], sizes[-1]][:depth], start=1)
        described = ({"num_chs": size, "reduction": 2**level, "module": f"level{level}"} for level, size in maps)
        self.feature_info = FeatureInfo(described, self.out_indices)
        init_weights(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps of ``out_indices``, in their order."""
        maps = self.forward_levels(x, 1 + max(self.out_indices))
        return [maps[i] for i in self.out_indices]

    def forward_features(self, x: Tensor) -> Tensor:
        """The map of the last level."""
        return self.forward_levels(x, self.depth)[-1]

    def forward_levels(self, x: Tensor, depth: int) -> list[Tensor]:
        """The maps of the first ``depth`` levels."""
        _check_image(x, self.in_channels)
        recomputed = self.checkpointing and self.training
        # Pooling 3x3 with stride 2 and padding 1 halves the image and rounds up, as each level does with its map. The
        # image is pooled once for each level, and so is always as large as the result of the level that is fed it.
        image = pool_by_two(x, 2)
        maps = [self.level1(x)]
        for level in range(2, depth + 1):
            image = pool_by_two(image, 2)
            part = getattr(self, f"level{level}")
            maps.append(_recomputed(part, maps[-1], image) if recomputed else part(maps[-1], image))
        return maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the levels' results for the backward pass and compute what is inside them again."""
        self.checkpointing = enable


@torch.fx.wrap  # a traced graph calls it on what it is given
def _check_image(x: Tensor, channels: int) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"image of type {kind}: expected a tensor of floating-point numbers, normalised")
    if x.dim() != 4 or x.shape[1] != channels or min(x.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(
            f"image of shape {tuple(x.shape)}: expected (N, {channels}, H, W) with H and W at least {SMALLEST_SIDE}"
        )


def _recomputed(level: Level, x: Tensor, image: Tensor) -> Tensor:
    """Run a level whose inside the backward pass computes again."""
    return checkpoint(level, x, image, use_reentrant=False, context_fn=lambda: (nullcontext(), _not_tracking(level)))


@contextmanager
def _not_tracking(level: Level) -> Iterator[None]:
    """Keep the running statistics, which have seen this batch already; normalisation works as in training."""
    kept = []
    for norm in level.modules():
        if isinstance(norm, _BatchNorm) and norm.num_batches_tracked is not None:
            kept.append((norm, norm.momentum, norm.num_batches_tracked, norm.num_batches_tracked.clone()))
            norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, counter, count in kept:
            norm.momentum = momentum
            counter.copy_(count)


def resolve_indices(indices: Sequence[int], depth: int) -> tuple[int, ...]:
    """Indices of maps from 0, where negative ones count from the end; ``ValueError`` where one names no map."""
    if not isinstance(indices, Sequence) or not indices or any(i not in range(-depth, depth) for i in indices):
        raise ValueError(f"out_indices={indices}: must name maps, 0 to {depth - 1}")
    return tuple(i % depth for i in indices)
