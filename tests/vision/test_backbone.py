import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vision
from eru.complexity import stages
from eru.eesp import EESP
from vision.backbone import ESPNetv2, channels

few = settings(max_examples=5, deadline=None)

# Table 2, as counted on the authors' models: width, parameters, multiply-adds of the convolutions at 224 x 224.
TABLE_2 = {
    0.5: (1_241_332, 28_375_508),
    1.0: (1_670_072, 85_720_404),
    1.25: (1_965_440, 123_399_444),
    1.5: (2_314_856, 168_604_884),
    1.75: (3_032_432, 224_146_580),
    2.0: (3_498_136, 284_806_228),
    3.0: (5_901_432, 602_708_820),
}


def count(model):
    return sum(p.numel() for p in model.parameters())


def convolutions(model, shape):
    return sum(stage.multiply_adds for stage in stages(model, [shape]) if stage.name != "classifier")


def by_hand(width, height, wide):
    """Parameters and multiply-adds of the whole classifier, added up unit by unit from the paper's formulas."""
    base = {0.5: 16, 1.0: 32, 1.25: 40, 1.5: 48, 1.75: 56, 2.0: 64, 3.0: 96}[width]
    sizes = [min(32, base), *(base * 2**i for i in (1, 2, 3, 4))]
    last = 1024 if width <= 1.5 else 1280
    parameters = adds = 0

    def conv(cin, cout, taps, groups, cells, norm=3):
        nonlocal parameters, adds
        weights = cin // groups * cout * taps
        parameters += weights + norm * cout  # normalisation 2, PReLU 1
        adds += weights * cells

    def unit(m, n, before, after):
        d = n // 4
        conv(m, d, 1, 4, before)
        for _ in range(4):
            conv(d, d, 9, d, after, norm=0)
        conv(n, n, 1, 4, after)  # its PReLU is the one after the sum
        nonlocal parameters
        parameters += 3 * n  # after the concatenation

    half = [math.ceil(height / 2), math.ceil(wide / 2)]
    conv(3, sizes[0], 9, 1, half[0] * half[1])
    for level in range(1, 5):
        before = half[0] * half[1]
        half = [math.ceil(half[0] / 2), math.ceil(half[1] / 2)]
        cells = half[0] * half[1]
        m, n = sizes[level - 1], sizes[level]
        unit(m, n - m, before, cells)
        fed = cells if level < 4 else 0
        conv(3, 3, 9, 1, fed)
        conv(3, n, 1, 1, fed)  # its PReLU is the one after the sum
        for _ in range((0, 0, 3, 7, 3)[level]):
            unit(n, n, cells, cells)
    conv(sizes[4], sizes[4], 9, sizes[4], cells)
    conv(sizes[4], last, 1, 4, cells)
    return parameters + 1000 * last + 1000, adds


@pytest.mark.parametrize("width", TABLE_2)
def test_table_2_is_met_exactly(width):
    model = vision.Classifier(width, device="meta")
    parameters, adds = TABLE_2[width]
    assert count(model) == parameters
    assert convolutions(model, (1, 3, 224, 224)) == adds


@given(width=st.sampled_from(list(TABLE_2)), height=st.integers(32, 400), wide=st.integers(32, 400))
@few
def test_counts_follow_the_papers_formulas_at_every_size(width, height, wide):
    model = vision.Classifier(width, device="meta")
    parameters, adds = by_hand(width, height, wide)
    assert count(model) == parameters
    assert convolutions(model, (1, 3, height, wide)) == adds


@given(
    width=st.floats(0.05, 4).map(lambda width: round(width, 2)),
    height=st.integers(32, 70),
    wide=st.integers(32, 70),
    image_channels=st.integers(1, 5),
)
@few
def test_any_width_size_and_image_builds_and_halves(width, height, wide, image_channels):
    model = ESPNetv2(width, image_channels, device="meta")
    maps = model(torch.empty(2, image_channels, height, wide, device="meta"))
    for level, (made, size, info) in enumerate(
        zip(maps, model.feature_info.channels(), model.feature_info, strict=True)
    ):
        assert made.shape == (2, size, math.ceil(height / 2 ** (level + 1)), math.ceil(wide / 2 ** (level + 1)))
        assert info["reduction"] == 2 ** (level + 1)
        assert size % 4 == 0


@pytest.mark.parametrize("width", [0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0])
def test_published_widths_divide_as_the_paper_says(width):
    for part in ESPNetv2(width, device="meta").modules():
        if isinstance(part, EESP):
            assert (part.branches, part.groups, part.expand_groups) == (4, 4, 4)
            assert part.width * 4 == part.out_channels


def test_dilations_are_those_of_the_reference():
    model = ESPNetv2(1.0, device="meta")
    table = {(2, True): (1, 2, 3, 4), (3, True): (1, 2, 3, 4), (3, False): (1, 2, 3, 4), (4, True): (1, 2, 3, 4)}
    table |= {(4, False): (1, 1, 2, 3), (5, True): (1, 1, 2, 3), (5, False): (1, 1, 1, 2)}
    for (level, strided), expected in table.items():
        part = getattr(model, f"level{level}")
        units = [part.down.eesp] if strided else [unit for unit in part.units if isinstance(unit, EESP)]
        assert units
        assert {unit.dilations for unit in units} == {expected}


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 40), (65, 97), (1100, 48)])
def test_odd_and_long_pictures_pass_forward_and_back(height, width):
    model = ESPNetv2(0.5)
    x = torch.randn(2, 3, height, width, requires_grad=True)
    maps = model(x)
    sum(made.square().mean() for made in maps).backward()
    assert x.grad.abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    # What the authors' classifier holds and never uses.
    assert all(".down.eesp.activation" in name or name.startswith("level5.down.shortcut") for name in frozen)
    assert len(frozen) == 4 + 7


def test_ablations_of_tables_5_and_6():
    whole = vision.Classifier(1.0, device="meta")
    plain = vision.Classifier(1.0, shortcut=False, device="meta")
    assert (count(plain), convolutions(plain, (1, 3, 224, 224))) == (1_664_912, 84_333_312)
    unfused = vision.Classifier(1.0, fusion=False, device="meta")
    assert count(unfused) == count(whole)
    for width, millions in ((1.0, 482.1), (1.25, 750.1)):
        standard = vision.Classifier(width, convolution="dilated", device="meta")
        assert convolutions(standard, (1, 3, 224, 224)) / 1e6 == pytest.approx(millions, abs=0.05)
    x = torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    one = ESPNetv2(0.5).eval()
    for options in ({"fusion": False}, {"shortcut": False}, {"convolution": "depthwise"}):
        other = ESPNetv2(0.5, **options).eval()
        other.load_state_dict({k: v for k, v in one.state_dict().items() if k in other.state_dict()})
        assert not torch.allclose(other.forward_features(x), one.forward_features(x), rtol=1e-3)


def test_level_5_sees_the_image_where_it_is_told():
    torch.manual_seed(0)
    classifier, detector = ESPNetv2(0.5).eval(), ESPNetv2(0.5, image_levels=(2, 3, 4, 5)).eval()
    detector.load_state_dict(classifier.state_dict())
    x = torch.randn(1, 3, 64, 64)
    *same, before = classifier(x)
    *also, after = detector(x)
    for one, other in zip(same, also, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(before, after, rtol=1e-3)
    assert all(p.requires_grad for p in detector.level5.down.shortcut.parameters())


def test_images_are_pooled_step_by_step_for_every_level():
    model = ESPNetv2(0.5, depth=4).eval()
    x = torch.randn(1, 3, 50, 71)
    maps = model(x)
    again = model.level1(x)
    for level in (2, 3, 4):
        part = getattr(model, f"level{level}")
        again = part.units(part.down(again, x))  # the strided unit pools the whole image itself
        torch.testing.assert_close(again, maps[level - 1])


def test_out_indices_choose_the_maps_and_their_order():
    model = ESPNetv2(0.5).eval()
    x = torch.randn(1, 3, 64, 64)
    every = model(x)
    chosen = ESPNetv2(0.5, out_indices=(-1, 1)).eval()
    chosen.load_state_dict(model.state_dict())
    for made, expected in zip(chosen(x), (every[4], every[1]), strict=True):
        torch.testing.assert_close(made, expected)
    info = model.feature_info
    assert info.channels() == [16, 32, 64, 128, 1024]
    assert info.channels((1, 2)) == [32, 64]
    assert info.reduction() == [2, 4, 8, 16, 32]
    assert info.module_name((0, 4)) == ["level1", "level5"]
    assert info.info[1] == {"num_chs": 32, "reduction": 4, "module": "level2"}
    assert info.get_dicts() == info.info == list(info)
    assert chosen.feature_info.get_dicts() == [info[4], info[1]]
    assert chosen.feature_info.get_dicts(["reduction", "num_chs"], (0,)) == [{"reduction": 2, "num_chs": 16}]
    assert chosen.feature_info.channels() == [made.shape[1] for made in chosen(x)] == [1024, 32]
    assert chosen.feature_info.module_name() == ["level5", "level2"]


@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_changes_nothing_but_the_memory(training):
    torch.manual_seed(0)
    plain, saving = ESPNetv2(0.5).train(training), ESPNetv2(0.5).train(training)
    saving.load_state_dict(plain.state_dict())
    saving.set_grad_checkpointing()
    kept = []
    x = torch.randn(2, 3, 48, 48)
    for model in (plain, saving):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept[-1].append(t.numel()) or t, lambda t: t):
            kept.append([])
            out = model.forward_features(x)
        out.square().mean().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert (sum(kept[1]) < sum(kept[0]) / 4) == training
    torch.testing.assert_close(saving.state_dict(), plain.state_dict())
    assert {part.momentum for part in saving.modules() if isinstance(part, nn.BatchNorm2d)} == {0.1}


def synchronised(model):
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


class OwnNorm(nn.modules.batchnorm._BatchNorm):
    """A normalisation that somebody else derived from torch's."""

    def _check_input_dim(self, input):
        pass


def derived(model):
    for part in list(model.modules()):
        for name, norm in part.named_children():
            if isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, OwnNorm(norm.num_features))
    return model


@pytest.mark.parametrize("convert", [synchronised, derived])
def test_checkpointing_counts_every_batch_once_whatever_the_batch_normalisation(convert):
    torch.manual_seed(0)
    plain, saving = convert(ESPNetv2(0.5)), convert(ESPNetv2(0.5))
    saving.load_state_dict(plain.state_dict())
    saving.set_grad_checkpointing()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in saving.modules())
    for _ in range(2):
        x = torch.randn(2, 3, 48, 48)
        for model in (plain, saving):
            model.forward_features(x).square().mean().backward()
    torch.testing.assert_close(saving.state_dict(), plain.state_dict())
    assert {t.item() for name, t in saving.state_dict().items() if name.endswith("num_batches_tracked")} <= {0, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, r"width=0: must be a number above 0"),
        ({"width": float("nan")}, r"width=nan"),
        ({"width": "2.0"}, r"width='2.0'"),
        ({"in_channels": 0}, r"in_channels=0"),
        ({"depth": 6}, r"depth=6: must be 1 to 5"),
        ({"out_indices": (5,)}, r"out_indices=\(5,\): must name maps, 0 to 4"),
        ({"out_indices": ()}, r"out_indices=\(\)"),
        ({"convolution": "sparse"}, r"convolution='sparse'"),
        ({"image_levels": (9,)}, r"image_levels=\(9,\): must be among 2 to 5"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ESPNetv2(device="meta", **options)


@pytest.mark.parametrize("shape", [(1, 3, 31, 64), (1, 3, 64, 31), (1, 4, 64, 64), (3, 64, 64)])
@pytest.mark.parametrize("build", [ESPNetv2, vision.Classifier, vision.Segmenter])
def test_wrong_images_are_named(build, shape):
    with pytest.raises(ValueError, match=r"image of shape \(.*\): expected \(N, 3, H, W\) with H and W at least 32"):
        build(0.5, device="meta")(torch.empty(shape, device="meta"))


def test_channels_round_to_whole_groups():
    assert channels(3.0) == (32, 192, 384, 768, 1536, 1280)
    assert channels(0.01) == (4, 8, 16, 32, 64, 1024)
    assert channels(0.8) == (28, 56, 112, 224, 448, 1024)


def test_weights_are_drawn_as_in_the_paper():
    torch.manual_seed(0)
    model = vision.Classifier(2.0)
    for part in model.modules():
        if isinstance(part, EESP):
            weights = [part.reduce_weight, *part.branch_weights(), part.expand_weight]
            stds = [w.std().item() / math.sqrt(2 / (len(w) * w[0, 0].numel())) for w in weights]
            assert 0.8 < min(stds) <= max(stds) < 1.2
        if isinstance(part, nn.PReLU):
            assert (part.weight == 0.25).all()
    assert model.classifier.weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert not model.classifier.bias.any()
