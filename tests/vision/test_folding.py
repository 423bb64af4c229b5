"""What folds gives the same; what does not is left as it is."""

import itertools
import warnings

import pytest
import torch
from torch import nn

import vision
from eru import EESP, EESP2d
from vision.folding import FoldedConv, InferenceEESP


def lively(model):
    """Statistics and weights of normalisation that no fold may lose."""
    torch.manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.running_mean, -1, 1),
                (part.running_var, 0.2, 2),
                *(((part.weight, 0.5, 2), (part.bias, -1, 1)) if part.affine else ()),
            ):
                nn.init.uniform_(tensor, low, high)
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": (1, 3), "padding": (0, 1), "stride": (1, 2)},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "groups": 2},
        {"kernel_size": 3, "padding": "same"},
    ],
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_any_convolution_keeps_its_geometry(options, bias, dtype):
    model = lively(nn.Sequential(nn.Conv2d(4, 6, bias=bias, **options), nn.BatchNorm2d(6), nn.ReLU()).to(dtype))
    x = torch.randn(2, 4, 9, 8, dtype=dtype)
    fast = vision.optimize(model)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)
    assert isinstance(fast[0], FoldedConv) == ("padding_mode" not in options)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(16, 16), (16, 32), (20, 20), (7, 13)])
@pytest.mark.parametrize(
    "options", [{}, {"fusion": False}, {"convolution": "dilated"}, {"activation": None}, {"kernel_size": 5}]
)
@torch.no_grad()
def test_every_2d_unit_folds(channels, stride, options):
    unit = lively(nn.Sequential(EESP2d(*channels, stride=stride, **options)))
    x = torch.randn(2, channels[0], 12, 15)
    fast = vision.optimize(unit)
    assert isinstance(fast[0], InferenceEESP)
    torch.testing.assert_close(fast(x), unit(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("unit", "shape"),
    [
        (EESP2d(8, 8, norm=None), (2, 8, 5, 6)),
        (EESP2d(8, 8, norm=lambda size: nn.BatchNorm2d(size, affine=False)), (2, 8, 5, 6)),
        (EESP2d(8, 8, norm=lambda size: nn.GroupNorm(2, size)), (2, 8, 5, 6)),
        (EESP(8, 8, ndim=1, norm=nn.BatchNorm1d, activation=nn.PReLU), (2, 8, 9)),
        (nn.BatchNorm2d(8, track_running_stats=False), (2, 8, 5, 6)),
    ],
)
@torch.no_grad()
def test_what_does_not_fold_stays(unit, shape):
    model = nn.Sequential(unit).eval()
    fast = vision.optimize(model)
    assert type(fast[0]) is type(unit)
    x = torch.randn(shape)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_whole_model_can_be_traced_and_runs_in_every_type_and_place():
    model = lively(vision.create_model("espnetv2_050_seg_voc"))
    x = torch.randn(1, 3, 40, 56)
    expected = model(x)["out"]
    fast = vision.optimize(model)
    assert not any(tensor.requires_grad for tensor in itertools.chain(fast.parameters(), fast.buffers()))
    assert fast.backbone.level2.down.eesp.expand.weight.is_contiguous(memory_format=torch.channels_last)
    close = {"rtol": 1e-3, "atol": 1e-3 * expected.std().item()}
    torch.testing.assert_close(fast(x)["out"], expected, **close)
    torch.testing.assert_close(torch.export.export(fast, (x,)).module()(x)["out"], expected, **close)
    torch._dynamo.reset()
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)["out"], expected, **close)
    with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(fast(x)["out"], expected, **close)
    with torch.autocast("cpu", torch.bfloat16):
        assert (fast(x)["out"].float() - expected).norm() < 0.1 * expected.norm()
    double = vision.optimize(lively(vision.create_model("espnetv2_050_seg_voc", dtype=torch.float64)))
    assert double(x.double())["out"].dtype == torch.float64


def test_only_modules_are_taken():
    with pytest.raises(TypeError, match=r"model='espnetv2_050': must be a module"):
        vision.optimize("espnetv2_050")
