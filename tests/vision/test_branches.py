"""The fused branches against the eager EESP: compiled on a GPU, or else in Triton's interpreter."""

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
from eru import EESP2d
from vision.branches import pack_taps, refusal, split_transform_fuse
from vision.inference import Branches, FusedBranches

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HAS_TRITON = importlib.util.find_spec("triton") is not None

runs_kernels = pytest.mark.skipif(
    not INTERPRETED and not (HAS_TRITON and torch.cuda.is_available()),
    reason="needs a GPU; without one, test_in_the_interpreter runs it",
)


def make_unit(channels, **options):
    """An EESP that maps `channels` to four times as many, so that its reduced map may have any number of them."""
    unit = EESP2d(channels, 4 * channels, branches=4, groups=1, **options).eval()
    generator = torch.Generator().manual_seed(channels)
    for tensor in (*unit.parameters(), *unit.buffers()):
        if tensor.is_floating_point():  # positive, as a variance must be; and then weights of both signs
            tensor.data = 0.5 + torch.rand(tensor.shape, generator=generator)
    unit.branch_weight.data -= 1
    return unit.requires_grad_(False)


def both_ways(unit, y):
    """By the convolutions, and by the kernel on its device and back."""
    return Branches(unit)(y), FusedBranches(unit).to(DEVICE)(y.to(DEVICE)).cpu()


def check_equal(unit, y):
    expected, made = both_ways(unit, y)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert made.is_contiguous(memory_format=torch.channels_last)


# --- the kernel


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="here the kernels run compiled")
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter():
    """In a process of its own, since the interpreter replaces Triton's language when that is imported."""
    pytest.importorskip("triton", minversion="3.7", reason="older interpreters and newer NumPy do not fit")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


@runs_kernels
@given(
    channels=st.integers(1, 9),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    receptive_field=st.sampled_from([None, 3, 5, 7]),
    stride=st.integers(1, 3),
    kernel_size=st.sampled_from([1, 3, 5]),
    fusion=st.booleans(),
)
@settings(max_examples=15, derandomize=True)
def test_equals_the_convolutions(channels, size, **options):
    y = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    check_equal(make_unit(channels, **options), y)


@runs_kernels
@pytest.mark.parametrize(("channels", "size"), [(3, (2, 300)), (70, (8, 3)), (64, (15, 5))])
def test_more_than_one_program(channels, size):
    y = torch.randn(2, channels, *size)
    check_equal(make_unit(channels), y)
    check_equal(
        make_unit(channels), torch.randn(2, 2, channels, *size)[:, 1].contiguous(memory_format=torch.channels_last)
    )


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    exact, _ = both_ways(make_unit(8).to(dtype).float(), y := torch.randn(2, 8, 8, 9).to(dtype).float())
    made = FusedBranches(make_unit(8).to(dtype)).to(DEVICE)(y.to(DEVICE, dtype)).cpu()
    assert made.dtype == dtype
    # Where a GPU rounds to the nearest number of the type, the interpreter may cut off.
    assert (made.float() - exact).abs().max() <= 2 * torch.finfo(dtype).eps * exact.abs().max()


@runs_kernels
def test_one_slope_serves_all_channels():
    check_equal(make_unit(4, activation=lambda channels: nn.PReLU()), torch.randn(1, 4, 5, 3))


@runs_kernels
def test_no_picture_is_no_error():
    assert both_ways(make_unit(8), torch.zeros(0, 8, 5, 6))[1].shape == (0, 32, 5, 6)


@runs_kernels
def test_operator_obeys_torchs_rules():
    y, taps = torch.randn(2, 4, 5, 6, device=DEVICE), torch.randn(2, 3, 3, 4, device=DEVICE)
    vectors = [torch.randn(8, device=DEVICE) for _ in range(3)]
    torch.library.opcheck(split_transform_fuse, (y, taps, *vectors, [1, 2], 2, True))


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
    assert any(isinstance(part, FusedBranches) for part in fast.modules())
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


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 4, 2)}, r"x \(1, 4, 2\), taps .* do not fit"),
        ({"taps": torch.zeros(4, 3, 3, 5)}, r"taps \(4, 3, 3, 5\) .* do not fit"),
        ({"dilations": [1, 2, 3]}, r"dilations \[1, 2, 3\] do not fit"),
        ({"scale": torch.zeros(4)}, r"scale of shape \(4,\): expected \(16,\)"),
        ({"slope": torch.zeros(1)}, r"slope of shape \(1,\): expected \(16,\)"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"x": torch.zeros(1, 4, 5, 5), "taps": torch.zeros(4, 3, 3, 4), "dilations": [1, 2, 3, 4]}
    arguments |= {name: torch.zeros(16) for name in ("scale", "shift", "slope")} | {"stride": 1, "fusion": True}
    with pytest.raises(ValueError, match=message):
        split_transform_fuse(**arguments | change)


# --- what needs no kernel to run


def test_taps_are_packed_channel_by_channel():
    weight = torch.randn(4 * 6, 1, 3, 3)
    taps = pack_taps(weight, 4)
    assert taps.is_contiguous()
    assert all(
        taps[k, i, j, c] == weight[6 * k + c, 0, i, j] for k, i, j, c in [(0, 0, 0, 0), (1, 2, 0, 5), (3, 1, 2, 4)]
    )


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on the CPU")
@torch.no_grad()
def test_on_the_cpu_the_convolutions_run_after_a_warning_that_says_why():
    model, x = vision.create_model("espnetv2_050", num_classes=10).eval(), torch.randn(1, 3, 32, 32)
    why = "cpu is no NVIDIA GPU" if HAS_TRITON else "Triton is not installed"
    with pytest.warns(UserWarning, match=rf"fused=True: the kernel cannot run: {why}; the convolutions do"):
        fast = vision.optimize(model, fused=True)
    assert torch.equal(fast(x), vision.optimize(model)(x))
    assert refusal(torch.device("cuda"), torch.float64) == "maps are torch.float64"


def test_what_the_kernel_does_not_know_keeps_its_convolutions():
    activations = {"dilated": nn.PReLU, "depthwise": lambda channels: nn.SiLU()}
    units = [EESP2d(8, 8, convolution=kind, activation=make) for kind, make in activations.items()]
    units += [EESP2d(8, 8, activation=None), EESP2d(8, 8), EESP2d(8, 8, activation=lambda channels: nn.PReLU())]
    assert [FusedBranches.fits(unit) for unit in units] == [False, False, False, True, True]


def test_importing_it_does_not_import_triton():
    code = "import sys, vision.branches; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
