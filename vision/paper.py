"""The numbers of ESPNetv2 (arXiv 1811.11431, CVPR 2019) that need no training, beside what our models count.

The paper's rule: every parameter is counted, also those that are held and never used; FLOPs are multiply-adds of the
convolutions, without the linear classifier.
"""

from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from eru.complexity import stages
from eru.eesp import EESP, Convolution
from eru.sizes import receptive_field_limit
from eru.undrawn import Undrawn
from vision.detection import Detector
from vision.registry import create_model

UNITS = {"": 1, "M": 10**6, "B": 10**9, "x": 1}


@dataclass(frozen=True)
class Row:
    """One number of the paper and ours."""

    table: str
    quantity: str
    printed: str  # the paper's figure in ``unit``, with the digits that it prints
    ours: float  # our count, exact, in ones
    unit: str = ""  # a key of ``UNITS``
    note: str = ""  # why the two differ, or what else there is to know

    @property
    def verdict(self) -> Literal["equal", "differs"]:
        """Whether ours, rounded or cut off to the printed digits, is the printed figure (the paper does both)."""
        printed, ours = Decimal(self.printed), Decimal(self.ours) / UNITS[self.unit]
        shortened = {ours.quantize(printed, rounding) for rounding in (ROUND_HALF_UP, ROUND_DOWN)}
        return "equal" if printed in shortened else "differs"


def parameters(model: nn.Module) -> int:
    """Numbers in all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of the convolutions for one colour image; a linear classifier is not counted."""
    method = "raw" if isinstance(model, Detector) else "forward"
    found = stages(model, [(1, 3, height, width)], depth=1, method=method)
    return sum(stage.multiply_adds for stage in found if stage.name != "classifier")


@cache
def counts(name: str, height: int, width: int, **options: Any) -> tuple[int, int]:
    """Parameters and multiply-adds of the model of that name, for an image of that size."""
    with Undrawn():
        model = create_model(name, **options)
    return parameters(model), multiply_adds(model, height, width)


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


class Printed(NamedTuple):
    """What a table prints of the model ``espnetv2_...``: FLOPs by height and width, and parameters if any."""

    label: str
    name: str
    flops: dict[tuple[int, int], str]
    parameters: str = ""
    convolution: Convolution = "depthwise-dilated"
    shortcut: bool = True
    biases: int = 0  # of a segmenter's last convolution, each counted as half a multiply-add


_MODELS = {
    "Table 2 and Fig. 3c: classifiers, images of 224x224": (
        Printed("s = 0.5, channels 16-32-64-128-256-1024", "050", {(224, 224): "28 M"}, "1.24 M"),
        Printed("s = 1.0, channels 32-64-128-256-512-1024", "100", {(224, 224): "86 M"}, "1.67 M"),
        Printed("s = 1.25, channels 32-80-160-320-640-1024", "125", {(224, 224): "123 M"}, "1.97 M"),
        Printed("s = 1.5, channels 32-96-192-384-768-1024", "150", {(224, 224): "169 M"}, "2.31 M"),
        Printed("s = 1.75, channels 32-112-224-448-896-1280", "175", {(224, 224): "224 M"}, "3.03 M"),
        Printed("s = 2.0, channels 32-128-256-512-1024-1280", "200", {(224, 224): "284 M"}, "3.49 M"),
        Printed("Fig. 3c, s = 3.0, channels 32-192-384-768-1536-1280", "300", {(224, 224): "602 M"}, "5.9 M"),
    ),
    "Fig. 7: segmenters, s = 2.0": (
        Printed("PASCAL VOC", "200_seg_voc", {(384, 384): "0.76 B"}),
        Printed("Cityscapes", "200_seg_city", {(512, 1024): "2.7 B"}),
    ),
    "Table 3: SSD on s = 2.0": (
        Printed("PASCAL VOC", "200_ssd_voc", {(256, 256): "0.6 B", (384, 384): "1.4 B", (512, 512): "2.5 B"}),
        Printed("MS COCO", "200_ssd_coco", {(256, 256): "0.7 B", (384, 384): "1.6 B", (512, 512): "2.8 B"}),
    ),
    "Table 5: convolutions of the units, s = 1.25, images of 224x224": (
        Printed("dilated, d -> d", "125", {(224, 224): "478 M"}, convolution="dilated"),
        Printed("depth-wise, not dilated", "125", {(224, 224): "123 M"}, convolution="depthwise"),
        Printed("depth-wise dilated", "125", {(224, 224): "123 M"}),
    ),
    # Of Table 6 the shortcut (LRSC) alone: running sums (HFF) have no parameters and no multiply-adds.
    "Table 6: shortcuts to the image (LRSC), s = 1.0, images of 224x224": (
        Printed("R1 and R2, without", "100", {(224, 224): "84 M"}, "1.66 M", shortcut=False),
        Printed("R3 to R5, with", "100", {(224, 224): "86 M"}, "1.67 M"),
    ),
    "Not the paper, but the authors' model tables: s = 2.0, segmenters (FLOPs + classes H W / 8) and detectors": (
        Printed("PASCAL VOC", "200_seg_voc", {(256, 256): "337.58 M", (384, 384): "759.52 M"}, "0.79 M", biases=21),
        Printed("Cityscapes", "200_seg_city", {(256, 512): "674.78 M", (512, 1024): "2699.05 M"}, "0.79 M", biases=20),
        Printed("SSD, PASCAL VOC", "200_ssd_voc", {(300, 300): "0.9 B", (512, 512): "2.5 B"}, "4.75 M"),
        Printed("SSD, MS COCO", "200_ssd_coco", {(300, 300): "1.1 B", (512, 512): "3.2 B"}, "5.81 M"),
    ),
}
_COCO = "could not be reproduced; the authors' model table gives 1.1 B at 300x300 and 3.2 B at 512x512, as we count"
_NOTES = {  # by the printed figure
    **dict.fromkeys(("3.49 M", "284 M", "602 M"), "the paper rounds most figures, but cuts this one off"),
    **dict.fromkeys(("0.7 B", "1.6 B", "2.8 B"), _COCO),
    "478 M": "could not be reproduced; s = 1.0 would cost 482.1 M, and section 1 prints 426 M for ESPNet",
}


def models() -> list[Row]:
    """What is printed of the models of this package, beside what they count."""
    rows = []
    for title, table in _MODELS.items():
        for model in table:
            found = {}
            for (height, width), flops in model.flops.items():
                options = {"convolution": model.convolution, "shortcut": model.shortcut}
                weights, work = counts(f"espnetv2_{model.name}", height, width, **options)
                found["parameters"] = model.parameters, weights
                found[f"FLOPs at {height}x{width}"] = flops, work + model.biases * height * width // 8
            for quantity, (figure, ours) in found.items():
                if figure:
                    printed, unit = figure.split()
                    rows.append(Row(title, f"{model.label}, {quantity}", printed, ours, unit, _NOTES.get(figure, "")))
    return rows
