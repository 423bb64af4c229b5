import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eru.eesp import EESP, running_sums
from eru.eesp_aliases import EESP1d, EESP2d, EESP3d
from eru.sizes import dilations, fit_sizes, receptive_field_limit
from eru.strided import StridedEESP

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
channels = st.integers(1, 200)
quick = settings(max_examples=60, deadline=None)
few = settings(max_examples=20, deadline=None)


def count(module):
    return sum(p.numel() for p in module.parameters())


def draw_all(module, seed=0):
    """Every parameter random, so that no zero tap hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module


# --- the dilation schedule


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        pytest.param(13, (1, 2, 3, 4), id="level2_0"),
        pytest.param(11, (1, 2, 3, 4), id="level3_0"),
        pytest.param(9, (1, 2, 3, 4), id="level3"),
        pytest.param(7, (1, 1, 2, 3), id="level4"),
        pytest.param(5, (1, 1, 1, 2), id="level5"),
        pytest.param(3, (1, 1, 1, 1), id="smallest"),
        pytest.param(None, (1, 2, 3, 4), id="none"),
    ],
)
def test_dilations_of_the_published_models(limit, expected):
    assert dilations(4, limit) == expected


@given(branches=st.integers(1, 9), limit=st.integers(1, 12).map(lambda n: 2 * n + 1))
@quick
def test_dilations_come_from_a_sorted_list_of_kernels_in_which_too_large_ones_become_3(branches, limit):
    kernels = sorted(k if k <= limit else 3 for k in range(3, 3 + 2 * branches, 2))
    assert dilations(branches, limit) == tuple((k - 1) // 2 for k in kernels)


@pytest.mark.parametrize(
    ("taps", "limit", "expected"), [(5, 13, (1, 1, 2, 3)), (5, 9, (1, 1, 1, 2)), (1, 3, (1, 2, 3, 4))]
)
def test_dilations_of_other_kernels(taps, limit, expected):
    assert dilations(4, limit, taps) == expected


@given(size=st.integers(1, 2000))
@quick
def test_receptive_field_limit_is_the_largest_odd_number_not_above_the_papers(size):
    limit = receptive_field_limit(size)
    assert limit % 2 == 1
    assert limit <= 5 + size / 7 < limit + 3


def test_receptive_field_limits_of_the_levels():
    assert [receptive_field_limit(size) for size in (56, 28, 14, 7)] == [13, 9, 7, 5]


# --- sizes


@given(m=channels, n=channels)
@quick
def test_default_sizes_always_fit(m, n):
    branches, groups, expand_groups, width = fit_sizes(m, n, None, None)
    assert 1 <= branches <= 4
    assert m % groups == width % groups == 0
    assert groups == max(g for g in range(1, branches + 1) if m % g == width % g == 0)
    assert width % branches == 0
    assert n <= branches * width < n + branches**2
    assert expand_groups == branches
    outputs = [len(range(n)[k * math.ceil(n / branches) : (k + 1) * math.ceil(n / branches)]) for k in range(branches)]
    assert all(outputs)
    assert sum(outputs) == n


@given(n=channels)
@quick
def test_default_width_does_not_depend_on_the_input(n):
    assert len({fit_sizes(m, n, None, None)[3] for m in range(1, 14)}) == 1


@given(k=st.integers(1, 6), g=st.integers(1, 6), a=st.integers(1, 9), b=st.integers(1, 9))
@quick
def test_explicit_sizes_are_taken_as_given(k, g, a, b):
    assert fit_sizes(g * a, k * g * b, k, g) == (k, g, g, g * b)


@given(m=st.integers(1, 12), n=st.integers(1, 40), groups=st.integers(1, 4))
@few
def test_groups_that_fit_some_number_of_branches_are_accepted(m, n, groups):
    fitting = [k for k in (4, 3, 2, 1) if n % (k * groups) == 0]
    if m % groups or not fitting:
        with pytest.raises(ValueError, match=f"groups={groups} does not divide"):
            fit_sizes(m, n, None, groups)
    else:
        assert fit_sizes(m, n, None, groups) == (fitting[0], groups, groups, n // fitting[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, None, None), "in_channels=0: must be at least 1"),
        ((8, -1, None, None), "out_channels=-1: must be at least 1"),
        ((8, 8, 0, None), "branches=0: must be at least 1"),
        ((8, 8, None, 0), "groups=0: must be at least 1"),
        ((8, 10, 4, None), "branches=4 does not divide out_channels=10"),
        ((6, 8, None, 4), "groups=4 does not divide in_channels=6"),
        ((3, 8, 4, 3), "groups=3 does not divide out_channels=8"),
        ((4, 8, 4, 4), "groups=4 does not divide the width out_channels / branches = 8 / 4"),
        ((2, 9, None, 2), "groups=2 does not divide out_channels=9"),
    ],
)
def test_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_sizes(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ndim": 4}, "ndim=4"),
        ({"convolution": "standard"}, "convolution='standard'.*depthwise-dilated"),
        ({"kernel_size": 2}, "kernel_size=2: must be odd"),
        ({"kernel_size": 0}, "kernel_size=0"),
        ({"stride": 0}, "stride=0: must be at least 1"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        EESP(8, 8, **{"ndim": 1, **options})


@pytest.mark.parametrize("shape", [(2, 8), (2, 7, 5), (2, 8, 5, 5)])
def test_input_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match="expected 3 dimensions and 8 channels"):
        EESP(8, 8, ndim=1)(torch.zeros(shape))


# --- the unit against a naive one


def naive_eesp(unit, x):
    """Group by group and branch by branch, each a plain convolution; no norm or activation."""
    conv, m, part = CONV[unit.ndim], unit.in_channels // unit.groups, unit.width // unit.groups
    y = torch.cat(
        [conv(x[:, g * m : (g + 1) * m], unit.reduce_weight[g * part : (g + 1) * part]) for g in range(unit.groups)],
        dim=1,
    )
    fused, total = [], 0
    for weight, dilation in zip(unit.branch_weight.chunk(unit.branches), unit.dilations, strict=True):
        branch = naive_branch(unit, y, weight, dilation)
        total = total + branch if unit.fusion else branch
        fused.append(total)
    z = torch.cat(fused, dim=1)
    size = unit.branches * unit.width // unit.expand_groups
    weights = unit.expand_weight.unflatten(0, (unit.expand_groups, -1))
    expanded = [conv(z[:, g * size : (g + 1) * size], weights[g]) for g in range(unit.expand_groups)]
    out = torch.cat(expanded, dim=1)[:, : unit.out_channels]
    return out + x if unit.residual else out


def naive_branch(unit, y, weight, dilation):
    reach = (unit.kernel_size - 1) * dilation // 2
    y = F.pad(y, [reach, reach] * unit.ndim)
    step = {"stride": unit.stride, "dilation": dilation}
    if weight.shape[1] > 1 or unit.width == 1:
        return CONV[unit.ndim](y, weight, **step)
    return torch.cat([CONV[unit.ndim](y[:, c : c + 1], weight[c : c + 1], **step) for c in range(unit.width)], dim=1)


@st.composite
def units(draw):
    options = {
        "ndim": draw(st.integers(1, 3)),
        "kernel_size": draw(st.sampled_from([1, 3, 5])),
        "receptive_field": draw(st.sampled_from([None, 5, 7])),
        "stride": draw(st.integers(1, 2)),
        "convolution": draw(st.sampled_from(["depthwise-dilated", "depthwise", "dilated"])),
        "fusion": draw(st.booleans()),
        "residual": draw(st.booleans()),
    }
    if draw(st.booleans()):
        g, k = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        m, n = g * draw(st.integers(1, 3)), k * g * draw(st.integers(1, 2))
        options |= {"branches": k, "groups": g}
    else:
        m, n = draw(st.integers(1, 12)), draw(st.integers(1, 20))
    if draw(st.booleans()):
        m = n if "groups" not in options else m
    return m, n, options


@given(case=units(), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_unit_equals_the_naive_one(case, seed):
    m, n, options = case
    unit = draw_all(EESP(m, n, **options, dtype=torch.float64), seed)
    x = torch.randn(2, m, *(5, 4, 3)[: unit.ndim], dtype=torch.float64)
    out = unit(x)
    torch.testing.assert_close(out, naive_eesp(unit, x), rtol=1e-9, atol=1e-9)
    size = [math.ceil(length / unit.stride) for length in x.shape[2:]]
    assert out.shape == (2, n, *size)


@given(case=units())
@quick
def test_parameter_count(case):
    m, n, options = case
    unit = EESP(m, n, **options, device="meta")
    k, g, e, d = fit_sizes(m, n, options.get("branches"), options.get("groups"))
    branch = d * options["kernel_size"] ** options["ndim"] * (d if options["convolution"] == "dilated" else 1)
    assert count(unit) == d * m // g + k * branch + e * math.ceil(n / e) * (k * d // e)


@given(m=channels, n=channels, ndim=st.integers(1, 3))
@few
def test_parameter_count_with_norm_and_activation(m, n, ndim):
    alias = (EESP1d, EESP2d, EESP3d)[ndim - 1]
    k, _, _, d = fit_sizes(m, n, None, None)
    plain = EESP(m, n, ndim=ndim, device="meta")
    # Scale, shift and slope for the reduce, the concatenation and the expand; PReLU has one slope a channel.
    assert count(alias(m, n, device="meta")) == count(plain) + 3 * (d + k * d + n)


# --- section 3.2


@given(g=st.sampled_from([1, 2, 4]), a=st.integers(1, 20), b=st.integers(1, 20))
@few
def test_parameters_of_section_3(g, a, b):
    m, d, k, n = 4 * a, 4 * b, 4, 3
    eesp = EESP(m, k * d, ndim=2, branches=k, groups=g, device="meta")
    assert count(eesp) == m * d // g + n**2 * k * d + (k * d) ** 2 // g


# --- one dimension is two with a width of one


@pytest.mark.parametrize("options", [{}, {"norm": None, "activation": None}, {"stride": 2}, {"receptive_field": 5}])
@pytest.mark.parametrize("training", [True, False])
def test_one_dimension_equals_two_over_a_width_of_one(options, training):
    narrow = draw_all(EESP1d(6, 12, **options)).train(training)
    wide = draw_all(EESP2d(6, 12, **options), seed=1).train(training)
    state = wide.state_dict()
    for name, value in narrow.state_dict().items():
        if name == "branch_weight":
            state[name][..., 1] = value  # the columns beside the centre see padding only
        else:
            state[name] = value.reshape(state[name].shape)
    wide.load_state_dict(state)
    x = torch.randn(3, 6, 11)
    torch.testing.assert_close(narrow(x), wide(x.unsqueeze(-1)).squeeze(-1), rtol=1e-4, atol=1e-4)


# --- options change what they should and nothing else


def test_fusion_is_the_running_sum_of_the_branches():
    on, off = (EESP(8, 16, ndim=1, fusion=fusion) for fusion in (True, False))
    branches = list(torch.randn(4, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(off.fuse(branches), branches, strict=True))
    torch.testing.assert_close(torch.stack(on.fuse(branches)), torch.stack(branches).cumsum(0))
    torch.testing.assert_close(torch.stack(running_sums(branches)), torch.stack(branches).cumsum(0))
    assert {name: p.shape for name, p in on.named_parameters()} == {
        name: p.shape for name, p in off.named_parameters()
    }


def test_kind_of_convolution_changes_the_branches_only():
    units = {kind: EESP(8, 16, ndim=2, convolution=kind) for kind in ("depthwise-dilated", "depthwise", "dilated")}
    assert [units[kind].dilations for kind in units] == [(1, 2, 3, 4), (1, 1, 1, 1), (1, 2, 3, 4)]
    for name in ("reduce_weight", "expand_weight"):
        assert len({getattr(unit, name).shape for unit in units.values()}) == 1
    assert [tuple(unit.branch_weight.shape) for unit in units.values()] == [
        (16, 1, 3, 3),
        (16, 1, 3, 3),
        (16, 4, 3, 3),
    ]


def test_residual_adds_the_input_where_shapes_match():
    x = torch.randn(2, 8, 5)
    on = EESP(8, 8, ndim=1)
    off = EESP(8, 8, ndim=1, residual=False)
    off.load_state_dict(on.state_dict())
    torch.testing.assert_close(on(x) - off(x), x)
    assert not EESP(8, 16, ndim=1).residual
    assert not EESP(8, 8, ndim=1, stride=2).residual


@pytest.mark.parametrize("stride", [1, 2])
def test_norm_and_activation_are_made_for_reduce_concatenation_and_expand(stride):
    norms, activations = [], []

    def norm(size):
        norms.append(size)
        return nn.BatchNorm1d(size)

    def activation(size):
        activations.append(size)
        return nn.ReLU()

    unit = EESP(8, 16, ndim=1, stride=stride, norm=norm, activation=activation)
    assert norms == [4, 16, 16]
    assert activations == ([4, 16, 16] if stride == 1 else [4, 16])
    negative = (unit(torch.randn(2, 8, 9)) < 0).any()
    assert bool(negative) == (stride == 2)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_an_alias_has_every_option_of_the_unit_and_passes_it_on(ndim):
    alias = (EESP1d, EESP2d, EESP3d)[ndim - 1]
    theirs, ours = (dict(inspect.signature(kind).parameters) for kind in (EESP, alias))
    del theirs["ndim"]
    assert list(ours) == list(theirs)
    given = {
        "kernel_size": 5,
        "branches": 2,
        "groups": 2,
        "receptive_field": 7,
        "convolution": "dilated",
        "fusion": False,
        "residual": False,
        "norm": None,
        "activation": None,
        "dtype": torch.float64,
    }
    assert set(ours) - set(given) == {"in_channels", "out_channels", "stride", "device"}
    one, other = draw_all(alias(8, 8, **given)), draw_all(EESP(8, 8, ndim=ndim, **given))
    x = torch.randn(2, 8, *(6, 5, 4)[:ndim], dtype=torch.float64)
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)
    assert alias(8, 16, stride=2, device="meta")(x.float().to("meta")).shape[2:] == tuple(
        (n + 1) // 2 for n in x.shape[2:]
    )


def test_unit_lives_where_and_as_it_is_told():
    unit = EESP2d(8, 16, device="meta", dtype=torch.float64)
    assert {p.device.type for p in unit.parameters()} == {"meta"}
    assert {p.dtype for p in unit.parameters()} == {torch.float64}


@given(m=st.integers(4, 60), n=st.integers(4, 60), ndim=st.integers(1, 2), fusion=st.booleans())
@few
def test_unit_variance_passes_through_at_initialisation(m, n, ndim, fusion):
    torch.manual_seed(m * n)
    stds = [
        EESP(m, n, ndim=ndim, fusion=fusion, residual=False)(torch.randn(8, m, *(16,) * ndim)).std().item()
        for _ in range(8)
    ]
    assert 0.4 < sum(stds) / len(stds) < 2.5


@pytest.mark.parametrize(
    ("options", "here", "stds"),
    [
        ({}, 1, (1, 2**-0.5, 3**-0.5, 0.5)),
        ({"kernel_size": 5}, 2, (1, 2**-0.5, 3**-0.5, 0.5)),
        ({"fusion": False}, 1, (1, 1, 1, 1)),
    ],
    ids=str,
)
def test_only_the_current_tap_starts_nonzero_and_falls_with_the_branch(options, here, stds):
    torch.manual_seed(0)
    taps = EESP(16, 4096, ndim=1, **options).branch_weight.detach()
    taps = taps.squeeze(1).unflatten(0, (4, -1))  # (K, channels, taps)
    assert taps[..., here].std(dim=1).tolist() == pytest.approx(stds, rel=0.1)
    taps[..., here] = 0
    assert not taps.any()


# --- down-sampling


@given(m=st.integers(1, 12), extra=st.integers(1, 12), ndim=st.integers(1, 3), image=st.integers(1, 3))
@few
def test_parameter_count_of_down_sampling(m, extra, ndim, image):
    down = StridedEESP(m, m + extra, ndim=ndim, shortcut_channels=image, device="meta")
    assert count(down) == count(EESP(m, extra, ndim=ndim)) + image * image * 3**ndim + image * (m + extra)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_down_sampling_is_pooling_then_the_unit_plus_the_pooled_images_convolutions(ndim):
    down = draw_all(StridedEESP(4, 12, ndim=ndim, shortcut_channels=3, activation=nn.PReLU))
    pool, conv = POOL[ndim], CONV[ndim]
    size, large = (9, 6, 5)[:ndim], (33, 24, 18)[:ndim]
    x, image = torch.randn(2, 4, *size), torch.randn(2, 3, *large)
    main = torch.cat([pool(x, 3, 2, 1), down.eesp(x)], dim=1)
    first, slope, second = down.shortcut
    small = pool(pool(pool(image, 3, 2, 1), 3, 2, 1), 3, 2, 1)
    side = conv(slope(conv(small, first.weight, padding=1)), second.weight)
    torch.testing.assert_close(down(x, image), down.activation(main + side), rtol=1e-5, atol=1e-5)
    plain = StridedEESP(4, 12, ndim=ndim, activation=nn.PReLU)
    plain.load_state_dict({k: v for k, v in down.state_dict().items() if not k.startswith("shortcut")})
    torch.testing.assert_close(plain(x), plain.activation(main))


def test_down_sampling_uses_all_that_it_holds():
    down = draw_all(StridedEESP(4, 12, ndim=2, shortcut_channels=3, norm=nn.BatchNorm2d, activation=nn.PReLU))
    down(torch.randn(2, 4, 8, 8), torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert [name for name, p in down.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_down_sampling_applies_one_activation_to_the_sum_and_holds_no_other():
    down = StridedEESP(4, 12, ndim=2, norm=nn.BatchNorm2d, activation=nn.PReLU)
    assert down.eesp.activation is None
    assert down.activation.num_parameters == 12
    x = torch.randn(2, 4, 8, 8)
    before = down(x)
    with torch.no_grad():
        down.activation.weight.fill_(7)
    assert not torch.equal(down(x), before)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "image=None"),
        (torch.zeros(1, 3, 20, 20), "never gives the size"),
        (torch.zeros(1, 3, 2, 2), "never gives the size"),
        (torch.zeros(1, 3, 16), "expected 4 dimensions"),
    ],
)
def test_down_sampling_refuses_an_image_that_does_not_match(image, message):
    with pytest.raises(ValueError, match=message):
        StridedEESP(4, 12, ndim=2, shortcut_channels=3)(torch.zeros(1, 4, 8, 8), image)


def test_down_sampling_needs_more_channels():
    with pytest.raises(ValueError, match="out_channels=8: must be above in_channels=8"):
        StridedEESP(8, 8, ndim=1)


# --- EESP-A (Fig. 1b): a point-wise convolution for each branch, whose work EESP's grouped one does


@given(case=units(), seed=st.integers(0, 99))
@few
def test_eesp_equals_eesp_a(case, seed):
    m, n, options = case
    grouped = draw_all(EESP(m, n, **options, dtype=torch.float64), seed)

    class EESPA(EESP):
        def expand(self, fused):
            parts = zip(fused.chunk(self.expand_groups, 1), self.expand_weight.chunk(self.expand_groups), strict=True)
            return torch.cat([CONV[self.ndim](part, weight) for part, weight in parts], dim=1)

    separate = EESPA(m, n, **options, dtype=torch.float64)
    separate.load_state_dict(grouped.state_dict())
    x = torch.randn(2, m, *(5, 4, 3)[: grouped.ndim], dtype=torch.float64)
    torch.testing.assert_close(separate(x), grouped(x))
