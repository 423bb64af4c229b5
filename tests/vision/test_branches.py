"""The fused pyramid against the eager EESP: compiled on a GPU, or else in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vision
from eru.eesp import EESP
from vision.branches import pack_taps, split_transform_fuse, supports

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HAS_TRITON = importlib.util.find_spec("triton") is not None

runs_kernels = pytest.mark.skipif(
    not INTERPRETED and not (HAS_TRITON and torch.cuda.is_available()),
    reason="needs a GPU; without one, test_in_the_interpreter runs it",
)
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")


def make_unit(channels, ndim=2, norm=True, activation=True, **options):
    """An EESP that maps `channels` to four times as many, so that its reduced map may have any number of them."""
    norms = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
    unit = EESP(
        channels,
        4 * channels,
        ndim=ndim,
        branches=4,
        groups=1,
        norm=norms[ndim] if norm else None,
        activation=nn.PReLU if activation else None,
        **options,
    ).eval()
    generator = torch.Generator().manual_seed(channels)
    for tensor in (*unit.parameters(), *unit.buffers()):
        if tensor.is_floating_point():  # positive, as a variance must be; and then weights of both signs
            tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
    unit.branch_weight.data -= 1
    return unit.requires_grad_(False)


def eager(unit, y):
    """Branches, sums, concatenation and layers, as the unit itself computes them."""
    branches = [unit._branch(y, weight, d) for weight, d in zip(unit.branch_weights(), unit.dilations, strict=True)]
    return unit.branch_layers(torch.cat(unit.fuse(branches), dim=1))


def kernel_arguments(unit):
    """The same as the kernel wants it."""
    arguments = {"dilations": unit.dilations, "stride": unit.stride, "causal": unit.causal, "fusion": unit.fusion}
    for layer in unit.branch_layers:
        if isinstance(layer, nn.PReLU):
            arguments["slope"] = layer.weight
        else:
            weight, bias, mean, variance = (x.float() for x in layer.state_dict().values() if x.dim())
            arguments["scale"] = weight / torch.sqrt(variance + layer.eps)
            arguments["shift"] = bias - mean * arguments["scale"]
    return {"taps": pack_taps(unit.branch_weight, unit.branches)} | arguments


def fused(unit, y):
    """Through the kernel, on its device and back."""
    arguments = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in kernel_arguments(unit).items()}
    y = y.to(DEVICE)
    assert supports(y, arguments["taps"]) is None
    return split_transform_fuse(y, **arguments).cpu()


def channels_last(y):
    """The same values, channels last in memory."""
    return y.movedim(1, -1).contiguous().movedim(-1, 1)


def check_equal(unit, y):
    torch.testing.assert_close(fused(unit, y), eager(unit, y), rtol=1e-4, atol=1e-4)


# --- the kernel


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="here the kernels run compiled")
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter(run_interpreted):
    run_interpreted(__file__)


@runs_kernels
@given(
    channels=st.integers(1, 9),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    receptive_field=st.sampled_from([None, 3, 5, 7]),
    stride=st.integers(1, 3),
    kernel_size=st.sampled_from([1, 3, 5]),
    fusion=st.booleans(),
    norm=st.booleans(),
    activation=st.booleans(),
    last=st.booleans(),
)
@settings(max_examples=15, derandomize=True)
def test_equals_the_eager_unit_in_two_dimensions(channels, size, last, **options):
    y = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    check_equal(make_unit(channels, **options), channels_last(y) if last else y)


@runs_kernels
@given(
    channels=st.integers(1, 9),
    size=st.integers(1, 40),
    kernel_size=st.integers(1, 5),
    causal=st.booleans(),
    stride=st.integers(1, 2),
    fusion=st.booleans(),
    last=st.booleans(),
)
@settings(max_examples=10, derandomize=True)
def test_equals_the_eager_unit_in_one_dimension(channels, size, kernel_size, causal, last, **options):
    kernel_size += not (causal or kernel_size % 2)
    y = torch.randn(2, channels, size, generator=torch.Generator().manual_seed(0))
    check_equal(
        make_unit(channels, ndim=1, kernel_size=kernel_size, causal=causal, **options), channels_last(y) if last else y
    )


@runs_kernels
@pytest.mark.parametrize(
    ("channels", "size", "last"),
    [(9, (9, 3), False), (3, (2, 300), False), (5, (15, 4), False), (70, (8, 3), True), (64, (15, 5), True)],
)
def test_more_than_one_program(channels, size, last):
    y = torch.randn(2, channels, *size)
    check_equal(make_unit(channels), channels_last(y) if last else y)


@runs_kernels
def test_equals_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    (channels, height, width), dilations, stride = (2, 5, 4), (3, 1, 1, 2), 2
    x, taps = torch.randn(1, channels, height, width, generator=generator), torch.randn(4, 9, 2, generator=generator)
    expected = torch.zeros(1, 4 * channels, 3, 2, dtype=torch.float64)
    for k in range(4):
        for before in range(k + 1):
            for c in range(channels):
                for row in range(3):
                    for column in range(2):
                        for tap in range(9):
                            i = row * stride + (tap // 3 - 1) * dilations[before]
                            j = column * stride + (tap % 3 - 1) * dilations[before]
                            if 0 <= i < height and 0 <= j < width:
                                expected[0, k * channels + c, row, column] += x[0, c, i, j] * taps[before, tap, c]
    got = split_transform_fuse(x.to(DEVICE), taps.to(DEVICE), dilations, stride=stride)
    torch.testing.assert_close(got.cpu().double(), expected, rtol=1e-5, atol=1e-5)


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_less_exact_than_the_eager_unit(dtype):
    unit, y = make_unit(8).to(dtype), torch.randn(2, 8, 8, 9).to(dtype)
    exact = eager(make_unit(8).to(dtype).double(), y.double())
    got, plain = fused(unit, channels_last(y)), eager(unit, y)
    assert got.dtype == dtype
    assert 0 < (got.double() - exact).norm() <= (plain.double() - exact).norm() < 0.05 * exact.norm()


@runs_kernels
def test_sums_are_in_float32_and_types_may_differ():
    # 1 + 8 taps of 2^-9: in bfloat16 the sum would never leave 1.
    taps = torch.full((1, 9, 1), 2.0**-9, device=DEVICE)
    taps[0, 4] = 1
    x = torch.ones(1, 1, 3, 3, dtype=torch.bfloat16, device=DEVICE)
    got = split_transform_fuse(x, taps, [1])
    assert got.dtype == torch.bfloat16
    assert got[0, 0, 1, 1].item() == 1 + 2 * 2.0**-7


@runs_kernels
@pytest.mark.parametrize("ndim", [1, 2])
def test_the_memory_format_stays(ndim):
    y, unit = torch.randn(2, 8, *(5, 6)[:ndim]), make_unit(8, ndim)
    assert fused(unit, y).is_contiguous()
    assert fused(unit, channels_last(y)).movedim(1, -1).is_contiguous()
    check_equal(unit, torch.randn(2, 2, 8, *(5, 6)[:ndim])[:, 1])  # neither of the two
    check_equal(unit, torch.randn(y.numel() + 1)[1:].view(y.shape))  # not aligned


@runs_kernels
def test_repeated_runs_are_equal_bit_for_bit():
    unit, y = make_unit(8), torch.randn(2, 8, 9, 9)
    assert torch.equal(fused(unit, y), fused(unit, y))


@runs_kernels
@pytest.mark.parametrize("shape", [(0, 8, 5, 6), (0, 8, 5), (2, 8, 0)])
def test_nothing_passes(shape):
    got = fused(make_unit(8, len(shape) - 2), torch.zeros(shape))
    assert got.shape == (shape[0], 32, *shape[2:])


@runs_kernels
def test_one_slope_serves_all_channels():
    y, taps = torch.randn(1, 4, 3, 3, device=DEVICE), torch.randn(2, 9, 4, device=DEVICE)
    one, all_ = (split_transform_fuse(y, taps, [1, 2], slope=torch.full((n,), 0.25, device=DEVICE)) for n in (1, 8))
    assert torch.equal(one, all_)
    assert (one < 0).any()


@runs_kernels
@pytest.mark.parametrize("last", [False, True])
def test_operator_obeys_torchs_rules(last):
    y = torch.randn(2, 4, 5, 6, device=DEVICE)
    vectors = [torch.randn(8, device=DEVICE) for _ in range(3)]
    inputs = (channels_last(y) if last else y, torch.randn(2, 9, 4, device=DEVICE), 3, 3, [1, 2], 2, False, True)
    torch.library.opcheck(torch.ops.eru.split_transform_fuse.default, (*inputs, *vectors))


@runs_kernels
@torch.no_grad()
def test_a_whole_network_gives_the_same():
    torch.manual_seed(0)
    model, x = vision.create_model("espnetv2_050", num_classes=10).to(DEVICE), torch.randn(4, 3, 48, 40, device=DEVICE)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # a plain mean
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight)
    model.train()(x)
    expected = model.eval()(x[:1])
    fast = vision.optimize(model, fused=True)
    torch.testing.assert_close(fast(x[:1]), expected, rtol=1e-3, atol=1e-3 * expected.std().item())


@runs_kernels
@torch.no_grad()
def test_a_unit_compiles_whole():
    unit = nn.Sequential(make_unit(4, stride=2), make_unit(16, fusion=False)).to(DEVICE)
    fast, x = vision.optimize(unit, fused=True), torch.randn(1, 4, 6, 5, device=DEVICE)
    torch._dynamo.reset()
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    expected = unit(x)
    for way in (fast, compiled):
        torch.testing.assert_close(way(x), expected, rtol=1e-3, atol=1e-3 * expected.std().item())


# --- what needs no kernel to run


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="compiles without a GPU")
def test_compiled_for_an_h200_it_reads_sixteen_bytes_at_once_and_nothing_twice(monkeypatch, h200_target):
    from vision.branches import kernel

    made = []

    class Compiled:
        def __getitem__(self, grid):
            return lambda *arguments, **options: made.append(compiled.warmup(*arguments, grid=grid, **options))

    compiled = kernel.split_transform_fuse
    monkeypatch.setattr(kernel, "split_transform_fuse", Compiled())
    split_transform_fuse(
        channels_last(torch.zeros(2, 64, 28, 28)).bfloat16(),
        torch.zeros(4, 9, 64),
        (1, 2, 3, 4),
        **{name: torch.zeros(256).bfloat16() for name in ("scale", "shift", "slope")},
    )
    (code,) = made
    assert code.metadata.shared == 0
    loads = [line for line in code.asm["ptx"].splitlines() if "ld.global" in line]
    # In the body of a branch's loop over columns: rows above, in and below the strip of 7; each tap in two parts.
    rows, taps, vectors = sum(7 + 2 * d for d in (1, 2, 3, 4)), 2 * 3 * 4, 3 * 4
    assert len(loads) == rows + taps + vectors
    assert all(".v4.b32" in line for line in loads)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 4, 8, 8, dtype=torch.float64), "x is torch.float64"),
        (torch.zeros(1, 4, 8, 8, requires_grad=True), "a gradient is asked for"),
        (torch.zeros(1, 4, 2**14, 2**15, device="meta"), "indices have 32 bits"),
        (torch.zeros(1, 4, 8, 8, device="meta"), "meta is no NVIDIA GPU" if HAS_TRITON else "not installed"),
    ],
)
def test_says_why_it_cannot_run(x, message):
    assert message in supports(x, torch.zeros(4, 9, 4))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on the CPU")
@torch.no_grad()
def test_on_the_cpu_the_convolutions_run_after_one_warning(monkeypatch):
    monkeypatch.setattr("eru.kernels.refusals._said", set())
    model, x = vision.create_model("espnetv2_050", num_classes=10).eval(), torch.randn(1, 3, 32, 32)
    fast = vision.optimize(model, fused=True)
    with pytest.warns(UserWarning, match=r"fused=True: the kernel cannot run: .*; the convolutions do") as warned:
        got = fast(x)
    assert len(warned) == 1
    assert torch.equal(got, vision.optimize(model)(x))


@torch.no_grad()
def test_what_the_kernel_does_not_know_keeps_its_convolutions():
    units = nn.Sequential(
        EESP(8, 8, ndim=2, norm=nn.BatchNorm2d, activation=nn.PReLU, convolution="dilated"),
        EESP(8, 8, ndim=2, norm=nn.BatchNorm2d, activation=lambda channels: nn.SiLU()),
        EESP(8, 8, ndim=2, norm=nn.BatchNorm2d),
    )
    kinds = [type(unit.branches).__name__ for unit in vision.optimize(units, fused=True)]
    assert kinds == ["Branches", "Branches", "FusedBranches"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 4, 2, 2, 2)}, r"x of shape \(1, 4, 2, 2, 2\): expected"),
        ({"taps": torch.zeros(4, 9, 5)}, r"taps of shape \(4, 9, 5\): expected \(K, taps, 4\)"),
        ({"taps": torch.zeros(4, 8, 4)}, r"taps of shape \(4, 8, 4\): expected an odd number"),
        ({"taps": torch.zeros(4, 4, 4)}, r"taps of shape \(4, 4, 4\): expected an odd number"),
        ({"dilations": (1, 2, 3)}, r"dilations=\(1, 2, 3\): expected 4 numbers"),
        ({"dilations": (0, 1, 2, 3)}, r"dilations=\(0, 1, 2, 3\): expected 4 numbers of at least 1"),
        ({"stride": 0}, "stride=0: must be at least 1"),
        ({"causal": True}, "causal=True: needs a 1-D map"),
        ({"scale": torch.zeros(4)}, r"scale of shape \(4,\): expected \(16,\)"),
        ({"slope": torch.zeros(1, 1)}, r"slope of shape \(1, 1\): expected \(16,\)"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"x": torch.zeros(1, 4, 5, 5), "taps": torch.zeros(4, 9, 4), "dilations": (1, 2, 3, 4)}
    with pytest.raises(ValueError, match=message):
        split_transform_fuse(**arguments | change)


@pytest.mark.parametrize(
    ("shape", "branches", "message"),
    [
        ((8, 2, 3, 3), 4, r"weight of shape \(8, 2, 3, 3\): expected depth-wise"),
        ((8, 1), 4, "expected depth-wise"),
        ((8, 1, 3), 3, "branches=3: must divide the 8 channels"),
        ((8, 1, 3), 0, "branches=0"),
    ],
)
def test_refuses_weights_that_are_not_depth_wise(shape, branches, message):
    with pytest.raises(ValueError, match=message):
        pack_taps(torch.zeros(shape), branches)


def test_importing_it_does_not_import_triton():
    code = "import sys, vision.branches; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
