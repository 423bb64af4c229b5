"""The authors' published weights: what there is, and how a file becomes a model's state.

The files are those of sacmehta/EdgeNets (MIT licence). Each is known by its git blob id, which is checked before
anything reads the file; no file is ever unpickled into more than tensors.
"""

import hashlib
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from eru.cache import cache_dir, download, make_cache_folder
from eru.training.files import atomic_write
from vision.datasets import CITYSCAPES, COCO, IMAGENET, VOC, Dataset
from vision.preprocessing import Preprocessing
from vision.published import from_published, is_published

_SOURCE = "https://raw.githubusercontent.com/sacmehta/EdgeNets/master/model"
_SIZE_LIMIT = 64 << 20  # bytes; the largest file has about 24 MB


@dataclass(frozen=True)
class Weights:
    r"""One published file.

    Attributes:
        name: the model's name, a dot and what tells its files apart: ``espnetv2_200_seg_voc.384x384``.
        model: name in the registry of the model that the weights are for.
        url: where the file is.
        blob: its git blob id, the SHA-1 of ``blob <size>\0`` and its bytes.
        dataset: what it was trained on, with categories and palette.
        preprocessing: from a picture to the network's input.
        metrics: as published, in per cent.
        licence: of the file.
        attribution: whose work it is.
    """

    name: str
    model: str
    url: str
    blob: str
    dataset: Dataset
    preprocessing: Preprocessing
    metrics: Mapping[str, float] = field(default_factory=dict)
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
    """The record of a file; ``size`` is (width, height), as in the file's name."""
    suffix, tag, described = {
        "imagenet": ("", "imagenet_224", IMAGENET),
        "pascal": ("voc", "{}x{}", VOC),
        "city": ("city", "{}x{}", CITYSCAPES),
        "coco": ("coco", "{}x{}", COCO),
    }[dataset]
    head = {"classification": "", "segmentation": "_seg_", "detection": "_ssd_"}[task]
    model = model_name(width, head + suffix)
    file = f"espnetv2_s_{width}_{dataset}_{size[0]}x{size[1]}.pth"
    return Weights(
        name=f"{model}.{tag.format(*size)}",
        model=model,
        url=f"{_SOURCE}/{task}/model_zoo/espnetv2/{file}",
        blob=blob,
        dataset=described,
        preprocessing=Preprocessing(size[::-1], crop=0.875 if task == "classification" else None),
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
_HALF, _FULL = (512, 256), (1024, 512)

# Of a model's files the one listed first is its default. The 50.4 that an older table gives for the city file of
# s = 2.0 at 512x256 was withdrawn by the authors and is left out.
WEIGHTS: Mapping[str, Weights] = {
    weights.name: weights
    for weights in (
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
}


def list_weights(model: str | None = None) -> list[str]:
    """Names of the published weights, or of those of one model; a model's default comes first.

    Example:
        >>> list_weights("espnetv2_200_seg_voc")
        ['espnetv2_200_seg_voc.384x384', 'espnetv2_200_seg_voc.256x256']
    """
    return [name for name, weights in WEIGHTS.items() if model in (None, weights.model)]


def blob_id(content: bytes) -> str:
    """Git's id of a file's content.

    Example:
        >>> blob_id(b"")
        'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch(weights: Weights) -> Path:
    """The published file in the cache, downloaded where it is missing or altered; only verified content is kept.

    Raises:
        ValueError: the file cannot be downloaded, or is not the published one.
    """
    path = cache_dir() / "weights" / weights.file_name
    if path.is_file() and blob_id(path.read_bytes()) == weights.blob:
        return path
    make_cache_folder(path.parent)
    try:
        content = download(weights.url, limit=_SIZE_LIMIT)
    except OSError as error:
        raise ValueError(
            f"weights={weights.name!r}: the download of {weights.url} failed ({error}); put the file at {path}, or "
            "name its path instead"
        ) from error
    if (found := blob_id(content)) != weights.blob:
        raise ValueError(f"{weights.url} is altered: its git blob id must be {weights.blob}, found {found}")
    with atomic_write(path, "wb") as file:
        file.write(content)
    return path


def find_weights(weights: Weights | str | Path) -> tuple[Path, Weights | None]:
    """The file that is meant, and its record if it is a published one.

    Args:
        weights: a record, its name, or the path of a file.

    Raises:
        ValueError: there is no such record or file, or the download failed.
    """
    if isinstance(weights, Weights):
        return fetch(weights), weights
    if str(weights) in WEIGHTS:
        return fetch(WEIGHTS[str(weights)]), WEIGHTS[str(weights)]
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ValueError(f"weights={str(weights)!r}: neither a file nor one of the published {', '.join(WEIGHTS)}")
    blob = blob_id(path.read_bytes())
    return path, next((known for known in WEIGHTS.values() if known.blob == blob), None)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file or in a checkpoint of torch's, in this library's names.

    Raises:
        ValueError: the file is no state dict, is broken, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # what is wrong with a file is said below, in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: refused, since it is broken or holds more than tensors ({reason})") from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: not a checkpoint, or a broken one ({type(error).__name__}: {error})") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: not a checkpoint: it must hold a state dict of tensors")
    if all(str(name).startswith("module.") for name in content):
        content = {str(name).removeprefix("module."): value for name, value in content.items()}
    return from_published(content) if is_published(content) else dict(content)


def load_weights(model: nn.Module, weights: Weights | str | Path) -> Weights | None:
    """Load weights into a model, strictly: every entry must be there and fit.

    Args:
        model: a whole model, or a backbone, which takes what the file's backbone has for it.
        weights: a record, its name, or the path of a file: the authors' ``.pth``, or one that
            :func:`save_weights` wrote.

    Returns:
        The record of a published file, ``None`` for another.

    Raises:
        ValueError: there is no such file, it is not the published one, is broken, or does not fit the model.
    """
    path, record = find_weights(weights)
    state = read_state(path)
    own = model.state_dict()
    if not any(name.startswith("backbone.") for name in own):
        inside = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
        state = {name: inside[name] for name in own if name in inside}
    _check_fit(own, state, path)
    model.load_state_dict(state)
    return record


def _check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    faults = [
        f"{len(names)} {what}, such as {names[0]}"
        for names, what in ((missing, "entries are missing"), (unknown, "entries are unknown"))
        if names
    ]
    if other:
        name = other[0]
        faults.append(
            f"{len(other)} entries have other shapes, such as {name} {tuple(state[name].shape)} where the model has "
            f"{tuple(own[name].shape)}"
        )
    if faults:
        raise ValueError(f"{path} does not fit the model: {'; '.join(faults)}")


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model's state as safetensors, whole or not at all.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_weights(nn.BatchNorm2d(3), path)
        >>> sorted(read_state(path))
        ['bias', 'num_batches_tracked', 'running_mean', 'running_var', 'weight']
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path, "wb") as file:
        file.write(save(state, {"format": "pt"}))
