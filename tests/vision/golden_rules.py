"""The inputs and weights that the golden arrays were made with: rules that anyone can follow."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vision.weights import our_name

GOLDEN = Path(__file__).parent / "golden"


def sine_image(height: int, width: int) -> Tensor:
    """x[0, c, i, j] = sin(0.013 i (c + 1) + 0.021 j + 0.5 c), computed in float64."""
    c, i, j = np.ogrid[:3, :height, :width]
    return torch.from_numpy(np.sin(0.013 * i * (c + 1) + 0.021 * j + 0.5 * c).astype(np.float32))[None]


def rule_b(entry: int, role: str, shape: tuple[int, ...]) -> Tensor:
    """The value of the entry of that number: a hash of each flat index, scaled by the entry's role."""
    if role.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    i = np.arange(math.prod(shape), dtype=np.uint64)
    h = (i * 2654435761 + (entry * 40503 + 12345)) % 2**32
    for _ in range(2):
        h ^= h >> np.uint64(16)
        h = h * 0x45D9F3B % 2**32
    h ^= h >> np.uint64(16)
    u = torch.from_numpy(h / 2**31 - 1).reshape(shape)
    value = {
        "bn.running_var": 1 + 0.5 * u,
        "bn.weight": 1 + 0.25 * u,
        "prelu.weight": 0.25 + 0.2 * u,
        "conv.weight": u * math.sqrt(3 / math.prod(shape[1:])),
        "linear.weight": u * math.sqrt(3 / math.prod(shape[1:])),
    }.get(role, 0.2 * u)
    return value.float()


def published_entries(keys: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state by rule B: the names and order of a list of keys, the shapes of a model's own state."""
    state = {}
    for entry in json.loads((GOLDEN / keys).read_text()):
        name, _, block = our_name(entry["key"]).partition("[")
        shape = own[name].shape
        if block:
            shape = (shape[0] // 4, *shape[1:])  # one of the four branches
        state[entry["key"]] = rule_b(entry["ordinal"], entry["role"], tuple(shape))
    return state
