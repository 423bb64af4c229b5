import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vision.datasets import voc_palette
from vision.drawing import draw_boxes, draw_mask, draw_strip, indexed_mask

COLOURS = voc_palette(21)


def scene(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def block(width, height):
    """A mask of class 8 with a rectangle of background (0) inside."""
    mask = np.full((height, width), 8, dtype=np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 0
    return mask


def test_regions_are_halfway_to_their_colour_and_the_background_is_untouched():
    picture, mask = scene(80, 60), block(80, 60)
    outline = np.zeros(mask.shape, dtype=bool)  # where the neighbour to the right or below is of the other class
    outline[15:30, [19, 39]] = outline[[14, 29], 20:40] = True
    pixels = np.asarray(picture, dtype=float)
    expected = np.where((mask == 8)[..., None], (pixels + COLOURS[8]) / 2, pixels)
    expected[outline] = 245
    np.testing.assert_allclose(draw_mask(picture, mask, COLOURS, background=0), expected, atol=1)


def test_without_a_background_every_pixel_is_tinted():
    mask = np.zeros((20, 30), dtype=np.uint8)
    found = draw_mask(Image.new("RGB", (30, 20), "white"), mask, [(0, 100, 200)])
    np.testing.assert_allclose(found, np.broadcast_to([127.5, 177.5, 227.5], (20, 30, 3)), atol=1)


def test_the_legend_goes_where_it_hides_least():
    """Everything but the lower left quarter is class 8, so the legend changes that quarter only."""
    picture = scene(400, 400)
    mask = np.full((400, 400), 8, dtype=np.uint8)
    mask[200:, :200] = 0
    without = np.asarray(draw_mask(picture, mask, COLOURS, background=0), dtype=int)
    legend = [("cat", COLOURS[8]), ("background", COLOURS[0])]
    changed = (np.asarray(draw_mask(picture, mask, COLOURS, legend, background=0)) != without).any(axis=2)
    assert changed.any()
    assert not changed[:200].any()
    assert not changed[:, 200:].any()


def test_the_legend_shows_its_colours():
    found = draw_mask(Image.new("RGB", (400, 400)), block(400, 400), COLOURS, [("cat", (1, 250, 3))], background=0)
    assert sum(count for count, colour in found.getcolors(400 * 400) if colour == (1, 250, 3)) > 100


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_smallest_pictures_can_be_drawn_into(width, height):
    picture, mask = scene(width, height), block(width, height)
    legend = [(f"class {i}", colour) for i, colour in enumerate(COLOURS)]
    assert draw_mask(picture, mask, COLOURS, legend).size == (width, height)
    assert draw_boxes(picture, [(0, 0, width, height)], ["diningtable 99%"], [COLOURS[11]]).size == (width, height)
    strip = draw_strip(picture, [("diningtable", 0.99)])
    assert strip.width >= width
    assert strip.height > height


def test_a_strip_leaves_the_picture_above_it_and_its_bars_are_as_long_as_the_shares():
    picture = scene(400, 300)
    found = np.asarray(draw_strip(picture, [("one", 1.0), ("half", 0.5), ("none", 0.0)]))
    np.testing.assert_array_equal(found[:300], picture)
    bars = (found[300:] == (64, 156, 255)).all(axis=2).sum(axis=1)
    full, half = sorted(set(bars) - {0}, reverse=True)
    assert full == pytest.approx(2 * half, abs=2)
    assert full > 300
    assert np.all(np.diff(np.flatnonzero(bars == full)) == 1)


def test_a_long_name_widens_the_strip():
    picture = scene(32, 32)
    found = draw_strip(picture, [("black-and-tan coonhound", 0.5)])
    left = (found.width - 32) // 2
    assert found.width > 100
    np.testing.assert_array_equal(np.asarray(found)[:32, left : left + 32], picture)


def test_boxes_are_outlined_and_what_is_inside_stays():
    picture = scene(200, 200)
    found = np.asarray(draw_boxes(picture, [(50, 80, 150, 160)], ["cat"], [(1, 250, 3)]))
    for row, column in ((80, 120), (160, 120), (120, 50), (120, 150)):
        assert tuple(found[row, column]) == (1, 250, 3)
    np.testing.assert_array_equal(found[90:150, 60:140], np.asarray(picture)[90:150, 60:140])
    np.testing.assert_array_equal(found[:, 160:], np.asarray(picture)[:, 160:])


def test_the_first_box_is_on_top():
    picture, boxes = scene(200, 200), [(50, 80, 150, 160), (50, 80, 150, 160)]
    found = draw_boxes(picture, boxes, ["cat", "dog"], [(1, 250, 3), (200, 0, 0)])
    assert found.getpixel((150, 120)) == (1, 250, 3)


@pytest.mark.parametrize("box", [(-20, -20, 90, 90), (120, 3, 230, 90), (30, 0, 300, 300)])
def test_labels_stay_inside_the_picture(box):
    found = draw_boxes(Image.new("RGB", (200, 200)), [box], ["cat 98%"], [(1, 250, 3)])
    rows = (np.asarray(found) == (1, 250, 3)).all(axis=2).sum(axis=1)
    assert (rows >= 40).sum() >= 10  # a filled label is that high; the lines of a box are not


@given(st.integers(1, 256), st.data())
def test_an_indexed_mask_holds_the_classes_and_shows_their_colours(classes, data):
    mask = np.array(data.draw(st.lists(st.integers(0, classes - 1), min_size=12, max_size=12))).reshape(3, 4)
    colours = voc_palette(classes)
    found = indexed_mask(mask, colours)
    assert found.mode == "P"
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_array_equal(found.convert("RGB"), np.array(colours, dtype=np.uint8)[mask])


def test_more_classes_than_a_palette_has_entries_take_16_bits():
    mask = np.array([[0, 255, 256, 999]])
    found = indexed_mask(mask, voc_palette(1000))
    assert found.mode == "I;16"
    np.testing.assert_array_equal(found, mask)
