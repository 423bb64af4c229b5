"""Fine-tune a segmenter on a small folder of pictures that lies as PASCAL VOC does.

Without a folder of your own, pictures of circles, squares, triangles, stars, crosses and rings are drawn to learn
from, and a sixth as many others to measure on. The network starts from nothing, or from a file of weights.

The score is the mean IoU over the classes (the pixels that are rightly of a class, as a share of all that are or were
said to be) in the other pictures, in the size in which the network sees them; higher is better. The baseline takes
everything for background.

The goal is a score of at least 0.60. The authors' weights, which a name downloads, reach it in so few steps; from
nothing the network falls short of it.

    python examples/finetune_segmenter.py --picture segmenter.png
    python examples/finetune_segmenter.py --weights espnetv2_050_seg_voc.256x256 --picture segmenter.png
    python examples/finetune_segmenter.py --data FOLDER --weights FILE --save mine.safetensors --picture segmenter.png

A folder of your own has the lists `train` and `val`, and `labels.txt` where its classes are not those of VOC. The
picture shows pictures of `val`, their truth, and what the network says.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from program import drawing, make_parser, report, train
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

import vision
from vision.data import IGNORED, VOCReader, write_shapes
from vision.data.transforms import Compose, RandomFlip, Resize, as_tensors
from vision.metrics import MeanIoU

MODEL = "espnetv2_050_seg_voc"
BATCH_SIZE, LEARNING_RATE = 16, 4e-3
GOAL = 0.60
SHOWN = 6  # pictures


class Pictures(Dataset):
    """The pictures of one split with their masks, in one size; to learn from, they are mirrored at random."""

    def __init__(self, folder: Path, split: str, side: int, mirrored: float = 0.0):
        self.reader = VOCReader(folder, split)
        self.vary = Compose((Resize((side, side)), RandomFlip(mirrored)))
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return as_tensors(self.vary(self.reader[index], self.rng))


def losses(model: nn.Module, pictures: Pictures, steps: int) -> Iterator[Tensor]:
    """Give the cross-entropy of the pixels on one batch after the other."""
    sampler = RandomSampler(pictures, num_samples=steps * BATCH_SIZE)
    for images, masks in DataLoader(pictures, BATCH_SIZE, sampler=sampler):
        yield nn.functional.cross_entropy(model(images)["out"], masks, ignore_index=IGNORED)


@torch.no_grad()
def segment(model: nn.Module, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Return the masks of all pictures and what the model says in their place, both (N, H, W)."""
    model.eval()
    batches = [(masks, model(images)["out"].argmax(dim=1)) for images, masks in DataLoader(pictures, BATCH_SIZE)]
    truths, answers = zip(*batches, strict=True)
    return torch.cat(truths), torch.cat(answers)


def mean_iou(answers: Tensor, truths: Tensor, classes: int) -> float:
    """Return how well the pixels of the classes are found."""
    metric = MeanIoU(classes)
    metric.update(answers, truths)
    return metric.compute()["mean_iou"]


def draw(path: Path, pictures: Pictures, truths: Tensor, answers: Tensor, title: str) -> None:
    """Draw the first pictures, and the classes of their pixels in colours: the true ones and the predicted ones."""
    dataset = pictures.reader.dataset
    colours = np.full((256, 3), 210, dtype=np.uint8)  # what is ignored is grey
    colours[: len(dataset.colours)] = dataset.colours
    colours[dataset.background] = 255
    with drawing(path, title, height=3.6) as figure:
        grid = figure.subplots(3, SHOWN)
        for number, column in enumerate(grid.T[: len(pictures)]):
            picture = pictures.vary(pictures.reader[number], pictures.rng).picture
            for axes, shown in zip(column, (picture, colours[truths[number]], colours[answers[number]]), strict=True):
                axes.imshow(shown)
        for row, name in zip(grid, ("picture", "truth", "network"), strict=True):
            row[0].set_ylabel(name)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color="0.8")
        found = set(torch.cat([truths[:SHOWN], answers[:SHOWN]]).unique().tolist()) - {dataset.background, IGNORED}
        for label in sorted(found):
            grid[0, 0].plot([], [], "s", color=colours[label] / 255, label=dataset.categories[label])
        figure.legend(loc="outside lower center", ncols=SHOWN)


def main(argv: list[str] | None = None) -> int:
    """Train the network, print its score beside the baseline as one JSON line, and return 0 if the goal is reached."""
    parser = make_parser(__doc__, cell=False, steps=400, pictures=400, side=96)
    parser.add_argument("--model", default=MODEL, help="(default: %(default)s)")
    parser.add_argument("--data", type=Path, help="a folder in the layout of PASCAL VOC (default: drawn shapes)")
    parser.add_argument("--weights", help="a file to start from, or the name of a published one")
    parser.add_argument("--save", type=Path, help="a file for the weights, .safetensors")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    with TemporaryDirectory() as temporary:
        folder = args.data or Path(temporary, "shapes")
        if args.data is None:
            write_shapes(
                "voc", folder, train=args.pictures, val=args.pictures // 6, seed=args.seed, size=(args.side, args.side)
            )
        train_pictures = Pictures(folder, "train", args.side, mirrored=0.5)
        test_pictures = Pictures(folder, "val", args.side)
        classes = len(train_pictures.reader.dataset.categories)
        model = vision.create_model(args.model, num_classes=classes, weights=args.weights)
        train(model, losses(model, train_pictures, args.steps), steps=args.steps, learning_rate=LEARNING_RATE)
        truths, answers = segment(model, test_pictures)
        score = mean_iou(answers, truths, classes)
        if args.picture is not None:
            start = "nothing" if args.weights is None else "weights"
            title = f"{args.model}, {args.steps} steps from {start}: mean IoU {score:.2f}"
            draw(args.picture, test_pictures, truths, answers, title)
    if args.save is not None:
        vision.save_weights(model, args.save)
    known = {"background": mean_iou(torch.zeros_like(answers), truths, classes)}
    return report("finetune_segmenter", args, model, score=score, baselines=known, goal=GOAL, reached=score >= GOAL)


if __name__ == "__main__":
    sys.exit(main())
