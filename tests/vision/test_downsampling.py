"""What the published networks hold beside what they use."""

import pytest
import torch
from torch import nn

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
