"""The fast way on GPUs: torch's own fused LSTM, whose input product is replaced by an identity.

A library's kernel (cuDNN's, MIOpen's, Apple's) needs no tuning of ours. It computes its input gates as a product of
its input with a matrix; with the identity as that matrix, our gates pass through it.
"""

import warnings

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from eru.recurrence.naive import Inputs


def lstm_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The contract of :func:`eru.recurrence.naive.lstm_scan`, without a mask and with cells in the gates' type."""
    gates, weight_hh, h0, c0, weight_hr, _, ends = inputs
    identity = torch.eye(gates.shape[2], device=gates.device, dtype=gates.dtype)
    weights = [identity, _dense(weight_hh, h0.shape[1]), *([] if weight_hr is None else [weight_hr])]
    h0, c0 = h0.unsqueeze(0), c0.to(gates.dtype).unsqueeze(0)
    train = torch.is_grad_enabled() and any(x.requires_grad for x in (gates, h0, c0, *weights))
    # has_biases, num_layers, dropout, train, bidirectional
    options = (False, 1, 0.0, train, False)
    if ends is None:
        with _quiet():
            hidden, _, c = torch.lstm(gates, (h0, c0), weights, *options, False)
        return hidden, c.squeeze(0)
    # The fused kernel knows where sequences end only when they are packed: sorted by length, without padding.
    order = ends.argsort(descending=True)
    back = order.argsort()
    packed = pack_padded_sequence(gates.index_select(1, order), (ends + 1).index_select(0, order).cpu())
    start = h0.index_select(1, order), c0.index_select(1, order)
    with _quiet():
        data, _, c = torch.lstm(packed.data, packed.batch_sizes, start, weights, *options)
    hidden, _ = pad_packed_sequence(packed._replace(data=data), total_length=gates.shape[0])
    return hidden.index_select(1, back), c.index_select(1, back).squeeze(0)


def _dense(weight_hh: Tensor, size: int) -> Tensor:
    """Recurrent weights in groups (4H, P / R) as the dense matrix (4H, P) that they stand for, zero off its blocks."""
    groups = size // weight_hh.shape[1]
    if groups == 1:
        return weight_hh
    blocks = weight_hh.unflatten(0, (4, groups, -1)).permute(0, 2, 3, 1)  # (gate, H / R, P / R, R)
    return torch.diag_embed(blocks).permute(0, 3, 1, 4, 2).flatten(3).flatten(0, 2)  # (gate R H/R, R P/R)


def _quiet() -> warnings.catch_warnings:
    """Hide the warning that cuDNN copies the weights into one piece of memory; ours may be new at every call."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)
