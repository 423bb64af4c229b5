"""Compiled code of ours runs unseen, so it must not run where somebody looks on, and must change nothing else."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from eru import ERU, EESPGates, ERUCell
from eru.recurrence import naive


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_state_does_not_share_its_memory_with_the_outputs(steps, grad, layers):
    rnn = ERU(8, 8, num_layers=layers).train(grad)
    with torch.set_grad_enabled(grad):
        output, (h, c) = rnn(torch.randn(steps, 2, 8))
    before = h.clone(), c.clone()
    with torch.no_grad():
        output.zero_()
    assert torch.equal(h, before[0])
    assert torch.equal(c, before[1])


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: EESPGates(8, 32), (2, 8)),
        (lambda: ERUCell(8, 8), (2, 8)),
        (lambda: ERU(8, 8), (1, 2, 8)),
        (lambda: ERU(8, 8), (5, 2, 8)),
    ],
    ids=["map", "cell", "layer of one step", "layer"],
)
@torch.no_grad()
def test_a_tracer_sees_operators_and_no_constants(make, shape):
    module = make().eval()

    def first(x):
        out = module(x)
        return out if isinstance(out, torch.Tensor) else out[0]

    traced, other = make_fx(first)(torch.randn(shape)), torch.randn(shape)
    torch.testing.assert_close(traced(other), first(other))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("make", [lambda: EESPGates(8, 32), lambda: ERUCell(8, 8)], ids=["map", "cell"])
@torch.no_grad()
def test_torchscripts_tracer_sees_operators_too(make):
    module, other = make().eval(), torch.randn(2, 8)
    traced = torch.jit.trace(module, torch.randn(2, 8), check_trace=False)
    torch.testing.assert_close(traced(other), module(other))


@torch.no_grad()
def test_a_mode_that_counts_operators_counts_those_of_an_evaluated_step():
    cell, x = ERUCell(8, 16).eval(), torch.randn(2, 8)
    with FlopCounterMode(display=False) as counter:
        cell(x)
    # Two for each multiply-add, of which the recurrent product alone has one for each weight and row.
    assert counter.get_total_flops() > 2 * 2 * cell.weight_hh.numel()


@torch.no_grad()
def test_a_named_way_runs_on_the_meta_device():
    rnn = ERU(8, 8, backend="cpu", device="meta").eval()
    assert rnn(torch.empty(3, 2, 8, device="meta"))[0].shape == (3, 2, 8)


def test_a_subclass_keeps_its_own_step():
    class Damped(ERUCell):
        def step(self, gates, state):
            h, c = super().step(gates, state)
            return h / 2, c

    cell, x = Damped(8, 8).eval(), torch.randn(2, 8)
    expected = cell(x)
    with torch.no_grad():
        torch.testing.assert_close(cell(x), expected)


@torch.no_grad()
def test_a_way_named_by_the_environment_is_taken_for_a_single_step_too(monkeypatch):
    rnn, x, called = ERU(8, 8).eval(), torch.randn(1, 2, 8), []
    oracle = naive.lstm_scan
    monkeypatch.setattr(naive, "lstm_scan", lambda *inputs: called.append(1) or oracle(*inputs))
    plain = rnn(x)[0]
    monkeypatch.setenv("ERU_BACKEND", "naive")
    called.clear()
    torch.testing.assert_close(rnn(x)[0], plain)
    assert called
