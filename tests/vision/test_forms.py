"""Every width, head and option in every form that users run models in."""

import pytest
import torch
from torch import nn

import vision
from vision.backbone import WIDTHS

WAYS = {
    **{f"width {width}": ("espnetv2_100", {"width": width}) for width in WIDTHS},
    "segmentation": ("espnetv2_050_seg_voc", {}),
    "detection": ("espnetv2_050_ssd_voc", {}),
    "features": ("espnetv2_050", {"features_only": True}),
    "no fusion": ("espnetv2_050", {"fusion": False}),
    "no shortcut": ("espnetv2_050", {"shortcut": False}),
    "depth-wise": ("espnetv2_050", {"convolution": "depthwise"}),
    "standard": ("espnetv2_050", {"convolution": "dilated"}),
}
every_way = pytest.mark.parametrize("way", WAYS)
# Tracing takes seconds, and the widths have the same operators: the smallest and the largest of them stand for all.
FEW_WAYS = [way for way, (_, options) in WAYS.items() if options.get("width") in (None, min(WIDTHS), max(WIDTHS))]
traced_ways = pytest.mark.parametrize("way", FEW_WAYS)
pytestmark = pytest.mark.slow


def build(way, **kind):
    torch.manual_seed(0)
    name, options = WAYS[way]
    model = vision.create_model(name, **options, **kind).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):  # so that nothing vanishes on its way through the network
            nn.init.uniform_(part.weight, 1, 2)
            nn.init.normal_(part.bias, std=0.5)
        if isinstance(part, nn.Linear):  # drawn so small at first that no difference would show
            nn.init.normal_(part.weight, std=0.1)
    x = torch.randn(2, 3, 64, 80, dtype=kind.get("dtype"))
    return model, x


def flat(answer):
    """Every tensor of an answer, in order; of detections the scores, since two boxes of nearly one score may swap."""
    if isinstance(answer, torch.Tensor):
        return [answer]
    if isinstance(answer, dict):
        answer = [answer.get("scores", answer.get("out"))]
    return [tensor for part in answer for tensor in flat(part)]


def check(made, expected, close=1e-4):
    made, expected = flat(made), flat(expected)
    assert len(made) == len(expected) > 0
    for one, other in zip(made, expected, strict=True):
        scale = max(1, other.double().std().item())
        torch.testing.assert_close(one, other, rtol=close, atol=close * scale)


@traced_ways
@torch.no_grad()
def test_compiled(way, shallow):
    with shallow():
        model, x = build(way)
    torch._dynamo.reset()
    check(torch.compile(model, backend="aot_eager", fullgraph=way != "detection")(x), model(x))


def test_compiled_for_training(shallow):
    with shallow():
        (model, x), (other, _) = build("width 0.5"), build("width 0.5")
    model.train()
    other.train()
    torch._dynamo.reset()
    model.dropout = other.dropout = 0
    model(x).square().sum().backward()
    torch.compile(other, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    for one, again in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, again.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, in its compiler
@torch.no_grad()
def test_compiled_by_default():
    torch.manual_seed(0)
    model = vision.create_model("espnetv2_050", features_only=True, out_indices=(0, 1)).eval()
    x = torch.randn(2, 3, 64, 80)
    torch._dynamo.reset()
    check(torch.compile(model)(x), model(x))


class Maps(nn.Module):
    """A detector without its last step, whose results have no fixed number."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, x):
        return dict(zip(("confidences", "out"), self.detector.raw(x), strict=True))


@every_way
@torch.no_grad()
def test_traced(way):
    model, x = build(way)
    model = Maps(model) if way == "detection" else model
    traced = torch.fx.symbolic_trace(model)
    for again in (x, torch.randn(1, 3, 97, 50)):  # a graph for every size, as the model itself
        check(traced(again), model(again))
    with pytest.raises(ValueError, match="at least 32"):
        traced(x[..., :20])
    parts = {node.target.removesuffix(".down.activation") for node in traced.graph.nodes if node.op == "call_module"}
    assert {name.rpartition("level")[2] for name in parts if "level" in name} >= {"2", "3", "4"}


@traced_ways
@torch.no_grad()
def test_exported(way, shallow):
    with shallow():
        model, x = build(way)
    program = torch.export.export(model, (x,))
    again = torch.randn_like(x)
    check(program.module()(again), model(again))


@torch.no_grad()
def test_exported_for_any_number_of_pictures(shallow):
    with shallow():
        model, x = build("segmentation")
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("pictures", min=1)},))
    for count in (1, 5):
        again = torch.randn(count, *x.shape[1:])
        check(program.module()(again), model(again))


@every_way
@torch.no_grad()
def test_autocast(way):
    model, x = build(way)
    if way == "detection":
        expected, (confidences, locations) = model.raw(x), (None, None)
        with torch.autocast("cpu", torch.bfloat16):
            confidences, locations = model.raw(x)
            assert model(x)[0]["scores"].dtype == torch.float32
        made = (confidences, locations)
    else:
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            made = model(x)
    for one, other in zip(flat(made), flat(expected), strict=True):
        assert one.dtype in (torch.bfloat16, torch.float32)
        error = (one.float() - other).norm() / other.norm()
        assert 0 < error < 0.1


@every_way
@torch.no_grad()
def test_channels_last(way):
    model, x = build(way)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    inside = []
    stem = model if way == "features" else model.backbone
    stem.level3.register_forward_hook(lambda _, __, out: inside.append(out))
    rearranged = x.to(memory_format=torch.channels_last)
    check(model(rearranged), expected)
    if way == "detection":
        check(model.raw(rearranged), build(way)[0].raw(x))
    assert inside[0].is_contiguous(memory_format=torch.channels_last)


@every_way
@torch.no_grad()
def test_double(way):
    model, x = build(way, dtype=torch.float64)
    expected = model(x)
    single = build(way)[0]
    single.load_state_dict(model.state_dict())
    made = single(x.float())
    floats = [part for part in flat(expected) if part.is_floating_point()]
    # A detector answers in float32 whatever it computes in.
    assert {part.dtype for part in floats} == {torch.float32 if way == "detection" else torch.float64}
    for one, other in zip(flat(made), flat(expected), strict=True):
        torch.testing.assert_close(one.to(other.dtype), other, rtol=1e-3, atol=1e-3)


@every_way
@torch.no_grad()
def test_optimized(way):
    model, x = build(way)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = vision.optimize(model)
    check(fast(x), model(x))
    if way == "detection":
        check(fast.raw(x), model.raw(x))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fast.modules())
    assert not fast.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
