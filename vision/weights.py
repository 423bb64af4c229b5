"""The authors' published weights: a record of each file in sacmehta/EdgeNets (MIT licence)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        url: Where the file is.
        blob: The file's git blob id, the SHA-1 of ``blob <size>\0`` and its bytes.
        dataset: What it was trained on, with categories and palette.
        preprocessing: From a picture to the network's input.
        metrics: What the tables of the authors' repository print of it, in per cent.
        licence: The file's licence.
        attribution: Whose work it is.
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
    """Name in the registry of the model of a width.

    Example:
        >>> model_name(0.5), model_name(2.0, "_seg_voc")
        ('espnetv2_050', 'espnetv2_200_seg_voc')
    """
    return f"espnetv2_{round(100 * width):03d}{suffix}"


def _weights(
    task: str, width: float, dataset: str, size: tuple[int, int], blob: str, metrics: Mapping[str, float]
) -> Weights:
    """The record of a file, trained on images of this size (height, width)."""
    suffix, described = {
        "imagenet": ("", IMAGENET),
        "pascal": ("voc", VOC),
        "city": ("city", CITYSCAPES),
        "coco": ("coco", COCO),
    }[dataset]
    head = {"classification": "", "segmentation": "_seg_", "detection": "_ssd_"}[task]
    model = model_name(width, head + suffix)
    tag = "imagenet_224" if task == "classification" else f"{size[0]}x{size[1]}"
    # The authors name the width of the images before their height.
    file = f"espnetv2_s_{width}_{dataset}_{size[1]}x{size[0]}.pth"
    return Weights(
        name=f"{model}.{tag}",
        model=model,
        url=f"{_SOURCE}/{task}/model_zoo/espnetv2/{file}",
        blob=blob,
        dataset=described,
        preprocessing=Preprocessing(size, crop=0.875 if task == "classification" else None),
        metrics=metrics,
    )


def _classification(width: float, blob: str, top1: float, top5: float) -> Weights:
    return _weights("classification", width, "imagenet", (224, 224), blob, {"top-1": top1, "top-5": top5})


def _segmentation(
    width: float, dataset: str, size: tuple[int, int], blob: str, miou: float | None, test: float | None = None
) -> Weights:
    metrics = {"mIoU (val)": miou, "mIoU (test)": test}
    known = {name: value for name, value in metrics.items() if value is not None}
    return _weights("segmentation", width, dataset, size, blob, known)


def _detection(dataset: str, side: int, blob: str, metric: float) -> Weights:
    name = "mAP@[.50:.95]" if dataset == "coco" else "mAP (VOC 2007)"
    return _weights("detection", 2.0, dataset, (side, side), blob, {name: metric})


_SMALL, _LARGE = (256, 256), (384, 384)
_HALF, _FULL = (256, 512), (512, 1024)

# Of a model's files the one listed first is its default. The metrics are those in the README tables of the
# repository's model_zoo folders. For the city file of s = 2.0 at 256x512 an older revision of its table prints 50.4,
# which the newest one holds only inside of a comment: left out.
_LISTED = (
    _classification(0.5, "12249b9cf29a722a5efe0ee73002b67854b410cf", 57.68, 79.85),
    _classification(1.0, "78c1bad0c94004d8328578e7cd5db8ab764bf8fd", 66.09, 86.54),
    _classification(1.25, "96e4554599ea2099e84f14908036a640ab39598b", 67.95, 87.82),
    _classification(1.5, "a33e1727856bc929cc00ef497df2befcc575f4d9", 69.17, 88.71),
    _classification(2.0, "2ff6a4b97c21f24816826fd9917215b38351d337", 72.06, 90.39),
    _segmentation(0.5, "pascal", _LARGE, "0ee548facd5f7c3b6c930efafa7eebf4ccca9f99", 47.18),
    _segmentation(0.5, "pascal", _SMALL, "cb49bac75905f7082aa6dc1202c178c9a7b9c2f2", 39.82),
    _segmentation(1.0, "pascal", _LARGE, "b32047d006c3c353ea9c0dcd3a75afc67fd4fed4", 60.22),
    _segmentation(1.0, "pascal", _SMALL, "f7c1bc2fd2c97617bde42b133de92c1fb1c2fae7", 54.14),
    _segmentation(1.5, "pascal", _LARGE, "77a423c6e7980847f13ce2480c4f61ae50da706c", 63.67),
    _segmentation(1.5, "pascal", _SMALL, "b36033bfe31f8b9e17b3e16df0b53facd4c029b1", 59.39),
    _segmentation(2.0, "pascal", _LARGE, "34464190260399736ecd269d421cc88a46f7e1b0", 67.01, 67.95),
    _segmentation(2.0, "pascal", _SMALL, "4ab8e53e1e108f828a2ef585b52012062af21e8f", 63.36),
    _segmentation(0.5, "city", _FULL, "22f8b4e640d98b7b1c04563f45c90ae5a47c0806", 53.9),
    _segmentation(0.5, "city", _HALF, "994493b67992a223bafba7a8e786dc553ec9d712", 47.3),
    _segmentation(1.0, "city", _FULL, "f706c137f153aca02b8c5520f3cd933c13db7934", 60.1),
    _segmentation(1.0, "city", _HALF, "9d95f0da0ec51faed65e6bd0b037d7218e10d018", 52.2),
    _segmentation(1.5, "city", _FULL, "0ccb8cec0d5add1ea71c4dd1d294f7c5be5ca632", 63.8),
    _segmentation(1.5, "city", _HALF, "9beaca7dda465e9729cc22ffe99f463cebeed9f1", 54.6),
    _segmentation(2.0, "city", _FULL, "2eaa3648b692cb1680d553f8c042e89080c1abee", 66.4, 66.2),
    _segmentation(2.0, "city", _HALF, "6687c5cde768666fe8cf3efd06f1b40ad509b8fd", None),
    _detection("pascal", 512, "d7a518dd2f04a1e5168022df5e391f36d3c2304f", 75.01),
    _detection("pascal", 300, "2d4cda3a17a2c06ec08b0870854688f92e9ea63d", 70.27),
    _detection("coco", 512, "dec223ee299179e6a4683c84e913c6014e2b4252", 24.54),
    _detection("coco", 300, "6370533adacf857500f83a4162f7766d4e9a62a0", 20.80),
)
WEIGHTS: Mapping[str, Weights] = {weights.name: weights for weights in _LISTED}


def list_weights(model: str | None = None) -> list[str]:
    """Names of the published weights, or of those of one model; a model's default comes first.

    Example:
        >>> list_weights("espnetv2_200_seg_voc")
        ['espnetv2_200_seg_voc.384x384', 'espnetv2_200_seg_voc.256x256']
    """
    return [name for name, weights in WEIGHTS.items() if model in (None, weights.model)]
