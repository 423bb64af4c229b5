import copy
import math
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eru import EESPGates, ERUCell
from eru.eesp import fit_sizes

quick = settings(max_examples=40, deadline=None)


def random_state(cell, batch, like):
    return tuple(torch.randn_like(part) for part in cell.initial_state(batch, like))


# --- an LSTM cell with another input map


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("given_state", [True, False])
def test_with_a_linear_map_it_is_torchs_lstm_cell(bias, batched, given_state):
    theirs = nn.LSTMCell(5, 4, bias, dtype=torch.float64)
    ours = ERUCell(5, 4, bias, dtype=torch.float64, input_transform=partial(nn.Linear, bias=bias))
    names = {"input_transform.weight": "weight_ih", "weight_hh": "weight_hh"}
    if bias:
        names |= {"input_transform.bias": "bias_ih", "bias": "bias_hh"}
    ours.load_state_dict({mine: theirs.state_dict()[other] for mine, other in names.items()})
    lead = (3,) if batched else ()
    x = torch.randn(*lead, 5, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(2, *lead, 4, dtype=torch.float64)) if given_state else None
    (h, c), expected = ours(x, state), theirs(x, state)
    torch.testing.assert_close((h, c), expected)
    pairs = [(ours.get_parameter(mine), theirs.get_parameter(other)) for mine, other in names.items()]
    mine = torch.autograd.grad(h.sum() + c.square().sum(), [x, *(a for a, _ in pairs)])
    other = torch.autograd.grad(expected[0].sum() + expected[1].square().sum(), [x, *(b for _, b in pairs)])
    torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("options", [{}, {"proj_size": 3}, {"layer_norm": True}, {"bias": False}])
def test_equations(options):
    cell = ERUCell(5, 4, **options, dtype=torch.float64)
    x = torch.randn(3, 5, dtype=torch.float64)
    h, c = state = random_state(cell, 3, x)
    a = x @ cell.input_transform.dense_weight().t()
    if cell.layer_norm is not None:
        a = (
            (a - a.mean(1, keepdim=True))
            / (a.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            * cell.layer_norm.weight
        )
    a = a + h @ cell.weight_hh.t() + (0 if cell.bias is None else cell.bias)
    i, f, g, o = a.split(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    if cell.weight_hr is not None:
        h = h @ cell.weight_hr.t()
    torch.testing.assert_close(cell(x, state)[:2], (h, c))


def test_project_then_step_is_the_cell():
    cell = ERUCell(6, 8)
    x = torch.randn(7, 2, 6)
    gates, state = cell.project(x), cell.initial_state(2, x)
    assert gates.shape == (7, 2, 32)
    hc = state
    for t in range(7):
        hc = cell.step(gates[t], hc)
        state = cell(x[t], state)
        torch.testing.assert_close(state, hc, rtol=1e-5, atol=1e-5)


def test_one_vector_is_a_batch_of_one():
    cell = ERUCell(6, 8, proj_size=3)
    x = torch.randn(1, 6)
    state = random_state(cell, 1, x)
    batched = cell(x, state)
    single = cell(x[0], tuple(part.squeeze(-2) for part in state))
    assert [part.dim() for part in single] == [1, 1]
    torch.testing.assert_close(single, tuple(part.squeeze(-2) for part in batched))
    torch.testing.assert_close(cell(x[0])[0], cell(x)[0][0])


# --- sizes


@pytest.mark.parametrize(("m", "h"), [(1, 1), (1, 51), (650, 51), (3, 2), (51, 650)])
def test_every_size_builds_and_runs_by_default(m, h):
    cell = ERUCell(m, h)
    state = cell(torch.randn(2, m))
    assert [part.shape[-1] for part in state[:2]] == [h, h]
    assert all(part.isfinite().all() for part in cell(torch.randn(2, m), state))


@given(m=st.integers(1, 80), h=st.integers(1, 80), bias=st.booleans())
@quick
def test_random_sizes_and_parameter_count(m, h, bias):
    cell = ERUCell(m, h, bias)
    assert cell(torch.randn(2, m))[0].shape == (2, h)
    k, g, e, d = fit_sizes(m, h, None, None)
    reduce, branches, expand = d * m // g, k * 3 * g, e * math.ceil(h / e) * d
    recurrent = 4 * h * h + (4 * h if bias else 0)
    assert sum(p.numel() for p in cell.parameters()) == 4 * (reduce + branches + expand) + recurrent


@given(h=st.integers(2, 40), data=st.data(), norm=st.booleans())
@quick
def test_parameter_count_with_a_projection_and_layer_norm(h, data, norm):
    p = data.draw(st.integers(1, h - 1))
    cell = ERUCell(7, h, proj_size=p, layer_norm=norm, device="meta")
    inputs = sum(q.numel() for q in cell.input_transform.parameters())
    total = sum(q.numel() for q in cell.parameters())
    assert total == inputs + 4 * h * p + p * h + 4 * h + (4 * h if norm else 0)


def test_input_map_costs_about_five_sixteenths_of_an_lstms():
    cell, lstm = ERUCell(1024, 1024, device="meta"), nn.LSTMCell(1024, 1024, device="meta")
    inputs = sum(p.numel() for p in cell.input_transform.parameters())
    assert 1.25 * 1024**2 <= inputs < 1.26 * 1024**2
    assert inputs / lstm.weight_ih.numel() < 0.32


# --- initialisation


@pytest.mark.parametrize(("m", "h"), [(1, 1), (1, 51), (5, 3), (16, 32), (51, 51), (200, 256), (650, 51)])
def test_unit_variance_inputs_give_input_gates_of_about_unit_variance(m, h):
    torch.manual_seed(7)
    draws = 2 if min(m, h) > 50 else 24
    with torch.no_grad():
        cells = (ERUCell(m, h, bias=False) for _ in range(draws))
        variance = sum(cell.project(torch.randn(16, 16, m)).var().item() for cell in cells) / draws
    assert 0.3 < variance**0.5 < 3


def test_recurrent_weights_are_drawn_as_torchs_and_the_forget_gate_starts_open():
    cell = ERUCell(30, 64, proj_size=32)
    for weight in (cell.weight_hh, cell.weight_hr):
        assert weight.abs().max() <= 1 / 8
        assert abs(weight.std().item() - 1 / 8 / math.sqrt(3)) < 0.005
    i, f, g, o = cell.bias.detach().view(4, 64)
    assert torch.equal(f, torch.ones(64))
    assert not torch.cat([i, g, o]).any()


@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "proj_size": 3}, {"input_transform": nn.Linear}])
def test_reset_draws_what_the_constructor_draws(options):
    torch.manual_seed(3)
    fresh = ERUCell(6, 8, **options)
    used = ERUCell(6, 8, **options)
    with torch.no_grad():
        for p in used.parameters():
            p.fill_(9)
    torch.manual_seed(3)
    used.reset_parameters()
    for name, value in fresh.state_dict().items():
        assert torch.equal(used.state_dict()[name], value), name


# --- torch's manners


def test_device_and_type():
    cell = ERUCell(6, 8, device="meta", dtype=torch.float64, layer_norm=True, proj_size=3)
    assert {(p.device.type, p.dtype) for p in cell.parameters()} == {("meta", torch.float64)}
    assert cell(torch.zeros(2, 6, device="meta", dtype=torch.float64))[0].shape == (2, 3)
    linear = ERUCell(6, 8, device="meta", dtype=torch.float64, input_transform=nn.Linear)
    assert {(p.device.type, p.dtype) for p in linear.parameters()} == {("meta", torch.float64)}


def test_copies_pickles_and_state_dicts_give_the_same_outputs():
    cell = ERUCell(6, 8, layer_norm=True)
    x = torch.randn(2, 6)
    loaded = ERUCell(6, 8, layer_norm=True)
    loaded.load_state_dict(cell.state_dict())
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell)), loaded):
        assert torch.equal(other(x)[0], cell(x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_low_precision_the_state_has_the_type_of_the_module_as_in_torch(dtype):
    cell = ERUCell(6, 8, dtype=dtype)
    state = cell(torch.randn(2, 6, dtype=dtype))
    state = cell(torch.randn(2, 6, dtype=dtype), state)
    assert (state[0].dtype, state[1].dtype) == (dtype, dtype)
    assert nn.Linear(16, 2, dtype=dtype)(torch.cat(state, dim=-1)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_cells_stay_in_float32(dtype):
    cell = ERUCell(6, 8)
    x = torch.randn(5, 2, 6)
    state, exact = None, None
    for step in x:
        with torch.autocast("cpu", torch.bfloat16):
            state = cell(step.to(dtype), state)
        exact = cell(step, exact)
    assert state[1].dtype == torch.float32
    torch.testing.assert_close(state[1], exact[1], rtol=0.05, atol=0.05)
    state[0].sum().backward()
    assert cell.weight_hh.grad.dtype == torch.float32


def test_a_state_from_autocast_goes_on_without_it():
    cell, x = ERUCell(6, 8), torch.randn(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        state = cell(x)
    assert [part.dtype for part in cell(x, state)] == [torch.float32, torch.float32]


def test_it_compiles_without_a_break():
    torch._dynamo.reset()
    cell = ERUCell(6, 8)
    x = torch.randn(3, 6)
    state = random_state(cell, 3, x)
    grads = []
    for run in (torch.compile(cell, backend="aot_eager", fullgraph=True), cell):
        new = run(x, state)
        grads.append((*new, *torch.autograd.grad(new[0].sum(), list(cell.parameters()))))
    torch.testing.assert_close(*grads)


def test_it_exports_with_any_batch_size():
    cell = ERUCell(6, 8).eval()
    example = torch.randn(3, 6)
    state = random_state(cell, 3, example)
    batch = torch.export.Dim("batch", min=2, max=64)
    sizes = ({0: batch}, tuple({part.dim() - 2: batch} for part in state))
    exported = torch.export.export(cell, (example, state), dynamic_shapes=sizes).module()
    x = torch.randn(7, 6)
    state = random_state(cell, 7, x)
    torch.testing.assert_close(tuple(exported(x, state)), cell(x, state))


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 8), {}, "input_size=0: must be at least 1"),
        ((6, 0), {}, "hidden_size=0: must be at least 1"),
        ((6, 8), {"proj_size": 8}, "proj_size=8: must be at least 0 and below hidden_size=8"),
        ((6, 8), {"proj_size": -1}, "proj_size=-1"),
        ((6, 10), {"branches": 4}, "branches=4 does not divide hidden_size=10"),
        ((6, 8), {"groups": 4}, "groups=4 does not divide input_size=6"),
        ((6, 8), {"kernel_size": 4}, "kernel_size=4: must be odd"),
    ],
)
def test_options_that_do_not_fit(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ERUCell(*arguments, **options)


@pytest.mark.parametrize("shape", [(2, 5), (5,), (), (4, 2, 6)])
def test_input_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"expected 1-D or 2-D with input_size=6 last"):
        ERUCell(6, 8)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 7), (2, 8)], r"state h of shape \(2, 7\): expected \(2, 8\)"),
        ([(2, 8), (3, 8)], r"state c of shape \(3, 8\): expected \(2, 8\)"),
        ([(2, 8)], r"state of 1 tensors: expected \(h, c\)"),
        ([(2, 8), (2, 8), (8, 2, 8)], "state of 3 tensors"),
    ],
)
def test_state_of_the_wrong_shape(shapes, message):
    with pytest.raises(ValueError, match=message):
        ERUCell(6, 8)(torch.zeros(2, 6), [torch.zeros(shape) for shape in shapes])


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((None, torch.zeros(8)), r"state h is None: expected a tensor of shape"),
        ((torch.zeros(8), None), r"state c is None: expected a tensor of shape"),
        (torch.zeros(8), r"state of type Tensor: expected \(h, c\)"),
        (
            (torch.zeros(8, dtype=torch.float64), torch.zeros(8)),
            r"state h of type torch.float64: expected torch.float32",
        ),
        (
            (torch.zeros(8), torch.zeros(8, dtype=torch.float64)),
            r"state c of type torch.float64: expected torch.float32",
        ),
    ],
)
def test_a_state_that_is_none_or_of_another_kind(batched, state, message):
    if batched and isinstance(state, tuple):
        state = tuple(part if part is None else part.expand(1, -1) for part in state)
    with pytest.raises(ValueError, match=message):
        ERUCell(6, 8)(torch.zeros(1, 6) if batched else torch.zeros(6), state)


@pytest.mark.parametrize(("own", "given"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_an_input_of_another_type(own, given):
    with pytest.raises(ValueError, match=f"input of type {given}: expected {own}, the type of the parameters"):
        ERUCell(6, 8, dtype=own)(torch.zeros(2, 6, dtype=given))


@pytest.mark.parametrize("option", [{"branches": 2}, {"groups": 2}, {"kernel_size": 5}, {"shared_reduce": True}])
def test_options_of_the_eesp_are_refused_where_another_map_replaces_it(option):
    (name,) = option
    with pytest.raises(
        ValueError, match=f"{name}={option[name]}: is an option of the EESP, which input_transform replaces"
    ):
        ERUCell(6, 8, input_transform=nn.Linear, **option)


def test_an_eesp_of_ones_own_may_replace_the_default():
    cell = ERUCell(6, 8, input_transform=partial(EESPGates, fusion=False, receptive_field=3))
    assert cell.input_transform.dilations == (1, 1, 1, 1)
    assert cell(torch.randn(2, 6))[0].shape == (2, 8)
