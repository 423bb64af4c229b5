"""The state of all random number generators, so that a resumed run draws what the whole run would have."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (the CPU and every CUDA device).

    Args:
        seed: A number from 0 to 2**32 - 1, the range that all of them accept.

    Raises:
        ValueError: The seed is outside of that range.

    Example:
        >>> seed_everything(1)
        >>> first = torch.rand(3)
        >>> seed_everything(1)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: must be from 0 to 2**32 - 1")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """The state of every global generator, those of CUDA devices if this process has used CUDA.

    It is of tensors and plain values only, so that `torch.load(weights_only=True)` reads it from a file.

    Example:
        >>> state = rng_state()
        >>> first = torch.rand(3)
        >>> set_rng_state(state)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    numpy = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        "numpy": {
            "keys": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "position": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "cached_gaussian": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        # Asking an unused CUDA for its state would start it, which a run on the CPU should not pay for.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put every global generator back where `rng_state` found it.

    Saved states of CUDA devices that this machine lacks are passed over, so a run may be continued elsewhere
    (there its random numbers on the device differ).
    """
    random.setstate(state["python"])
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached_gaussian"]))
    torch.set_rng_state(state["torch"])
    for device, cuda_state in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda_state, device)
