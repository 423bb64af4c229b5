"""ERU: parameter-efficient recurrent units from the ESPNetv2 paper (arXiv 1811.11431)."""

import torch

from eru.cell import ERUCell
from eru.eesp import EESP
from eru.eesp_aliases import EESP1d, EESP2d, EESP3d
from eru.gates import EESPGates
from eru.inference import optimize
from eru.layer import ERU
from eru.recurrence import lstm_scan
from eru.strided import StridedEESP

__version__ = "0.1.0"

__all__ = [
    "EESP",
    "ERU",
    "EESP1d",
    "EESP2d",
    "EESP3d",
    "EESPGates",
    "ERUCell",
    "StridedEESP",
    "lstm_scan",
    "optimize",
]

# So that torch.load(weights_only=True) brings back whole modules of ours. An ERU keeps its cells in a ModuleDict.
torch.serialization.add_safe_globals(
    [EESP, EESP1d, EESP2d, EESP3d, EESPGates, ERU, ERUCell, StridedEESP, torch.nn.ModuleDict]
)
