from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eru.eesp import EESP, fit_sizes
from eru.gates import SequenceEESP

axes = pytest.mark.parametrize("axis", ["feature", "time"])
quick = settings(max_examples=30, deadline=None)


@st.composite
def sequences(draw):
    """A unit with every parameter random, and the shape of its input."""
    options = {
        "stacks": draw(st.integers(1, 4)),
        "conv_axis": draw(st.sampled_from(["feature", "time"])),
        "kernel_size": draw(st.sampled_from([1, 3, 5])),
        "receptive_field": draw(st.sampled_from([None, 5])),
        "fusion": draw(st.booleans()),
    }
    if draw(st.booleans()):
        m, size = draw(st.integers(1, 12)), draw(st.integers(1, 24))
    else:
        g, k = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        m, size = g * draw(st.integers(1, 3)), k * g * draw(st.integers(1, 2))
        options |= {"branches": k, "groups": g}
    unit = SequenceEESP(m, options["stacks"] * size, **options, dtype=torch.float64)
    torch.manual_seed(draw(st.integers(0, 99)))
    with torch.no_grad():
        for p in unit.parameters():
            p.normal_()
    return unit, draw(st.integers(1, 9)), draw(st.integers(1, 4))


def gradients(out, *tensors):
    generator = torch.Generator().manual_seed(0)
    return torch.autograd.grad(out, tensors, torch.randn(out.shape, generator=generator, dtype=out.dtype))


@given(case=sequences())
@quick
def test_batched_products_equal_the_convolutions(case):
    unit, steps, batch = case
    x = torch.randn(steps, batch, unit.in_channels, dtype=torch.float64, requires_grad=True)
    products = unit(x)
    convolutions = EESP.forward(unit, x.permute(1, 2, 0)).permute(2, 0, 1)
    assert products.shape == (steps, batch, unit.stacks * unit.out_channels)
    torch.testing.assert_close(products, convolutions, rtol=1e-9, atol=1e-9)
    for one, other in zip(
        gradients(products, x, *unit.parameters()), gradients(convolutions, x, *unit.parameters()), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@given(m=st.integers(1, 40), size=st.integers(1, 40), taps=st.sampled_from([1, 3, 5]), batch=st.integers(1, 3))
@quick
def test_composed_matrix_equals_the_direct_way_on_both_sides_of_the_threshold(m, size, taps, batch):
    unit = SequenceEESP(m, 4 * size, kernel_size=taps, dtype=torch.float64)
    torch.nn.init.normal_(unit.branch_weight)
    composed, calls = unit._composed, []
    unit._composed = lambda: calls.append(1) or composed()
    steps = -(-size // batch)
    x = torch.randn(steps, batch, m, dtype=torch.float64)
    whole = unit(x)
    assert calls == [1]
    if batch < size:
        calls.clear()
        torch.testing.assert_close(torch.cat([unit(step) for step in x.split(1)]), whole)
        assert not calls
    torch.testing.assert_close(EESP.forward(unit, x.permute(1, 2, 0)).permute(2, 0, 1), whole)


@given(case=sequences(), cuts=st.lists(st.integers(0, 9), max_size=3))
@quick
def test_pieces_equal_the_whole(case, cuts):
    unit, steps, batch = case
    x = torch.randn(steps, batch, unit.in_channels, dtype=torch.float64)
    whole, past = unit.continued(x, None)
    window, outputs = unit.initial_window(batch, x), []
    edges = [0, *sorted(c for c in set(cuts) if 0 < c < steps), steps]
    for start, end in pairwise(edges):
        out, piece = unit.continued(x[start:end], window if unit.window_size else None)
        outputs.append(out)
        if unit.window_size:
            assert piece.shape[0] == unit.window_size + end - start
            window = piece[-unit.window_size :]
    torch.testing.assert_close(torch.cat(outputs), whole)
    if unit.window_size:
        torch.testing.assert_close(window, past[-unit.window_size :])


@given(case=sequences(), at=st.integers(0, 8))
@quick
def test_a_step_reaches_itself_and_over_time_what_its_taps_reach(case, at):
    unit, steps, batch = case
    at = min(at, steps - 1)
    x = torch.randn(steps, batch, unit.in_channels, dtype=torch.float64)
    other = x.clone()
    other[at] += 1
    moved = ((unit(x) - unit(other)).abs() > 1e-9).flatten(1).any(1)
    assert moved[at]
    assert not moved[:at].any()
    assert not moved[at + unit.window_size + 1 :].any()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"conv_axis": "feature"}, 0),
        ({"conv_axis": "time"}, 8),
        ({"conv_axis": "time", "kernel_size": 1}, 0),
        ({"conv_axis": "time", "kernel_size": 5}, 16),
        ({"conv_axis": "time", "kernel_size": 2}, 4),
        ({"conv_axis": "time", "receptive_field": 7}, 6),
    ],
)
def test_window_is_what_the_widest_branch_needs(options, size):
    unit = SequenceEESP(8, 64, **options)
    assert unit.window_size == size
    assert unit.initial_window(3, torch.zeros(1)).shape == (size, 3, 16)


@axes
def test_an_empty_batch_passes(axis):
    assert SequenceEESP(5, 32, conv_axis=axis)(torch.zeros(6, 0, 5)).shape == (6, 0, 32)


@given(m=st.integers(1, 30), size=st.integers(1, 30), axis=st.sampled_from(["feature", "time"]))
@quick
def test_parameter_count(m, size, axis):
    unit = SequenceEESP(m, 4 * size, conv_axis=axis, device="meta")
    k, g, e, d = fit_sizes(m, size, None, None)
    taps = 3 * (g if axis == "feature" else d)
    assert sum(p.numel() for p in unit.parameters()) == 4 * (d * m // g + k * taps + e * -(-size // e) * d)


SIZES = [(1, 1), (1, 51), (51, 1), (3, 7), (16, 32), (100, 40), (128, 128), (650, 51), (400, 448)]


@axes
@pytest.mark.parametrize(("m", "size"), SIZES)
@pytest.mark.parametrize("taps", [1, 3])
def test_unit_variance_inputs_give_gates_of_about_unit_variance(axis, m, size, taps):
    torch.manual_seed(m + size)
    draws = 2 if min(m, size) > 50 else 24  # few weights make single draws scatter widely
    x = torch.randn(20, 16, m)
    with torch.no_grad():
        units = (SequenceEESP(m, 4 * size, conv_axis=axis, kernel_size=taps) for _ in range(draws))
        variance = sum(unit(x).var().item() for unit in units) / draws
    assert 0.3 < variance**0.5 < 3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((8, 30), {}, "output_size=30: must be a multiple of stacks=4"),
        ((8, 32), {"stacks": 0}, "stacks=0"),
        ((8, 32), {"conv_axis": "space"}, "conv_axis='space': must be 'feature' or 'time'"),
        ((8, 32), {"kernel_size": 4}, "kernel_size=4: must be odd"),
        ((8, 40), {"branches": 4}, "branches=4 does not divide out_channels=10"),
        ((7, 32), {"groups": 4}, "groups=4 does not divide in_channels=7"),
    ],
)
def test_options_that_do_not_fit(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        SequenceEESP(*arguments, **options)


@pytest.mark.parametrize("shape", [(5, 2, 7), (2, 8), (1, 5, 2, 8)])
def test_input_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"expected \(T, B, 8\)"):
        SequenceEESP(8, 32)(torch.zeros(shape))


@given(case=sequences())
@quick
def test_one_dense_matrix_equals_the_convolutions(case):
    unit, steps, batch = case
    assume(unit.conv_axis == "feature")
    x = torch.randn(steps, batch, unit.in_channels, dtype=torch.float64)
    dense = F.linear(x, unit.dense_weight())
    convolutions = EESP.forward(unit, x.permute(1, 2, 0)).permute(2, 0, 1)
    torch.testing.assert_close(dense, convolutions, rtol=1e-9, atol=1e-9)
    for one, other in zip(
        gradients(dense, *unit.parameters()), gradients(convolutions, *unit.parameters()), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_in_bfloat16_it_is_no_less_exact_than_in_float32_rounded_at_every_product():
    torch.manual_seed(0)
    unit = SequenceEESP(40, 4 * 48)
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
