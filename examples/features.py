"""Give the features of an ESPNetv2 backbone to scikit-learn, and see what they are worth against raw pixels.

The handwritten digits that scikit-learn carries are scans of 8x8 pixels. Here each lies somewhere in a larger, noisy
picture, in some size. The backbone learned to tell 0 to 4 apart, or it has the weights of a file. Then a logistic
regression learns the other kinds, 5 to 9, from a few pictures of each: from the means of the backbone's maps, from the
raw pixels, and from the features of a backbone with random weights.

The score is the share of the second half of these pictures that is told rightly after learning from 10 of each kind
of the first, the mean of several draws; higher is better. The goal is a score above those of both baselines.

    python examples/features.py --picture features.png
    python examples/features.py --weights FILE --picture features.png

The picture shows some of the pictures, which kind the features let be taken for which, and what fewer or more pictures
teach.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from program import drawing, make_parser, report, train
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import vision
from vision.preprocessing import IMAGENET_MEAN, IMAGENET_STD

SIDE, NOISE = 48, 0.1  # of the pictures
SEEN = 5  # The backbone learns the kinds below.
LEVELS = (1, 2, 3)  # of the backbone's maps
BATCH_SIZE, LEARNING_RATE = 32, 4e-3
COUNTS, COUNTED = (1, 2, 5, 10, 20, 50), 10


def place(scans: Tensor) -> Tensor:
    """Put each of the scans (N, 1, 8, 8) somewhere in a picture, in some size: (N, 3, SIDE, SIDE), normalised."""
    size = torch.empty(len(scans), 1, 1).uniform_(1.3, 2.2)  # how many times as wide as the scan the picture is
    shift = torch.empty(len(scans), 2, 1).uniform_(-1, 1) * (size - 1)
    where = torch.cat([size * torch.eye(2), shift], dim=2)
    grid = nn.functional.affine_grid(where, [len(scans), 1, SIDE, SIDE], align_corners=False)
    grey = nn.functional.grid_sample(scans, grid, align_corners=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (grey + NOISE * torch.randn_like(grey) - mean) / std


def losses(model: nn.Module, scans: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Give the cross-entropy of the kinds on one batch after the other, each picture placed anew."""
    while True:
        batch = torch.randint(len(scans), (BATCH_SIZE,))
        yield nn.functional.cross_entropy(model(place(scans[batch])), labels[batch])


@torch.no_grad()
def features(backbone: nn.Module, images: Tensor) -> np.ndarray:
    """Return the means of the backbone's maps."""
    backbone.eval()
    maps = (backbone(batch) for batch in images.split(BATCH_SIZE))
    return torch.cat([torch.cat([m.mean(dim=(2, 3)) for m in levels], dim=1) for levels in maps]).numpy()


def confusion(inputs: np.ndarray, labels: np.ndarray, count: int, draws: int) -> np.ndarray:
    """Learn from `count` of each kind of the first half, and count which kind of the second was taken for which."""
    rng, half, kinds = np.random.default_rng(0), len(labels) // 2, np.unique(labels)
    total = np.zeros((len(kinds), len(kinds)))
    for _ in range(draws):
        chosen = np.concatenate([rng.permutation(np.flatnonzero(labels[:half] == kind))[:count] for kind in kinds])
        learner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        learner.fit(inputs[chosen], labels[chosen])
        total += confusion_matrix(labels[half:], learner.predict(inputs[half:]), labels=kinds)
    return total


def right(matrix: np.ndarray) -> float:
    """Return the share of a confusion matrix that was taken for what it is."""
    return float(matrix.trace() / matrix.sum())


def draw(path: Path, images: Tensor, labels: np.ndarray, matrices: dict[str, list[np.ndarray]]) -> None:
    """Draw some of the pictures, what is taken for what, and how much is right by how many were learned from."""
    kinds = np.unique(labels)
    rows = [torch.cat(list(images[labels == kind][: len(kinds), 0]), dim=1) for kind in kinds]
    matrix = matrices["features"][COUNTS.index(COUNTED)]
    with drawing(path, f"Telling {SEEN} to 9 apart after a few pictures of each", height=3.4) as figure:
        pictures, table, curve = figure.subplots(1, 3)
        pictures.imshow(torch.cat(rows).numpy(), cmap="Greys")
        pictures.set(title="pictures", xticks=[], yticks=[])
        table.imshow(matrix / matrix.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
        table.set_xticks(range(len(kinds)), kinds)
        table.set_yticks(range(len(kinds)), kinds)
        table.set(title=f"{COUNTED} of each kind", xlabel="taken for", ylabel="kind")
        for name, of_counts in matrices.items():
            shares = [right(matrix) for matrix in of_counts]
            curve.plot(COUNTS, shares, "o-", label=f"{name} {shares[COUNTS.index(COUNTED)]:.2f}")
        curve.set(xscale="log", xlabel="of each kind", ylim=(0, 1), title="told rightly")
        curve.set_xticks(COUNTS, COUNTS)
        curve.minorticks_off()
        figure.legend(loc="outside lower center", ncols=len(matrices))


def main(argv: list[str] | None = None) -> int:
    """Compare the inputs, print the score as one JSON line, and return 0 if the features beat the baselines."""
    parser = make_parser(__doc__, cell=False, steps=300, digits=1797, draws=10)
    parser.add_argument("--model", default="espnetv2_050", help="(default: %(default)s)")
    parser.add_argument("--weights", help="a file of its weights, or the name of a published one")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    digits = load_digits()
    scans = torch.from_numpy(digits.images[: args.digits] / 16).float().unsqueeze(1)
    labels = torch.from_numpy(digits.target[: args.digits])
    images, kinds = place(scans[labels >= SEEN]), labels[labels >= SEEN].numpy()
    options = {"features_only": True, "out_indices": LEVELS}
    untrained = vision.create_model(args.model, **options)
    if args.weights is None:
        model = vision.create_model(args.model, num_classes=SEEN)
        batches = losses(model, scans[labels < SEEN], labels[labels < SEEN])
        train(model, batches, steps=args.steps, learning_rate=LEARNING_RATE)
        backbone = model.backbone
        backbone.out_indices = LEVELS
    else:
        backbone = vision.create_model(args.model, weights=args.weights, **options)
    inputs = {
        "features": features(backbone, images),
        "raw pixels": images[:, 0].flatten(1).numpy(),
        "random weights": features(untrained, images),
    }
    matrices = {name: [confusion(x, kinds, count, args.draws) for count in COUNTS] for name, x in inputs.items()}
    known = {name: right(of_counts[COUNTS.index(COUNTED)]) for name, of_counts in matrices.items()}
    score = known.pop("features")
    if args.picture is not None:
        draw(args.picture, images, kinds, matrices)
    goal = max(known.values())
    return report("features", args, backbone, score=score, baselines=known, goal=goal, reached=score > goal)


if __name__ == "__main__":
    sys.exit(main())
