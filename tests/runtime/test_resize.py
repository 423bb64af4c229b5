import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eru_runtime.preprocessing import Preprocessing
from eru_runtime.resize import resize_bilinear, resize_nearest
from vision.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from vision.preprocessing import Preprocessing as PreprocessingOfERU

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
SIDE = st.integers(1, 90)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@st.composite
def boxes(draw):
    """A picture's height and width, and a part of it of more than half a pixel."""
    height, width = draw(SIDE), draw(SIDE)
    left, top = (draw(st.floats(0, side - 0.6)) for side in (width, height))
    right, bottom = draw(st.floats(left + 0.51, width)), draw(st.floats(top + 0.51, height))
    return height, width, (left, top, right, bottom)


@given(boxes(), SIDE, SIDE)
@settings(max_examples=200)
def test_a_part_of_a_picture_is_resized_as_by_pillow(part, height, width):
    *shape, box = part
    pixels = noise(*shape)
    made = resize_bilinear(pixels, (height, width), box)
    assert (made.dtype, made.shape) == (np.uint8, (height, width, 3))
    at_once = Image.fromarray(pixels).resize((width, height), BILINEAR, box)
    np.testing.assert_allclose(made.astype(int), np.asarray(at_once).astype(int), atol=1)
    # Across first, then down: in which order Pillow does it at once depends on its version.
    left, top, right, bottom = box
    across = Image.fromarray(pixels).resize((width, shape[0]), BILINEAR, (left, 0, right, shape[0]))
    np.testing.assert_array_equal(made, across.resize((width, height), BILINEAR, (0, top, width, bottom)))


@given(SIDE, SIDE, SIDE, SIDE)
def test_a_whole_picture_is_resized_as_by_pillow(height, width, new_height, new_width):
    pixels = noise(height, width)
    made = resize_bilinear(pixels, (new_height, new_width))
    whole = Image.fromarray(pixels).resize((new_width, new_height), BILINEAR)
    np.testing.assert_allclose(made.astype(int), np.asarray(whole).astype(int), atol=1)
    np.testing.assert_array_equal(resize_bilinear(pixels, (height, width)), pixels)


@given(SIDE, SIDE, st.integers(1, 500), st.integers(1, 500), st.sampled_from([np.uint8, np.int32]))
def test_a_mask_is_resized_as_by_pillow(height, width, new_height, new_width, dtype):
    mask = np.random.default_rng(0).integers(0, 256, (height, width)).astype(dtype)
    expected = Image.fromarray(mask).resize((new_width, new_height), NEAREST)
    np.testing.assert_array_equal(resize_nearest(mask, (new_height, new_width)), expected)


ONE_LEVEL = 1.001 / 255 / np.array(IMAGENET_STD)[:, None, None]


def both(pixels, size, crop):
    ours = Preprocessing(size, crop, IMAGENET_MEAN, IMAGENET_STD)(pixels)
    assert (ours.dtype, ours.flags.c_contiguous) == (np.float32, True)
    return ours[0], PreprocessingOfERU(size, crop)(Image.fromarray(pixels)).numpy()


@given(SIDE, SIDE, st.integers(1, 40), st.integers(1, 40), st.sampled_from([None, 0.5, 0.875, 1.0]))
def test_a_picture_is_prepared_as_by_eru(height, width, new_height, new_width, crop):
    ours, of_eru = both(noise(height, width), (new_height, new_width), crop)
    assert ours.shape == of_eru.shape
    assert (np.abs(ours - of_eru) < ONE_LEVEL).all()


@pytest.mark.parametrize("shape", [(20_000, 1), (1, 20_000), (300, 5_000)])
@pytest.mark.parametrize("crop", [None, 0.875])
def test_a_thread_of_a_picture_is_prepared_as_by_eru(shape, crop):
    ours, of_eru = both(noise(*shape), (64, 64), crop)
    assert (np.abs(ours - of_eru) < ONE_LEVEL).all()


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
@pytest.mark.parametrize(("size", "crop"), [((384, 384), None), ((256, 128), None), ((224, 224), 0.875)])
def test_a_photograph_is_prepared_as_by_eru(name, size, crop):
    data = pytest.importorskip("skimage.data", reason="needs the pictures of scikit-image")
    ours, of_eru = both(getattr(data, name)(), size, crop)
    assert (np.abs(ours - of_eru) < ONE_LEVEL).all()
    assert (ours == of_eru).mean() > 0.7
