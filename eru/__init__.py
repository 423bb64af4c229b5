"""ERU: parameter-efficient recurrent units from the ESPNetv2 paper (arXiv 1811.11431)."""

from eru.cell import ERUCell
from eru.eesp import EESP, EESP1d, EESP2d, EESP3d
from eru.gates import SequenceEESP
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
    "ERUCell",
    "SequenceEESP",
    "StridedEESP",
    "lstm_scan",
    "optimize",
]
