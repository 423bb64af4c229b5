"""What any training run needs, whatever it trains.

The run folder with its checkpoints, random states, schedules, weight averaging, distribution over processes,
progress and learning curves. Nothing here knows what is being trained.
"""

from eru.storage import atomic_write, read_json, write_json
from eru.training.averaging import WeightAverage, has_stalled
from eru.training.curves import plot_curve
from eru.training.distributed import Ranks
from eru.training.machine import machine
from eru.training.numerics import NonFiniteLossError, check_finite
from eru.training.progress import Progress
from eru.training.rng import rng_state, seed_everything, set_rng_state
from eru.training.run import RunFolder
from eru.training.schedules import Schedule, constant, make_schedule, warmup_cosine, warmup_linear

__all__ = [
    "NonFiniteLossError",
    "Progress",
    "Ranks",
    "RunFolder",
    "Schedule",
    "WeightAverage",
    "atomic_write",
    "check_finite",
    "constant",
    "has_stalled",
    "machine",
    "make_schedule",
    "plot_curve",
    "read_json",
    "rng_state",
    "seed_everything",
    "set_rng_state",
    "warmup_cosine",
    "warmup_linear",
    "write_json",
]
