"""The authors' published weights: a record of each file in sacmehta/EdgeNets (MIT licence), and its names in ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from vision.datasets import CITYSCAPES, COCO, IMAGENET, VOC, Dataset
from vision.preprocessing import Preprocessing

_SOURCE = "https://raw.githubusercontent.com/sacmehta/EdgeNets/master/model"


@dataclass(frozen=True)
class Weights:
    r"""One published file.

    Attributes:
        name: The model's name, a dot and what tells its files apart. For segmenters and detectors this is the height
            and width of the images of their training: ``espnetv2_200_seg_city.512x1024``. (The authors' own file
            names have the width first.)
        model: The registry's name of the model that the weights are for.
        blob: The file's git blob id, the SHA-1 of ``blob <size>\0`` and its bytes.
        dataset: What it was trained on, with categories and palette.
        preprocessing: From a picture to the network's input.
        metrics: What the tables of the authors' repository print of it, in per cent.
    """

    name: str
    model: str
    url: str
    blob: str
    dataset: Dataset
    preprocessing: Preprocessing
    metrics: Mapping[str, float] = field(hash=False)
    licence: str = "MIT"
    attribution: str = "Sachin Mehta and others, ESPNetv2 (CVPR 2019), github.com/sacmehta/EdgeNets"

    @property
    def file_name(self) -> str:
        """The file's own name."""
        return self.url.rpartition("/")[2]


def model_name(width: float, suffix: str = "") -> str:
    """Name in the registry of the model of a width, such as ``espnetv2_050`` or ``espnetv2_200_seg_voc``."""
    return f"espnetv2_{round(100 * width):03d}{suffix}"


class Kind(NamedTuple):
    """What the models of one kind share, whatever their width."""

    task: str  # what they do, which is the name of a folder in the authors' repository
    data: str  # the authors' name of the dataset
    dataset: Dataset  # what their classes are, unless another number of classes is asked for
    preprocessing: Preprocessing  # what they see of a picture, unless their weights are known to have seen another
    metrics: tuple[str, ...]  # what the published files' metrics are


KINDS = {
    "": Kind("classification", "imagenet", IMAGENET, Preprocessing((224, 224), crop=0.875), ("top-1", "top-5")),
    "_seg_voc": Kind("segmentation", "pascal", VOC, Preprocessing((384, 384)), ("mIoU (val)", "mIoU (test)")),
    "_seg_city": Kind("segmentation", "city", CITYSCAPES, Preprocessing((512, 1024)), ("mIoU (val)", "mIoU (test)")),
    "_ssd_voc": Kind("detection", "pascal", VOC, Preprocessing((300, 300)), ("mAP (VOC 2007)",)),
    "_ssd_coco": Kind("detection", "coco", COCO, Preprocessing((300, 300)), ("mAP@[.50:.95]",)),
}


def _weights(suffix: str, width: float, height: int, across: int, blob: str, *metrics: float) -> Weights:
    """Describe the file of a model trained on images ``height`` x ``across``; its last metrics may be unknown."""
    kind, model = KINDS[suffix], model_name(width, suffix)
    tag = f"{height}x{across}" if suffix else "imagenet_224"
    # The authors name the width of the images before their height.
    url = f"{_SOURCE}/{kind.task}/model_zoo/espnetv2/espnetv2_s_{width}_{kind.data}_{across}x{height}.pth"
    preprocessing = replace(kind.preprocessing, size=(height, across))
    known = dict(zip(kind.metrics[: len(metrics)], metrics, strict=True))
    return Weights(f"{model}.{tag}", model, url, blob, kind.dataset, preprocessing, known)


# The first file listed of a model is its default. The metrics are those in the README tables of the
# repository's model_zoo folders. For the city file of s = 2.0 at 256x512 an older revision of its table prints 50.4,
# which the newest one holds only inside of a comment, so it is left out here.
_LISTED = (
    _weights("", 0.5, 224, 224, "12249b9cf29a722a5efe0ee73002b67854b410cf", 57.68, 79.85),
    _weights("", 1.0, 224, 224, "78c1bad0c94004d8328578e7cd5db8ab764bf8fd", 66.09, 86.54),
    _weights("", 1.25, 224, 224, "96e4554599ea2099e84f14908036a640ab39598b", 67.95, 87.82),
    _weights("", 1.5, 224, 224, "a33e1727856bc929cc00ef497df2befcc575f4d9", 69.17, 88.71),
    _weights("", 2.0, 224, 224, "2ff6a4b97c21f24816826fd9917215b38351d337", 72.06, 90.39),
    _weights("_seg_voc", 0.5, 384, 384, "0ee548facd5f7c3b6c930efafa7eebf4ccca9f99", 47.18),
    _weights("_seg_voc", 0.5, 256, 256, "cb49bac75905f7082aa6dc1202c178c9a7b9c2f2", 39.82),
    _weights("_seg_voc", 1.0, 384, 384, "b32047d006c3c353ea9c0dcd3a75afc67fd4fed4", 60.22),
    _weights("_seg_voc", 1.0, 256, 256, "f7c1bc2fd2c97617bde42b133de92c1fb1c2fae7", 54.14),
    _weights("_seg_voc", 1.5, 384, 384, "77a423c6e7980847f13ce2480c4f61ae50da706c", 63.67),
    _weights("_seg_voc", 1.5, 256, 256, "b36033bfe31f8b9e17b3e16df0b53facd4c029b1", 59.39),
    _weights("_seg_voc", 2.0, 384, 384, "34464190260399736ecd269d421cc88a46f7e1b0", 67.01, 67.95),
    _weights("_seg_voc", 2.0, 256, 256, "4ab8e53e1e108f828a2ef585b52012062af21e8f", 63.36),
    _weights("_seg_city", 0.5, 512, 1024, "22f8b4e640d98b7b1c04563f45c90ae5a47c0806", 53.9),
    _weights("_seg_city", 0.5, 256, 512, "994493b67992a223bafba7a8e786dc553ec9d712", 47.3),
    _weights("_seg_city", 1.0, 512, 1024, "f706c137f153aca02b8c5520f3cd933c13db7934", 60.1),
    _weights("_seg_city", 1.0, 256, 512, "9d95f0da0ec51faed65e6bd0b037d7218e10d018", 52.2),
    _weights("_seg_city", 1.5, 512, 1024, "0ccb8cec0d5add1ea71c4dd1d294f7c5be5ca632", 63.8),
    _weights("_seg_city", 1.5, 256, 512, "9beaca7dda465e9729cc22ffe99f463cebeed9f1", 54.6),
    _weights("_seg_city", 2.0, 512, 1024, "2eaa3648b692cb1680d553f8c042e89080c1abee", 66.4, 66.2),
    _weights("_seg_city", 2.0, 256, 512, "6687c5cde768666fe8cf3efd06f1b40ad509b8fd"),
    _weights("_ssd_voc", 2.0, 512, 512, "d7a518dd2f04a1e5168022df5e391f36d3c2304f", 75.01),
    _weights("_ssd_voc", 2.0, 300, 300, "2d4cda3a17a2c06ec08b0870854688f92e9ea63d", 70.27),
    _weights("_ssd_coco", 2.0, 512, 512, "dec223ee299179e6a4683c84e913c6014e2b4252", 24.54),
    _weights("_ssd_coco", 2.0, 300, 300, "6370533adacf857500f83a4162f7766d4e9a62a0", 20.80),
)
WEIGHTS: Mapping[str, Weights] = {weights.name: weights for weights in _LISTED}


def list_weights(model: str | None = None) -> list[str]:
    """Names of the published weights, or of those of one model; a model's default comes first.

    Example:
        >>> list_weights("espnetv2_200_seg_voc")
        ['espnetv2_200_seg_voc.384x384', 'espnetv2_200_seg_voc.256x256']
    """
    return [name for name, weights in WEIGHTS.items() if model in (None, weights.model)]


_UNIT = ("conv", "bn", "act")  # the authors' names for the parts of a unit, which are numbered here

# The key table takes the authors' names to those of our networks, which are written from the paper: each name is
# rewritten by the first rule that fits of _MODELS, then of _BACKBONE, then of _PARTS. An EESP unit keeps its branches
# in one weight, block after block, so the published ``spp_dw.<b>`` is its block b.
_MODELS = (
    (r"^base_net\.basenet\.", r"backbone."),  # of a detector
    (r"^(base_net\.)?level", r"backbone.level"),  # of a segmenter and of a classifier
    *((rf"^base_net\.extra_level{i + 6}\.layer\.(\d)\.cbr\.", rf"extra.{i}.\1.") for i in range(2)),
    (r"^base_net\.extra_level8\.", r"extra.2."),
    (r"^base_net\.bu_3x3_5x5\.", r"pyramids.0."),
    (r"^base_net\.bu_5x5_10x10\.", r"pyramids.1."),
    (r"^base_net\.bu_10x10_19x19\.", r"pyramids.2."),
    (r"^base_net\.bu_19x19_38x38\.", r"pyramids.3."),
    *((rf"^bu_dec_l{i + 1}\.", rf"pyramids.{i}.") for i in range(4)),
    *((rf"^merge_enc_dec_l{i + 2}\.", rf"skips.{i}.") for i in range(3)),
    *((rf"^bu_br_l{i + 2}\.", rf"merges.{i}.") for i in range(3)),
)
_BACKBONE = ((r"\.level(\d)_0\.", r".level\1.down."), (r"\.level([2-5])\.(\d)\.", r".level\1.units.\2."))
_PARTS = (
    (r"\.proj_1x1\.conv\.weight$", r".reduce_weight"),
    (r"\.spp_dw\.(\d)\.conv\.weight$", r".branch_weight[\1]"),
    (r"\.conv_1x1_exp\.conv\.weight$", r".expand_weight"),
    (r"\.proj_1x1\.bn\.", r".reduce_layers.0."),
    (r"\.proj_1x1\.act\.", r".reduce_layers.1."),
    (r"\.br_after_cat\.bn\.", r".branch_layers.0."),
    (r"\.br_after_cat\.act\.", r".branch_layers.1."),
    (r"\.conv_1x1_exp\.bn\.", r".expand_layers.0."),
    (r"\.module_act\.", r".activation."),
    *((rf"\.inp_reinf\.0\.{part}\.", rf".shortcut.{i}.") for i, part in enumerate(_UNIT)),
    (r"\.inp_reinf\.1\.conv\.", r".shortcut.3."),
    (r"\.inp_reinf\.1\.bn\.", r".shortcut.4."),
    (r"\.down\.act\.", r".down.activation."),
    *((rf"\.(level1|units\.\d)\.{part}\.", rf".\1.{i}.") for i, part in enumerate(_UNIT)),
    (r"\.stages\.", r".branches."),
    (r"\.projection_layer\.cbr\.", r".project."),
    (r"\.merge_layer\.0\.br\.", r".norm_act."),
    (r"\.merge_layer\.2\.cbr\.", r".merge."),
    (r"\.merge_layer\.3\.", r".expand."),
    (r"\.br\.br\.", r".last."),
    (r"\.wt_layer\.1\.", r".gate."),
    (r"\.expansion_layer\.cbr\.", r".convolution."),
)


def is_published(names: Mapping[str, object]) -> bool:
    """Whether a state dict has the authors' names."""
    return any(name.endswith("level1.conv.weight") for name in names)


def our_name(published: str) -> str:
    """This library's name of a published entry; that of a branch ends in its block: ``branch_weight[2]``.

    Example:
        >>> our_name("base_net.level3.0.spp_dw.2.conv.weight")
        'backbone.level3.units.0.branch_weight[2]'
        >>> our_name("bu_dec_l4.merge_layer.3.bias")
        'pyramids.3.expand.bias'
    """
    name = published
    for block in (_MODELS, _BACKBONE, _PARTS):
        name = next((re.sub(rule, new, name) for rule, new in block if re.search(rule, name)), name)
    return name


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of this library's model that a published one describes; unknown names stay as they are."""
    ours: dict[str, Tensor] = {}
    branches: dict[str, dict[int, Tensor]] = {}
    for published, tensor in state.items():
        name, _, block = our_name(published).partition("[")
        if block:
            branches.setdefault(name, {})[int(block.rstrip("]"))] = tensor
        else:
            ours[name] = tensor
    return ours | {name: torch.cat([blocks[b] for b in sorted(blocks)]) for name, blocks in branches.items()}
