"""Pictures to learn from: readers of the known layouts of data sets, and shapes drawn in each of them."""

from vision.data.cityscapes import CityscapesReader, to_label_ids
from vision.data.coco import CocoReader
from vision.data.folders import ImageNetReader
from vision.data.layouts import TASKS, Layout, open_data
from vision.data.sample import IGNORED, Objects, Reader, Sample, Split, Task
from vision.data.shapes import write_shapes
from vision.data.voc import VOCReader

__all__ = [
    "IGNORED",
    "TASKS",
    "CityscapesReader",
    "CocoReader",
    "ImageNetReader",
    "Layout",
    "Objects",
    "Reader",
    "Sample",
    "Split",
    "Task",
    "VOCReader",
    "open_data",
    "to_label_ids",
    "write_shapes",
]
