"""What the published networks hold beside what they use."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import vision
from eru import StridedEESP
from vision.layers import PublishedDown


def plain_twin(published, shortcut):
    """The core's unit with the same numbers, where it has such parameters at all."""
    twin = StridedEESP(4, 12, ndim=2, shortcut_channels=shortcut, norm=nn.BatchNorm2d, activation=nn.PReLU)
    twin.load_state_dict({name: value for name, value in published.state_dict().items() if name in twin.state_dict()})
    return twin.eval()


@pytest.mark.parametrize("feed_image", [True, False])
def test_the_unit_is_the_cores_and_what_it_holds_beside_is_frozen_and_unused(feed_image):
    down = PublishedDown(4, 12, shortcut_channels=3, feed_image=feed_image).eval()
    twin = plain_twin(down, 3 if feed_image else None)
    unused = set(down.state_dict()) - set(twin.state_dict())
    frozen = {name for name, parameter in down.named_parameters() if not parameter.requires_grad}
    parameters = dict(down.named_parameters())
    assert frozen == {name for name in unused if name in parameters}
    assert "eesp.activation.weight" in frozen
    x, image = torch.randn(2, 4, 9, 6), torch.randn(2, 3, 18, 12)
    before = down(x, image)
    torch.testing.assert_close(before, twin(x, image) if feed_image else twin(x), rtol=0, atol=0)
    with torch.no_grad():
        for name in frozen:
            parameters[name].fill_(7)
    assert torch.equal(down(x, image), before)


def test_an_image_that_is_not_fed_may_be_left_out():
    x = torch.randn(2, 4, 9, 6)
    down = PublishedDown(4, 12, shortcut_channels=3, feed_image=False)
    assert torch.equal(down(x), down(x, torch.randn(2, 3, 9, 6)))
    with pytest.raises(ValueError, match="image=None"):
        PublishedDown(4, 12, shortcut_channels=3)(x)


def through_pickle(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_hand(model):
    for parameter in model.parameters():
        parameter.requires_grad = True
    return model


def assigned(model):
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return model.requires_grad_()


def born_empty(model):
    """The same model, born without numbers."""
    other = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    other.load_state_dict(model.state_dict())
    return other


THAWED = {
    "again": lambda model: model.requires_grad_(False).requires_grad_(True),
    "by hand": by_hand,
    "inside of another": lambda model: nn.Sequential(model).requires_grad_()[0],
    "copied": lambda model: copy.deepcopy(model).requires_grad_(),
    "pickled": lambda model: through_pickle(model).requires_grad_(),
    "from meta": lambda model: born_empty(model).requires_grad_(),
    "assigned": assigned,
}


@pytest.fixture
def alone(tmp_path):
    """A group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("way", THAWED)
def test_however_the_unused_ones_become_trainable_every_trainable_parameter_has_a_gradient(way):
    torch.manual_seed(0)
    model = vision.create_model("espnetv2_050", num_classes=3)
    keys, size = list(model.state_dict()), sum(p.numel() for p in model.parameters())
    x = torch.randn(2, 3, 40, 40)
    run = model.backbone.forward_features
    before = run(x)
    model = THAWED[way](model)
    assert list(model.state_dict()) == keys
    assert sum(p.numel() for p in model.parameters()) == size
    after = model.backbone.forward_features(x)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    after.square().mean().backward()
    backbone = dict(model.backbone.named_parameters())
    assert all(parameter.requires_grad for parameter in backbone.values())
    assert [key for key, parameter in backbone.items() if parameter.grad is None] == []


@pytest.mark.parametrize("name", ["espnetv2_050", "espnetv2_050_seg_voc", "espnetv2_050_ssd_voc"])
def test_what_was_frozen_and_thawed_trains_in_data_parallel(name, alone):
    model = vision.create_model(name, num_classes=3)
    parallel = DistributedDataParallel(model.requires_grad_(False).requires_grad_(True))
    target = {"boxes": torch.tensor([[4.0, 4.0, 30.0, 40.0]]), "labels": torch.tensor([1])}
    for _ in range(2):  # the second batch is where torch misses what the first one did not reach
        x = torch.randn(2, 3, 64, 64)
        out = parallel(x, [target] * 2) if "ssd" in name else parallel(x)
        sum(part.square().mean() for part in ([out] if isinstance(out, torch.Tensor) else out.values())).backward()


def test_broken_numbers_in_what_is_unused_break_nothing():
    down = PublishedDown(4, 12, shortcut_channels=3, feed_image=False)
    x = torch.randn(2, 4, 9, 6)
    before = down(x)
    with torch.no_grad():
        down.eesp.activation.weight.fill_(torch.nan)
    assert torch.equal(down.requires_grad_()(x), before)
