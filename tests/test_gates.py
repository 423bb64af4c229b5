import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eru import ERU, EESPGates, ERUCell, kernels
from eru.sizes import fit_sizes

quick = settings(max_examples=30, deadline=None)
needs_kernels = pytest.mark.skipif(kernels.refusal() is not None, reason=f"eru.kernels: {kernels.refusal()}")


def convolutions(unit, x):
    """The gates of x (T, B, M) by the equations, unit by unit and group by group, each a plain 1-D convolution."""
    rows = x.flatten(0, 1)
    units = 1 if unit.shared_reduce else unit.gates
    groups = 1 if unit.shared_reduce else unit.groups
    m, width = unit.input_size // groups, unit.width // groups
    # The reduce has its groups outside of the units; branches and expand have their units outside of the groups.
    reduce = unit.reduce_weight.unflatten(0, (groups, units, width))
    branch = unit.branch_weight.unflatten(0, (unit.branches, units, unit.groups))
    expand = unit.expand_weight.unflatten(0, (units, unit.expand_groups, unit.gates // units, -1))
    gates = []
    for q in range(units):
        reduced = torch.cat([F.conv1d(rows[:, g * m : (g + 1) * m, None], reduce[g, q]) for g in range(groups)], dim=1)
        fused, total = [], 0
        for b, dilation in enumerate(unit.dilations):
            parts = []
            for g, part in enumerate(reduced.chunk(unit.groups, dim=1)):
                reach = (unit.kernel_size - 1) * dilation // 2
                signal = part.transpose(1, 2)  # one channel, whose positions are the features
                parts.append(F.conv1d(signal, branch[b, q, g][None], padding=reach, dilation=dilation)[:, 0])
            here = torch.cat(parts, dim=1)
            total = total + here if unit.fusion else here
            fused.append(total)
        z = torch.cat(fused, dim=1).unsqueeze(2).chunk(unit.expand_groups, dim=1)
        for weights in expand[q].unbind(1):  # a gate's, of all groups
            out = [F.conv1d(part, weight) for part, weight in zip(z, weights, strict=True)]
            gates.append(torch.cat(out, dim=1)[:, : unit.size, 0])
    return torch.cat(gates, dim=1).unflatten(0, x.shape[:2])


@st.composite
def sequences(draw):
    """A unit with every parameter random, and the shape of its input."""
    options = {
        "gates": draw(st.integers(1, 4)),
        "kernel_size": draw(st.sampled_from([1, 3, 5])),
        "receptive_field": draw(st.sampled_from([None, 5])),
        "fusion": draw(st.booleans()),
        "shared_reduce": draw(st.booleans()),
    }
    if draw(st.booleans()):
        m, size = draw(st.integers(1, 12)), draw(st.integers(1, 24))
    else:
        g, k = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        m, size = g * draw(st.integers(1, 3)), k * g * draw(st.integers(1, 2))
        options |= {"branches": k, "groups": g}
    unit = EESPGates(m, options["gates"] * size, **options, dtype=torch.float64)
    torch.manual_seed(draw(st.integers(0, 99)))
    with torch.no_grad():
        for p in unit.parameters():
            p.normal_()
    return unit, draw(st.integers(1, 9)), draw(st.integers(1, 4))


def gradients(out, *tensors):
    top = torch.randn(out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.autograd.grad(out, tensors, top.to(out.dtype))


def check_equal(one, other, *tensors):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients(one, *tensors), gradients(other, *tensors), rtol=1e-9, atol=1e-9)


@given(case=sequences())
@quick
def test_products_equal_the_convolutions_in_values_and_gradients(case):
    unit, steps, batch = case
    x = torch.randn(steps, batch, unit.input_size, dtype=torch.float64, requires_grad=True)
    out = unit(x)
    assert out.shape == (steps, batch, unit.output_size)
    check_equal(out, convolutions(unit, x), x, *unit.parameters())


@pytest.mark.parametrize(("branches", "groups", "joins"), [(1, 4, True), (2, 4, True), (4, 4, False), (1, 1, False)])
def test_branches_join_the_reduce_where_that_makes_smaller_products(branches, groups, joins):
    """By the multiply-adds of a row with its input of M, d = H / K reduced features, and 4 H gates."""
    m, size = 32, 32
    unit = EESPGates(m, 4 * size, branches=branches, groups=groups, shared_reduce=True)
    d = size // branches
    into_reduce = branches * d * m + branches * d * 4 * size // groups
    into_expand = d * m + d * 4 * size
    assert (into_reduce < into_expand) == unit._branches_join_reduce == joins


@given(case=sequences())
@quick
def test_one_dense_matrix_equals_the_convolutions(case):
    unit, steps, batch = case
    x = torch.randn(steps, batch, unit.input_size, dtype=torch.float64)
    check_equal(F.linear(x, unit.dense_weight()), convolutions(unit, x), *unit.parameters())


def in_float32(unit):
    return copy.deepcopy(unit).float()


@needs_kernels
@given(case=sequences())
@quick
def test_the_compiled_ways_equal_the_convolutions_in_values_and_gradients(case):
    """In float32: the dense matrix where there is something to learn, else rows one by one."""
    precise, steps, batch = case
    unit = in_float32(precise)
    x = torch.randn(steps, batch, unit.input_size, requires_grad=True)
    bias = torch.randn(unit.output_size)
    expected = convolutions(precise, x.double()) + bias
    scale = 1e-5 * (1 + expected.abs().max().item())
    assert unit.runs_in_c(x)
    with torch.no_grad():
        for out in (unit(x, bias), torch.stack([unit(step, bias) for step in x])):
            torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=scale)
    found = gradients(unit(x, bias), x, *unit.parameters())
    for one, other in zip(found, gradients(expected, x, *precise.parameters()), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-5 * (1 + other.abs().max().item()))


@needs_kernels
def test_the_compiled_matrix_can_be_differentiated_twice():
    unit, x = EESPGates(12, 64), torch.randn(70, 12)
    nn.init.normal_(unit.branch_weight)
    precise = copy.deepcopy(unit).double()

    def second(unit, x):
        weights = list(unit.parameters())
        first = torch.autograd.grad(unit(x).sin().sum(), weights, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), weights)

    for one, other in zip(second(unit, x), second(precise, x.double()), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


# How far a result may lie from the exact one: in bfloat16 no further than its own rounding, since sums are float32.
TYPES = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2**-8, "atol": 1e-5}}


@needs_kernels
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@given(
    m=st.integers(1, 80),
    size=st.integers(1, 40),
    groups=st.sampled_from([1, 2, 3]),
    batch=st.integers(1, 5),
    shared=st.booleans(),
)
@quick
def test_a_step_in_one_call_equals_the_plain_one(dtype, bias, m, size, groups, batch, shared):
    sizes = {"bias": bias, "recurrent_groups": groups, "shared_reduce": shared}
    cell = ERUCell(m, groups * size, **sizes, dtype=dtype).eval()
    x, state = torch.randn(batch, m, dtype=dtype), tuple(torch.randn(2, batch, groups * size, dtype=dtype))
    expected = copy.deepcopy(cell).double()(x.double(), tuple(part.double() for part in state))
    unit = cell.input_transform
    with torch.no_grad():
        assert unit.step_in_c(x, cell.bias, cell.weight_hh, *state) is not None
        for one, other in zip(cell(x, state), expected, strict=True):
            torch.testing.assert_close(one.double(), other, **TYPES[dtype])


@needs_kernels
@given(case=sequences())
@quick
def test_rows_of_bfloat16_are_taken_one_by_one_with_sums_in_float32(case):
    unit, steps, _ = case
    unit = copy.deepcopy(unit).bfloat16()
    x = torch.randn(steps, unit.input_size, dtype=torch.bfloat16)
    assert unit.runs_in_c(x, narrow=True)
    assert not unit.runs_in_c(x)
    with torch.no_grad():
        rows = torch.cat([unit(row) for row in x.split(1)])
    expected = convolutions(copy.deepcopy(unit).double(), x.double().unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(rows.double(), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_a_traced_map_takes_any_number_of_rows(shared):
    """Where nothing learns, too, and where so few rows would be taken one by one."""
    unit = EESPGates(20, 128, shared_reduce=shared)
    with torch.no_grad():
        rows = ({0: torch.export.Dim("rows")},)
        program = torch.export.export(unit, (torch.randn(40, 20),), dynamic_shapes=rows).module()
        for count in (2, 7, 200):
            x = torch.randn(count, 20)
            torch.testing.assert_close(program(x), unit(x))


@needs_kernels
def test_what_hangs_on_the_map_is_at_work_in_an_evaluated_step():
    cell, x, calls = ERUCell(8, 16).eval(), torch.randn(2, 8), []
    with torch.no_grad():
        plain = cell(x)
        handle = cell.input_transform.register_forward_hook(lambda *call: calls.append(1) or 2 * call[2])
        assert not torch.equal(cell(x)[0], plain[0])
        assert calls == [1]
        handle.remove()
        torch.nn.utils.parametrizations.weight_norm(cell.input_transform, "reduce_weight")
        torch.testing.assert_close(cell(x), plain)


@given(m=st.integers(1, 40), size=st.integers(1, 40), taps=st.sampled_from([1, 3, 5]), batch=st.integers(1, 3))
@quick
def test_composed_matrix_equals_the_direct_way_on_both_sides_of_the_threshold(m, size, taps, batch):
    unit = EESPGates(m, 4 * size, kernel_size=taps, dtype=torch.float64)
    nn.init.normal_(unit.branch_weight)
    composed, calls = unit._composed, []
    unit._composed = lambda *weights: calls.append(1) or composed(*weights)
    unit.eval()  # in training the first call looks at the whole matrix
    steps = -(-size // batch)
    x = torch.randn(steps, batch, m, dtype=torch.float64)
    whole = unit(x)
    assert calls == [1]
    if batch < size:
        calls.clear()
        torch.testing.assert_close(torch.cat([unit(step) for step in x.split(1)]), whole)
        assert not calls
    torch.testing.assert_close(convolutions(unit, x), whole)


@given(case=sequences(), at=st.integers(0, 8))
@quick
def test_steps_are_independent(case, at):
    unit, steps, batch = case
    at = min(at, steps - 1)
    x = torch.randn(steps, batch, unit.input_size, dtype=torch.float64)
    other = x.clone()
    other[at] += 1
    moved = ((unit(x) - unit(other)).abs() > 1e-9).flatten(1).any(1)
    assert moved.nonzero().flatten().tolist() == [at]


@pytest.mark.parametrize("lead", [(), (3,), (6, 0), (2, 3, 4)])
def test_any_leading_dimensions_pass(lead):
    unit = EESPGates(5, 32)
    x = torch.randn(*lead, 5)
    assert unit(x).shape == (*lead, 32)
    torch.testing.assert_close(unit(x).reshape(-1, 32), unit(x.reshape(-1, 5)))


@given(m=st.integers(1, 30), size=st.integers(1, 30))
@quick
def test_parameter_count(m, size):
    unit = EESPGates(m, 4 * size, device="meta")
    k, g, e, d = fit_sizes(m, size, None, None)
    assert sum(p.numel() for p in unit.parameters()) == 4 * (d * m // g + 3 * k * g + e * -(-size // e) * d)


@given(m=st.integers(1, 30), size=st.integers(1, 30))
@quick
def test_parameter_count_of_a_shared_reduce(m, size):
    unit = EESPGates(m, 4 * size, shared_reduce=True, device="meta")
    k, _, e, d = fit_sizes(1, size, None, None)
    assert sum(p.numel() for p in unit.parameters()) == d * m + 3 * k * unit.groups + 4 * e * -(-size // e) * d
    assert d % unit.groups == 0


def test_a_shared_reduce_is_an_eesp_whose_gates_agree():
    """Where an EESP's gates all hold one reduce and one set of branches, its grouped reduce is a sparse dense one."""
    shared, unit = (EESPGates(12, 4 * 32, shared_reduce=share, dtype=torch.float64) for share in (True, False))
    reduce, taps = torch.randn(4, 2, 3), torch.randn(4, 4, 3)  # per group; per branch and group
    expand = torch.randn(4, 4, 8, 8)  # per group, gate and output
    with torch.no_grad():
        shared.reduce_weight.copy_(torch.block_diag(*reduce).unsqueeze(2))
        shared.branch_weight.copy_(taps.reshape(shared.branch_weight.shape))
        shared.expand_weight.copy_(expand.reshape(shared.expand_weight.shape))
        unit.reduce_weight.copy_(reduce.unsqueeze(1).expand(4, 4, 2, 3).reshape(unit.reduce_weight.shape))
        unit.branch_weight.copy_(taps.unsqueeze(1).expand(4, 4, 4, 3).reshape(unit.branch_weight.shape))
        unit.expand_weight.copy_(expand.transpose(0, 1).reshape(unit.expand_weight.shape))
    x = torch.randn(5, 3, 12, dtype=torch.float64)
    torch.testing.assert_close(shared(x), unit(x))


@pytest.mark.parametrize("fusion", [True, False])
def test_the_branches_of_a_shared_reduce_start_as_the_identity(fusion):
    unit, x = EESPGates(12, 4 * 16, shared_reduce=True, fusion=fusion), torch.randn(7, 12)
    reduced = unit._reduce(x, unit.reduce_weight)  # (1, 7, d)
    assert all(torch.equal(part, reduced) for part in unit._convolved(reduced.transpose(0, 1)).transpose(1, 2))
    columns = reduced.transpose(1, 2)
    assert all(torch.equal(part, columns) for part in unit._branches(columns, unit.branch_weight))


SIZES = [(1, 1), (1, 51), (51, 1), (3, 7), (16, 32), (100, 40), (128, 128), (650, 51), (400, 448)]


@pytest.mark.parametrize(("m", "size"), SIZES)
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_unit_variance_inputs_give_gates_of_about_unit_variance(m, size, taps, shared):
    torch.manual_seed(m + size)
    draws = 2 if min(m, size) > 50 else 24  # few weights make single draws scatter widely
    x = torch.randn(20, 16, m)
    with torch.no_grad():
        units = (EESPGates(m, 4 * size, kernel_size=taps, shared_reduce=shared) for _ in range(draws))
        variance = sum(unit(x).var().item() for unit in units) / draws
    assert 0.3 < variance**0.5 < 3


@pytest.mark.parametrize(("fusion", "stds"), [(True, (1, 2**-0.5, 3**-0.5, 0.5)), (False, (1, 1, 1, 1))])
def test_only_the_middle_tap_starts_nonzero_and_falls_with_the_branch(fusion, stds):
    torch.manual_seed(0)
    taps = EESPGates(16, 512 * 16, gates=512, fusion=fusion).branch_weight.detach().view(4, -1, 3)
    assert taps[..., 1].std(dim=1).tolist() == pytest.approx(stds, rel=0.1)
    assert not taps[..., [0, 2]].any()


# --- initialisation loops of other programs

LOOPS = {
    "normal": lambda p: nn.init.normal_(p, 0, 0.01),
    "uniform": lambda p: nn.init.uniform_(p, -0.08, 0.08),
    "xavier": lambda p: nn.init.xavier_uniform_(p) if p.dim() > 1 else p,
    "orthogonal": lambda p: nn.init.orthogonal_(p) if p.dim() > 1 else p,
}


@pytest.fixture
def unsaid(monkeypatch):
    """Nothing was warned of yet."""
    monkeypatch.setattr("eru.warn._said", set())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_that_shuts_the_gates_is_warned_of_and_a_reset_mends_it(unsaid, loop):
    rnn = ERU(128, 256)
    for p in rnn.parameters():
        LOOPS[loop](p.data)
    x = torch.randn(4, 8, 128)
    with pytest.warns(UserWarning, match=r"will hardly learn.*Call reset_parameters\(\) after such a loop"):
        rnn(x)
    rnn(x)  # said once
    rnn.reset_parameters()
    assert 0.3 < rnn.cells["l0"].project(x).std() < 3
    rnn(x)


def test_what_is_evaluated_or_loaded_whole_is_not_warned_of(unsaid):
    unit = EESPGates(128, 1024)
    other = EESPGates(128, 1024)
    for p in unit.parameters():
        LOOPS["normal"](p.data)
    unit.eval()(torch.randn(4, 128))
    unit.load_state_dict(other.state_dict())
    unit.train()(torch.randn(4, 128))


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((8, 30), {}, "output_size=30: must be a multiple of gates=4"),
        ((8, 32), {"gates": 0}, "gates=0"),
        ((8, 32), {"kernel_size": 4}, "kernel_size=4: must be odd"),
        ((8, 40), {"branches": 4}, "branches=4 does not divide hidden_size=10"),
        ((7, 32), {"groups": 4}, "groups=4 does not divide input_size=7"),
    ],
)
def test_options_that_do_not_fit(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        EESPGates(*arguments, **options)


@pytest.mark.parametrize("shape", [(5, 2, 7), (), (1, 5, 2, 9)])
def test_input_of_the_wrong_width(shape):
    with pytest.raises(ValueError, match="expected 8 features last"):
        EESPGates(8, 32)(torch.zeros(shape))


def test_in_bfloat16_it_is_no_less_exact_than_in_float32_rounded_at_every_product():
    torch.manual_seed(0)
    unit = EESPGates(40, 4 * 48)
    x = torch.randn(30, 4, 40, requires_grad=True)
    wanted = (x, *unit.parameters())
    exact = unit(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = unit(x)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.005 * exact.norm()
    for one, other in zip(gradients(rounded, *wanted), gradients(exact, *wanted), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.01 * other.norm()
