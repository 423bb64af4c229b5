"""Small scenes with detections, good and bad, for the tests of both measures."""

import numpy as np
import pytest
import torch

from vision.data.sample import Objects

CLASSES = 4


def scene(seed, pictures=4, *, ties=False, ignored=0.25):
    """Detections and objects on a coarse grid, where objects are found, missed, found twice and taken for others."""
    rng = np.random.default_rng(seed)
    outputs, targets = [], []
    for _ in range(pictures):
        count, extra = rng.integers(0, 5), rng.integers(0, 4)
        corner = rng.integers(0, 12, (count, 2))
        objects = np.concatenate([corner, corner + rng.integers(2, 9, (count, 2))], axis=1)
        labels = rng.integers(1, CLASSES, count)
        targets.append(Objects(objects.astype(np.float32), labels, rng.random(count) < ignored))
        again = rng.integers(0, count, 2 * count) if count else np.zeros(0, int)
        corner = rng.integers(0, 12, (extra, 2))
        moved = objects[again] + rng.integers(-1, 2, (len(again), 4))
        boxes = np.concatenate([moved, np.concatenate([corner, corner + rng.integers(2, 9, (extra, 2))], axis=1)])
        boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, :2] + 1, boxes[:, 2:])], axis=1)
        found = np.concatenate([labels[again], rng.integers(1, CLASSES, extra)])
        scores = rng.integers(1, 4, len(boxes)) / 4 if ties else rng.random(len(boxes))
        values = {
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(found),
            "scores": torch.from_numpy(scores),
        }
        outputs.append(values)
    return outputs, targets


def counts(targets):
    return any((~target.ignored).any() for target in targets)


def gathered(measure, outputs, targets, classes=CLASSES):
    metric = measure(classes)
    metric.update(outputs, targets)
    return metric


def perfect(targets):
    return [
        {"boxes": torch.from_numpy(t.boxes), "labels": torch.from_numpy(t.labels), "scores": torch.rand(len(t.boxes))}
        for t in targets
    ]


def approximately(values):
    return [None if value is None else pytest.approx(value) for value in values]


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
