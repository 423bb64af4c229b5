"""``eru::nms_mask`` in ONNX's own operators."""

from typing import Any

import numpy as np
from onnxscript import opset20

op: Any = opset20  # its annotations ask for more than it does


def nms_mask(boxes: Any, valid: Any, threshold: float) -> Any:
    """The contract of :func:`vision.boxes.nms_mask` for (rows, k, 4) and (rows, k): every row is a picture to ONNX."""
    ranks = valid.shape[-1]
    # The better rank has the higher score; what is not valid has 0, which is no candidate.
    order = op.Constant(value_floats=np.arange(ranks, 0, -1, dtype=np.float32).tolist())
    scores = op.Unsqueeze(op.Where(valid, order, 0.0), [1])
    picked = op.NonMaxSuppression(boxes, scores, [ranks], [float(threshold)], [0.5])  # (n, 3): row, class, rank
    places = op.Gather(picked, [0, 2], axis=1)
    nothing = op.ConstantOfShape(op.Shape(valid))
    ones = op.ConstantOfShape(op.Shape(op.Gather(places, 0, axis=1)))
    kept = op.ScatterND(nothing, places, op.Add(ones, 1.0))
    return op.Greater(kept, 0.5)
