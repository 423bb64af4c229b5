import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision.preprocessing import Preprocessing

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def levels(tensor):
    """What a tensor holds, as levels 0-255 of a picture."""
    return (tensor.permute(1, 2, 0).double().numpy() * STD + MEAN) * 255


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_it_gives_what_the_published_networks_were_measured_on(reference, name):
    data = pytest.importorskip("skimage.data", reason="needs the pictures of scikit-image")
    made = Preprocessing((384, 384))(Image.fromarray(getattr(data, name)())).double()
    with np.load(reference / "golden" / "real_pictures.npz", allow_pickle=False) as golden:
        expected = golden[f"pascal_s2.0_384/{name}/input_stats"]
    found = [made.mean().item(), made.std(correction=0).item(), made.abs().sum().item()]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_values_are_scaled_and_normalised_channel_by_channel():
    picture = Image.new("RGB", (7, 5), (255, 128, 0))
    made = Preprocessing((5, 7))(picture)
    assert (made.dtype, made.shape, made.is_contiguous()) == (torch.float32, (3, 5, 7), True)
    np.testing.assert_allclose(made[:, 2, 3], (np.array([1.0, 128 / 255, 0.0]) - MEAN) / STD, rtol=1e-6)
    plain = Preprocessing((5, 7), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))(picture)
    np.testing.assert_allclose(plain[:, 0, 0], [1.0, 128 / 255, 0.0], rtol=1e-6)


def test_a_picture_of_the_right_size_keeps_its_pixels_in_place():
    picture = noise(31, 17)
    np.testing.assert_allclose(levels(Preprocessing((17, 31))(picture)), np.asarray(picture), atol=1e-3)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40))
def test_without_a_crop_the_whole_picture_is_resized(width, height, out_width, out_height):
    picture = noise(width, height)
    made = levels(Preprocessing((out_height, out_width))(picture))
    whole = picture.resize((out_width, out_height), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(made, np.asarray(whole), atol=1e-3)


def exact_centre(picture, resized, size):
    """The centre of the resized picture, without the rounding to levels that comes after each of its two passes."""
    channels = [Image.fromarray(np.asarray(channel, dtype=np.float32)) for channel in picture.split()]
    left, top = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    box = (left, top, left + size[0], top + size[1])
    return np.stack([c.resize(resized, Image.Resampling.BILINEAR).crop(box) for c in channels], axis=2)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.sampled_from([0.5, 0.875, 1.0]))
def test_a_crop_is_the_centre_of_the_resized_picture(width, height, side, crop):
    """Short side to size / crop, then the centre, as the classifiers were evaluated: within one level of 255."""
    picture, short = noise(width, height), round(side / crop)
    longer = short * max(width, height) // min(width, height)
    expected = exact_centre(picture, (short, longer) if width <= height else (longer, short), (side, side))
    np.testing.assert_allclose(levels(Preprocessing((side, side), crop=crop)(picture)), expected, atol=1.01)


def test_a_crop_need_not_be_square():
    picture = noise(400, 300)
    made = levels(Preprocessing((70, 140), crop=0.875)(picture))
    np.testing.assert_allclose(made, exact_centre(picture, (160, 120), (140, 70)), atol=1.01)


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_a_thread_of_a_picture_takes_no_more_memory_than_its_centre(size):
    made = Preprocessing((224, 224), crop=0.875)(Image.new("RGB", size, (255, 0, 0)))
    np.testing.assert_allclose(levels(made), np.broadcast_to([255.0, 0, 0], (224, 224, 3)), atol=1e-3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_are_refused(mode):
    with pytest.raises(ValueError, match=f"mode '{mode}': must be 'RGB'"):
        Preprocessing((8, 8))(Image.new(mode, (9, 9)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": (0, 5)}, "size=(0, 5)"),
        ({"size": (5, -1)}, "size=(5, -1)"),
        ({"size": (5,)}, "size=(5,)"),
        ({"size": (5, 5), "crop": 0.0}, "crop=0.0"),
        ({"size": (5, 5), "crop": 1.5}, "crop=1.5"),
        ({"size": (5, 5), "crop": float("nan")}, "crop=nan"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Preprocessing(**options)
