"""Object detection: a single-shot detector (SSD) on ESPNetv2."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eru.eesp import Convolution
from vision.backbone import SMALLEST_SIDE
from vision.boxes import BOXES_PER_CELL, decode, make_priors, match, nms_mask, to_corners
from vision.layers import ConvNormAct, EfficientPyramid, init_weights, resize
from vision.multibox import check_targets, multibox_loss
from vision.network import Network
from vision.options import whole_number

_LEVELS = (2, 3, 4)  # the backbone's maps that are used, counted from 0
_EXTRA_CHANNELS = (512, 256, 128)
# The scales of each pyramid, by the map that it leads down into, in the order of the decoder.
_SCALES = {3: (2.0, 1.0), 2: (2.0, 1.0, 0.5), 1: (2.0, 1.0, 0.5, 0.25), 0: (2.0, 1.0, 0.5, 0.25)}


class Detector(Network):
    r"""SSD on the last three levels of ESPNetv2 and three more, with a top-down decoder of efficient pyramids.

    .. math::
        d_6 = e_6, \quad d_5 = e_5, \quad
        d_l = P_l([\mathrm{up}(d_{l+1}), e_l]) \quad (l = 4, \dots, 1)

    with maps :math:`e_1, \dots, e_6` of 1/8, 1/16, 1/32, 1/64 and 1/128 of the image's size and of one cell, and
    efficient pyramids P. At every cell of every :math:`d_l`, two point-wise convolutions give six priors
    (:func:`vision.boxes.make_priors`) their classes and their offsets.

    Called as torchvision's detectors are. The images are a batch (N, in_channels, H, W), taken as it is, or a list of
    images (in_channels, H, W), each resized to ``size``; normalised, H and W at least 32.
    Boxes are (x1, y1, x2, y2) in pixels of each given image.

    - In training, with ``targets``, a dictionary for each image with ``"boxes"`` (n, 4), 0 <= x1 < x2 <= W and
      0 <= y1 < y2 <= H, and ``"labels"`` (n,), integers from 1; n may be 0. Returns the losses ``"bbox_regression"``
      and ``"classification"`` (:func:`vision.multibox.multibox_loss`).
    - In evaluation. Returns a dictionary for each image with ``"boxes"`` (n, 4), ``"labels"`` (n,) and ``"scores"``
      (n,), the best first.

    Args:
        num_classes: At least 2, with the background, class 0.
        size: Height and width to which the images of a list are resized.
        score_threshold: Lower scores are no detections.
        nms_threshold: Of two boxes of a class that overlap (intersection over union) by more only the better stays.
        top_k: How many candidates of each class there are before that, and detections of an image after it, at most.
        match_threshold: The overlap that makes a prior answer for an object, see :func:`vision.boxes.match`.
        negatives: How many background priors the loss has for each positive one, the hardest.
        width, in_channels, convolution, fusion, shortcut, device, dtype: As for :class:`vision.ESPNetv2`.

    Raises:
        ValueError: Options that do not fit, images of another shape, or targets that are missing or wrong.
        TypeError: Images or targets that are no tensors.

    Source:
        ESPNetv2, section 4.3, Table 3, and the authors' published networks; SSD (arXiv 1512.02325).

    Example:
        >>> model = Detector(0.5, num_classes=3)
        >>> targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 50.0]]), "labels": torch.tensor([2])}] * 2
        >>> sorted(model(torch.zeros(2, 3, 64, 64), targets))
        ['bbox_regression', 'classification']
        >>> sorted(model.eval()([torch.zeros(3, 64, 64)])[0])
        ['boxes', 'labels', 'scores']
    """

    image_levels = (2, 3, 4, 5)
    told_by_shapes: ClassVar[dict[str, tuple[str, int]]] = {"num_classes": ("cls_layers.0.weight", 0)}

    @classmethod
    def read_options(cls, state: Mapping[str, Tensor]) -> dict[str, int]:
        """See :meth:`vision.network.Network.read_options`; a cell's outputs are those of several boxes."""
        found = super().read_options(state)
        return found | {"num_classes": found["num_classes"] // BOXES_PER_CELL} if "num_classes" in found else found

    def __init__(
        self,
        width: float = 2.0,
        num_classes: int = 21,
        in_channels: int = 3,
        *,
        size: tuple[int, int] = (300, 300),
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        top_k: int = 200,
        match_threshold: float = 0.45,
        negatives: float = 3.0,
        convolution: Convolution = "depthwise-dilated",
        fusion: bool = True,
        shortcut: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        kind: dict[str, Any] = {"convolution": convolution, "fusion": fusion, "shortcut": shortcut}
        super().__init__(out_indices=_LEVELS, width=width, in_channels=in_channels, **kind, **place)
        if not isinstance(size, Sequence) or len(size) != 2 or min(size) < SMALLEST_SIDE:
            raise ValueError(f"size={size}: must be height and width, both at least {SMALLEST_SIDE}")
        for name, value in (("score", score_threshold), ("nms", nms_threshold), ("match", match_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}_threshold={value}: must be 0 to 1")
        if negatives < 0:
            raise ValueError(f"negatives={negatives}: must be at least 0")
        self.size, self.negatives = (int(size[0]), int(size[1])), negatives
        self.top_k = whole_number("top_k", top_k, least=1)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.match_threshold = match_threshold
        sizes = self.map_channels = (*self.feature_info.channels(_LEVELS), *_EXTRA_CHANNELS)
        self.extra = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(sizes[level], sizes[level], 3, stride=2, groups=sizes[level], **place),
                ConvNormAct(sizes[level], sizes[level + 1], 1, **place),
            )
            for level in (2, 3)
        )
        one_cell = nn.Conv2d(sizes[4], sizes[5], 1, bias=False, **place)
        self.extra.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), one_cell, nn.ReLU()))
        self.pyramids = nn.ModuleList(
            EfficientPyramid(sizes[level + 1] + sizes[level], sizes[level], sizes[level] // 5, scales, **place)
            for level, scales in _SCALES.items()
        )
        init_weights(self)
        self.loc_layers = _heads(sizes, 4, place)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Make new point-wise convolutions for other classes, the background included."""
        self._take_classes(num_classes, least=2)
        like = self.loc_layers[0].weight
        self.cls_layers = _heads(self.map_channels, self.num_classes, {"device": like.device, "dtype": like.dtype})

    def get_classifier(self) -> nn.ModuleList:
        """The convolutions that give the confidences, one for each map."""
        return self.cls_layers

    def priors(self, size: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """Prior boxes (P, 4) of images of this height and width, see :func:`vision.boxes.make_priors`."""
        height, width = size
        maps = [(-(-height // cell), -(-width // cell)) for cell in (8, 16, 32, 64, 128)]
        return make_priors((height, width), [*maps, (1, 1)], device=device)

    def forward_maps(self, x: Tensor) -> list[Tensor]:
        """The six maps that the heads see, of images (N, in_channels, H, W), the finest first."""
        maps = self.backbone(x)
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        for level, pyramid in zip(_SCALES, self.pyramids, strict=True):
            coarser = resize(maps[level + 1], maps[level].shape[2:])
            maps[level] = pyramid(torch.cat([coarser, maps[level]], dim=1))
        return maps

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Confidences (N, P, num_classes), logits, and offsets (N, P, 4) of all priors of a batch of images."""
        maps = self.forward_maps(x)
        return _apply(self.cls_layers, maps, self.num_classes), _apply(self.loc_layers, maps, 4)

    def forward(
        self, images: Tensor | Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Give losses in training and detections in evaluation, as the class describes."""
        batch, sizes = self._batch(images)
        if self.training:
            check_targets(targets, sizes, self.num_classes)
        priors = self.priors(batch.shape[2:], batch.device)
        confidences, locations = self.raw(batch)
        if not self.training:
            return self._detect(confidences, locations, priors, sizes)
        matched = []
        for target, image_size in zip(targets or (), sizes, strict=True):
            boxes = target["boxes"].to(priors) / priors.new_tensor(image_size[::-1] * 2)
            labels = target["labels"].to(priors.device, torch.int64)
            matched.append(match(boxes, labels, priors, self.match_threshold))
        labels, offsets = (torch.stack(parts) for parts in zip(*matched, strict=True))  # (N, P) and (N, P, 4)
        box, category = multibox_loss(confidences, locations, labels, offsets, negatives=self.negatives)
        return {"bbox_regression": box, "classification": category}

    def _batch(self, images: Tensor | Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """One batch of all images, and the height and width of each as given."""
        channels = self.backbone.in_channels
        if isinstance(images, Tensor):
            if images.dim() != 4:
                raise ValueError(f"images of shape {tuple(images.shape)}: expected (N, {channels}, H, W)")
            return images, [(images.shape[2], images.shape[3])] * images.shape[0]
        if not isinstance(images, Sequence):
            raise TypeError(f"images of type {type(images).__name__}: expected a tensor, or a list of tensors")
        if not images:
            raise ValueError("images: an empty list; expected at least one image")
        for i, image in enumerate(images):
            if not isinstance(image, Tensor):
                kind = type(image).__name__
                raise TypeError(f"images[{i}] of type {kind}: expected a tensor ({channels}, H, W), normalised")
            if image.dim() != 3 or image.shape[0] != channels or 0 in image.shape:
                raise ValueError(f"images[{i}] of shape {tuple(image.shape)}: expected ({channels}, H, W)")
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        # One size for all, so that no answer depends on what else is in the list.
        return torch.cat([_resize_image(image, self.size) for image in images]), sizes

    def _detect(
        self, confidences: Tensor, locations: Tensor, priors: Tensor, sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """The best boxes of every image, in its pixels."""
        boxes, labels, scores = self.best(confidences, locations, priors)
        results = []
        for i, image_size in enumerate(sizes):
            found = (scores[i] >= 0).nonzero().squeeze(-1)
            scale = boxes.new_tensor(image_size[::-1] * 2)  # width, height, width, height
            results.append({"boxes": boxes[i, found] * scale, "labels": labels[i, found], "scores": scores[i, found]})
        return results

    def best(self, confidences: Tensor, locations: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes of every image after suppression, of what :meth:`raw` gives, as many for each image.

        Returns:
            Boxes (N, k, 4) in corner form, relative to the image, labels (N, k) and scores (N, k), the best first. A
            score of -1 says that there is no box.
        """
        boxes = to_corners(decode(locations.float(), priors)).clamp(0, 1)  # (N, P, 4)
        scores = confidences.float().softmax(dim=-1)[..., 1:].transpose(1, 2)  # (N, C - 1, P)

        # Fixed numbers of candidates and detections keep every shape known to a compiler.
        candidates = min(self.top_k, len(priors))
        scores, ranked = scores.topk(candidates)  # (N, C - 1, k)
        # Every class of every image gets the boxes in the order of its own scores.
        image = torch.arange(scores.shape[0], device=scores.device).view(-1, 1, 1)
        boxes = boxes[image, ranked]  # (N, C - 1, k, 4)
        valid = (scores > self.score_threshold) & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        scores = torch.where(nms_mask(boxes, valid, self.nms_threshold), scores, -1).flatten(1)
        scores, best = scores.topk(min(self.top_k, scores.shape[1]))
        # Classes lie one after the other, each with its candidates, so a place tells the class; 0 is the background.
        return boxes.flatten(1, 2)[image[:, 0], best], best // candidates + 1, scores


def _resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as Pillow does, (C, H, W) -> (1, C, *size)."""
    if image.shape[1:] == size:
        return image[None]
    # The antialiased resize knows no half precision.
    wide = image[None].to(torch.promote_types(image.dtype, torch.float32))
    return F.interpolate(wide, size, mode="bilinear", antialias=True).to(image.dtype)


def _heads(sizes: Sequence[int], outputs: int, place: dict[str, Any]) -> nn.ModuleList:
    heads = [nn.Conv2d(size, BOXES_PER_CELL * outputs, 1, **place) for size in sizes]
    for head in heads:
        init_weights(head)
        # Instead of Kaiming's fan out, which would give so few outputs of so many inputs logits of about 10.
        nn.init.xavier_uniform_(head.weight)
    return nn.ModuleList(heads)


def _apply(heads: nn.ModuleList, maps: list[Tensor], outputs: int) -> Tensor:
    """The answers of all maps (N, P, outputs), cell by cell in rows, box by box."""
    # A head's channels hold box after box the outputs of a cell, so channels come last before cells are lined up.
    cells = [head(x).permute(0, 2, 3, 1) for head, x in zip(heads, maps, strict=True)]
    return torch.cat([cell.unflatten(-1, (BOXES_PER_CELL, outputs)).flatten(1, 3) for cell in cells], dim=1)
