"""How good the answers of vision's models are.

Every metric takes in batch after batch and then gives its numbers, which JSON can express:

>>> import torch
>>> from vision.metrics import Accuracy
>>> accuracy = Accuracy(num_classes=10)
>>> for _ in range(3):
...     accuracy.update(torch.eye(10), torch.arange(10))
>>> accuracy.compute()
{'top1': 1.0, 'top5': 1.0}

What several processes, or parts of a data set, gathered adds up:

>>> one, other = Accuracy(num_classes=10), Accuracy(num_classes=10)
>>> one.update(torch.eye(10), torch.arange(10))
>>> other.update(torch.eye(10), torch.zeros(10, dtype=torch.int64))
>>> one.load_state(one.state() + other.state())
>>> one.compute()["top1"]
0.55
"""

from vision.metrics.classification import Accuracy
from vision.metrics.coco import COCOAveragePrecision
from vision.metrics.detections import Picture
from vision.metrics.metric import Metric
from vision.metrics.multilabel import MultiLabelF1
from vision.metrics.segmentation import MeanIoU
from vision.metrics.voc import PrecisionRecall, VOCAveragePrecision

__all__ = [
    "Accuracy",
    "COCOAveragePrecision",
    "MeanIoU",
    "Metric",
    "MultiLabelF1",
    "Picture",
    "PrecisionRecall",
    "VOCAveragePrecision",
]
