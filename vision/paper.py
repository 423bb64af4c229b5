"""The numbers of ESPNetv2 (arXiv 1811.11431, CVPR 2019) that need no training, beside what our models count.

The paper's rule: every parameter is counted, also those that are held and never used; FLOPs are multiply-adds of the
convolutions, without the linear classifier. A function for each table gives its rows.
"""

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import nn

from eru.complexity import stages
from eru.eesp import EESP
from eru.sizes import receptive_field_limit
from vision.backbone import WIDTHS, channels
from vision.detection import Detector
from vision.registry import create_model
from vision.weights import model_name

Verdict = Literal["equal", "differs"]
UNITS = {"": 1, "M": 10**6, "B": 10**9, "x": 1}

# Millions of parameters and of FLOPs, by width; the last is the largest network of Fig. 3c.
_TABLE_2 = ("1.24 28", "1.67 86", "1.97 123", "2.31 169", "3.03 224", "3.49 284", "5.9 602")
# What the authors' model tables print of s = 2.0: the model, how many classes its FLOPs include (see model_tables),
# the unit of these, millions of parameters, and FLOPs by height and width of the image.
_MODEL_TABLES = (
    ("PASCAL VOC", "seg_voc", 21, "M", "0.79", {(256, 256): "337.58", (384, 384): "759.52"}),
    ("Cityscapes", "seg_city", 20, "M", "0.79", {(256, 512): "674.78", (512, 1024): "2699.05"}),
    ("SSD, PASCAL VOC", "ssd_voc", 0, "B", "4.75", {(300, 300): "0.9", (512, 512): "2.5"}),
    ("SSD, MS COCO", "ssd_coco", 0, "B", "5.81", {(300, 300): "1.1", (512, 512): "3.2"}),
)
_CUT_OFF = "the paper rounds most figures, but cuts this one off"


@dataclass(frozen=True)
class Row:
    """One number of the paper and ours.

    Attributes:
        printed: The paper's figure in ``unit``, with the digits that it prints.
        ours: Our count, exact, in ones.
        unit: A key of ``UNITS``.
        note: Why the two differ, or what else there is to know.

    Example:
        >>> Row("Table 2", "s = 2.0, parameters", "3.49", 3_498_136, "M").verdict
        'equal'
    """

    table: str
    quantity: str
    printed: str
    ours: float
    unit: str = ""
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """Whether ours, rounded or cut off to the printed digits, is the printed figure (the paper does both)."""
        printed, ours = Decimal(self.printed), Decimal(self.ours) / UNITS[self.unit]
        shortened = {ours.quantize(printed, rounding) for rounding in (ROUND_HALF_UP, ROUND_DOWN)}
        return "equal" if printed in shortened else "differs"


def parameters(model: nn.Module) -> int:
    """Numbers in all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of the convolutions for one colour image; a linear classifier is not counted.

    Example:
        >>> multiply_adds(nn.Conv2d(3, 8, 3, stride=2, padding=1), 32, 48)
        82944
    """
    method = "raw" if isinstance(model, Detector) else "forward"
    found = stages(model, [(1, 3, height, width)], depth=1, method=method)
    return sum(stage.multiply_adds for stage in found if stage.name != "classifier")


@cache
def counts(name: str, height: int, width: int, **options: Any) -> tuple[int, int]:
    """Parameters and multiply-adds of the model of that name, for an image of that size."""
    model = create_model(name, device="meta", **options)
    return parameters(model), multiply_adds(model, height, width)


def _flops(
    title: str, label: str, printed: str, unit: str, name: str, height: int, width: int, note: str = "", **options: Any
) -> Row:
    """Compare the printed multiply-adds of a model with ours."""
    _, work = counts(name, height, width, **options)
    return Row(title, f"{label}, FLOPs", printed, work, unit, note)


def reach(convolution: nn.Module, in_channels: int) -> int:
    """Side of the square that an impulse spreads over; the weights, biases not among them, become ones."""
    for parameter in convolution.parameters():
        nn.init.ones_(parameter)
    impulse = torch.zeros(1, in_channels, 33, 33)
    impulse[..., 16, 16] = 1
    with torch.no_grad():
        touched = convolution(impulse)[0, 0].any(dim=0).nonzero()
    return int(touched.max() - touched.min()) + 1


def table_1() -> list[Row]:
    """Kinds of convolution: the printed formulas, evaluated, beside torch's convolutions."""
    n, c, out, g, r = 3, 8, 16, 4, 4
    title = f"Table 1: convolutions of n = {n}, c = {c}, c' = {out}, g = {g}, r = {r} (formulas evaluated)"

    def separable(dilation: int) -> nn.Module:  # depth-wise, then point-wise
        reduced = nn.Conv2d(c, c, n, padding=dilation * (n // 2), dilation=dilation, groups=c, bias=False)
        return nn.Sequential(reduced, nn.Conv2d(c, out, 1, bias=False))

    same: dict[str, Any] = {"padding": n // 2, "bias": False}
    apart = n**2 * c + c * out
    kinds = [
        ("standard", "n^2 c c'", n**2 * c * out, "n", n, nn.Conv2d(c, out, n, **same)),
        ("group", "n^2 c c' / g", n**2 * c * out // g, "n", n, nn.Conv2d(c, out, n, groups=g, **same)),
        ("depth-wise separable", "n^2 c + c c'", apart, "n", n, separable(1)),
        ("depth-wise dilated separable", "n^2 c + c c'", apart, "(n - 1) r + 1", (n - 1) * r + 1, separable(r)),
    ]
    rows = []
    for kind, formula, weights, field_formula, field, convolution in kinds:
        rows.append(Row(title, f"{kind}, parameters {formula}", str(weights), parameters(convolution)))
        rows.append(Row(title, f"{kind}, receptive field {field_formula}", str(field), reach(convolution, c)))
    return rows


def section_3() -> list[Row]:
    """Weights of the units of Fig. 1, and the limit on their receptive field."""
    m, d, k, g, n = 240, 60, 4, 4, 3
    title = f"Sections 3.2 and 3.3: units of M = {m}, d = {d}, K = g = {k}, n = {n} (formulas evaluated)"
    # The units from which EESP descends are made of torch's own convolutions: a reduce, K branches, K expands.
    conv = partial(nn.Conv2d, bias=False)
    esp = parameters(nn.ModuleList([conv(m, d, 1), *(conv(d, d, n) for _ in range(k))]))
    apart = [part for _ in range(k) for part in (conv(d, d, n, groups=d), conv(d, d, 1))]
    eesp_a = parameters(nn.ModuleList([conv(m, d, 1, groups=g), *apart]))
    eesp = parameters(EESP(m, k * d, ndim=2, branches=k, groups=g, device="meta"))
    printed = str(m * d // g + (n**2 + d) * d * k)
    return [
        Row(title, "ESP (Fig. 1a), weights M d + n^2 d^2 K", str(m * d + n**2 * d**2 * k), esp),
        Row(title, "EESP-A (Fig. 1b), weights M d / g + (n^2 + d) d K", printed, eesp_a),
        Row(title, "EESP (Fig. 1c), weights M d / g + (n^2 + d) d K", printed, eesp),
        Row(title, "ESP / EESP", "7", esp / eesp, "x"),
        Row(title, "receptive field limit 5 + Z / 7 at Z = 7", "5", receptive_field_limit(7)),
    ]


def table_2() -> list[Row]:
    """The classifiers, and the largest one, of Fig. 3c."""
    title = "Table 2 and Fig. 3c: classifiers, images of 224x224"
    rows = []
    for width, printed in zip(WIDTHS, _TABLE_2, strict=True):
        size, cost = printed.split()
        weights, work = counts(model_name(width), 224, 224)
        label = f"{'Fig. 3c, ' if width == 3 else ''}s = {width}, channels {'-'.join(map(str, channels(width)))}"
        rows.append(Row(title, f"{label}, parameters", size, weights, "M", _CUT_OFF if width == 2 else ""))
        rows.append(Row(title, f"s = {width}, FLOPs", cost, work, "M", _CUT_OFF if width >= 2 else ""))
    return rows


def figure_7() -> list[Row]:
    """The segmenters of the figure: s = 2.0."""
    title = "Fig. 7: segmenters, s = 2.0"
    return [
        _flops(title, "PASCAL VOC, 384x384", "0.76", "B", "espnetv2_200_seg_voc", 384, 384),
        _flops(title, "Cityscapes, 512x1024", "2.7", "B", "espnetv2_200_seg_city", 512, 1024),
    ]


def table_3() -> list[Row]:
    """The detectors."""
    reason = (
        "could not be reproduced; "
        "the authors' model table, below, gives 1.1 B at 300x300 and 3.2 B at 512x512, as we count"
    )
    cases = [
        ("PASCAL VOC", "espnetv2_200_ssd_voc", {256: "0.6", 384: "1.4", 512: "2.5"}, ""),
        ("MS COCO", "espnetv2_200_ssd_coco", {256: "0.7", 384: "1.6", 512: "2.8"}, reason),
    ]
    return [
        _flops("Table 3: SSD on s = 2.0", f"{label} {side}x{side}", printed, "B", name, side, side, note)
        for label, name, sizes, note in cases
        for side, printed in sizes.items()
    ]


def table_5() -> list[Row]:
    """Kinds of convolution in the units. The two whose multiply-adds are those of s = 1.25 say which network it is."""
    title = "Table 5: convolutions of the units, s = 1.25, images of 224x224"
    _, narrower = counts("espnetv2_100", 224, 224, convolution="dilated")
    reason = f"could not be reproduced; s = 1.0 would cost {narrower / UNITS['M']:.1f} M"
    cases = [
        ("dilated, d -> d", "dilated", "478", reason),
        ("depth-wise, not dilated", "depthwise", "123", ""),
        ("depth-wise dilated", "depthwise-dilated", "123", ""),
    ]
    return [
        _flops(title, label, printed, "M", "espnetv2_125", 224, 224, note, convolution=kind)
        for label, kind, printed, note in cases
    ]


def table_6() -> list[Row]:
    """The long-range shortcut to the image (LRSC); running sums (HFF) have no parameters and no multiply-adds."""
    title = "Table 6: shortcuts to the image (LRSC), s = 1.0, images of 224x224"
    rows = []
    cases = [("R1 and R2, without", False, ("1.66", "84")), ("R3 to R5, with", True, ("1.67", "86"))]
    for label, shortcut, (size, cost) in cases:
        weights, work = counts("espnetv2_100", 224, 224, shortcut=shortcut)
        rows.append(Row(title, f"{label}, parameters", size, weights, "M"))
        rows.append(Row(title, f"{label}, FLOPs", cost, work, "M"))
    return rows


def model_tables() -> list[Row]:
    """What the authors' repository prints of the models that Fig. 7 and Table 3 show; it is not in the paper.

    Its FLOPs of a segmenter hold half a multiply-add for each bias of the last convolution: classes H W / 8.
    """
    title = "Not the paper, but the authors' model tables: s = 2.0, segmenters (FLOPs + classes H W / 8) and detectors"
    rows = []
    for label, kind, classes, unit, size, costs in _MODEL_TABLES:
        weights = 0
        for (height, width), printed in costs.items():
            weights, work = counts(f"espnetv2_200_{kind}", height, width)
            work += classes * height * width // 8
            rows.append(Row(title, f"{label} {height}x{width}, FLOPs", printed, work, unit))
        rows.append(Row(title, f"{label}, parameters", size, weights, "M"))
    return rows
