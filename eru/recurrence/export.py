"""The recurrence as one ``scan`` node, which ``torch.export`` keeps for any length."""

from torch import Tensor
from torch._higher_order_ops.scan import scan

from eru.recurrence.naive import Inputs, at, lstm_step


def lstm_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The contract of :func:`eru.recurrence.naive.lstm_scan`."""
    gates, weight_hh, h0, c0, weight_hr, hidden_mask, ends = inputs

    def step(state: tuple[Tensor, Tensor], gate: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
        h, c = lstm_step(gate, weight_hh, *state, weight_hr, hidden_mask)
        # Outputs of the traced step must not alias each other.
        return (h, c), (h.clone(),) if ends is None else (h.clone(), c.clone())

    (_, c), (hidden, *cells) = scan(step, (h0.clone(), c0.clone()), gates)
    return hidden, c if ends is None else at(ends, cells[0])
