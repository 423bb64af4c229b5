"""What any training run needs, whatever it trains.

The run folder with its checkpoints, the steps of an epoch, random states, limits, signals, schedules, updates, weight
averaging, distribution over processes, progress and learning curves. Nothing here knows what is being trained.
"""

from eru.storage import atomic_write, read_json, write_json
from eru.training.averaging import has_stalled
from eru.training.curves import plot_curve, why_not_drawn
from eru.training.distributed import Ranks
from eru.training.epoch import Session, Step, run_epoch
from eru.training.limits import Limits
from eru.training.machine import machine
from eru.training.memory import check_memory, keep_freed_memory
from eru.training.numerics import NonFiniteLossError, Precision, autocast, check_finite
from eru.training.progress import Progress, counted
from eru.training.rng import rng_state, seed_everything, set_rng_state
from eru.training.run_folder import RunFolder
from eru.training.schedules import Schedule, schedule_factor
from eru.training.signals import Interrupted, StopSignals
from eru.training.state import Position, TrainingState
from eru.training.updates import OptimizerName, make_optimizer, update

__all__ = [
    "Interrupted",
    "Limits",
    "NonFiniteLossError",
    "OptimizerName",
    "Position",
    "Precision",
    "Progress",
    "Ranks",
    "RunFolder",
    "Schedule",
    "Session",
    "Step",
    "StopSignals",
    "TrainingState",
    "atomic_write",
    "autocast",
    "check_finite",
    "check_memory",
    "counted",
    "has_stalled",
    "keep_freed_memory",
    "machine",
    "make_optimizer",
    "plot_curve",
    "read_json",
    "rng_state",
    "run_epoch",
    "schedule_factor",
    "seed_everything",
    "set_rng_state",
    "update",
    "why_not_drawn",
    "write_json",
]
