import colorsys
import math
import pickle
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from vision.data.crops import MEAN_COLOUR, Expand, RandomCrop, RandomScale, SSDCrop, crop
from vision.data.sample import IGNORED, Objects, Sample
from vision.data.transforms import (
    Compose,
    Photometric,
    RandomFlip,
    RandomResizedCrop,
    Resize,
    as_tensors,
    mixup,
)
from vision.multibox import check_targets
from vision.preprocessing import Preprocessing

LEVELS = 4  # of red for each column, and of green for each row
few, many = settings(max_examples=30), settings(max_examples=120)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
sides = st.integers(8, 60)
sizes = st.tuples(sides, sides)
transforms = st.one_of(
    st.builds(RandomFlip),
    st.builds(RandomResizedCrop, sizes, st.just((0.25, 1.0))),
    st.builds(RandomScale),
    st.builds(RandomCrop, sizes),
    st.builds(Photometric, *[st.just(0.3)] * 4),
    st.builds(SSDCrop),
    st.builds(Expand, st.just(2.0)),
    st.builds(Resize, sizes),
)


def places(width, height):
    """A picture that tells the place of each pixel: its column in red, its row in green."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([LEVELS * columns, LEVELS * rows, 0 * rows], axis=2).astype(np.uint8))


@st.composite
def scenes(draw, height=sides, width=sides):
    """A sample with up to four rectangles, one in each quarter: pixels of the value n, an object with the label n."""
    height, width = draw(height), draw(width)
    mask, boxes, labels, ignored = np.zeros((height, width), np.uint8), [], [], []
    for label in draw(st.sets(st.integers(1, 4))):
        corners = []
        for side, late in ((width, label % 2), (height, label > 2)):
            first, end = (side // 2, side) if late else (0, side // 2)
            low = draw(st.integers(first, end - 1))
            corners.append((low, draw(st.integers(low + 1, end))))
        (left, right), (top, bottom) = corners
        mask[top:bottom, left:right] = label
        boxes.append((left, top, right, bottom))
        labels.append(label)
        ignored.append(draw(st.booleans()))
    objects = Objects(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(ignored, bool))
    return Sample("scene", places(width, height), mask=mask, objects=objects)


def tight(mask, label):
    """The box of the pixels of a value, or None where there are none."""
    rows, columns = np.nonzero(mask == label)
    if len(rows) == 0:
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_same(one, other):
    assert one.picture.size == other.picture.size
    assert one.picture.tobytes() == other.picture.tobytes()
    np.testing.assert_array_equal(one.mask, other.mask)
    for name in ("boxes", "labels", "ignored"):
        np.testing.assert_array_equal(getattr(one.objects, name), getattr(other.objects, name))


def pixels(box, shape):
    """Where a box lies, pixel by pixel."""
    left, top, right, bottom = (int(value) for value in box)
    where = np.zeros(shape, bool)
    where[top:bottom, left:right] = True
    return where


# --- what holds for every transform


def magnification(transform, before, after):
    """How many times as long as in the picture before something can be in the picture after, at most."""
    if isinstance(transform, RandomResizedCrop):
        least = math.sqrt(math.prod(before) * transform.scale[0] * transform.ratio[0]) - 0.5
        return max(new / min(old, least) for old, new in zip(before, after, strict=True))
    if isinstance(transform, RandomScale | Resize):
        return max(new / old for old, new in zip(before, after, strict=True))
    return 1


@many
@given(scenes(), st.lists(transforms, min_size=1, max_size=4), seeds)
def test_boxes_stay_around_the_regions_of_the_mask(sample, chain, rng):
    ignored = dict(zip(sample.objects.labels, sample.objects.ignored, strict=True))
    label_set, tolerance = set(ignored), 0.0
    for transform in chain:
        before = sample.picture.size
        sample = transform(sample, rng)
        width, height = sample.picture.size
        if hasattr(transform, "size"):
            assert (height, width) == transform.size
        assert sample.picture.mode == "RGB"
        assert (sample.mask.shape, sample.mask.dtype) == ((height, width), np.uint8)
        assert set(np.unique(sample.mask)) <= {0, *ignored, IGNORED}

        boxes, labels = sample.objects.boxes, sample.objects.labels
        assert (boxes.dtype, boxes.shape) == (np.float32, (len(labels), 4))
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= (width, height)).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-4).all()
        assert set(labels) <= label_set
        assert len(set(labels)) == len(labels)
        assert [ignored[label] for label in labels] == list(sample.objects.ignored)
        label_set = set(labels)

        resized = isinstance(transform, RandomResizedCrop | RandomScale | Resize)
        tolerance = tolerance * magnification(transform, before, (width, height)) + (0.501 if resized else 0)
        for label, box in zip(labels, boxes, strict=True):
            region = tight(sample.mask, label)
            if region is None:
                assert min(box[2:] - box[:2]) <= 1 + 2 * tolerance
            else:
                np.testing.assert_allclose(box, region, rtol=0, atol=tolerance)


@given(sizes, sizes, seeds, st.sampled_from(["flip", "part", "scale", "crop", "ssd", "expand", "resize"]))
def test_picture_and_mask_show_the_same_places(size, new, rng, name):
    height, width = size
    transform = {
        "flip": RandomFlip(p=1),
        "part": RandomResizedCrop(new, scale=(0.1, 1)),
        "scale": RandomScale(),
        "crop": RandomCrop(new),
        "ssd": SSDCrop(),
        "expand": Expand(p=1),
        "resize": Resize(new),
    }[name]
    objects = Objects(np.array([[0, 0, width / 2, height]], np.float32), np.array([1]), np.array([False]))
    state = rng.bit_generator.state
    for channel, axis in ((0, 1), (1, 0)):
        rng.bit_generator.state = state
        mask = np.indices((height, width))[axis].astype(np.uint8)
        made = transform(Sample("places", places(width, height), mask=mask, objects=objects), rng)
        shown = np.asarray(made.picture).astype(float)
        outside = made.mask == IGNORED
        assert (shown[outside] == MEAN_COLOUR).all()
        # A pixel of the mask is that of the source whose centre is nearest; levels are rounded twice.
        finest = size[axis] / made.mask.shape[axis] if name in ("part", "scale", "resize") else 0
        away = np.abs(shown[..., channel] / LEVELS - made.mask)[~outside]
        assert away.max(initial=0) <= (0.25 + max(1, finest) / 2 if finest else 0)


@few
@given(scenes(), st.lists(transforms, max_size=4), st.integers(0, 2**32 - 1))
def test_all_chance_comes_from_the_generator(sample, chain, seed):
    transform, whole = Compose(tuple(chain)), pickle.dumps(sample)
    others = [random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()]
    made = transform(sample, np.random.default_rng(seed))
    assert others == [random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state().tolist()]
    assert_same(sample, pickle.loads(whole))
    assert_same(made, pickle.loads(pickle.dumps(transform))(sample, np.random.default_rng(seed)))


@pytest.mark.parametrize(
    "transform",
    [
        RandomFlip(),
        RandomResizedCrop((16, 16)),
        RandomScale(),
        RandomCrop((8, 8)),
        Photometric(0.5, 0.5, 0.5, 0.5),
        SSDCrop(),
        Expand(),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_other_draws_give_other_samples(transform):
    box = np.array([[2, 2, 30, 20]], np.float32)
    sample = Sample("places", places(40, 30), objects=Objects(box, np.array([1]), np.array([False])))
    made = {transform(sample, np.random.default_rng(seed)).picture.tobytes() for seed in range(40)}
    assert len(made) >= (2 if isinstance(transform, RandomFlip) else 10)


@few
@given(scenes(), seeds)
def test_what_changes_nothing_changes_nothing(sample, rng):
    size = sample.picture.height, sample.picture.width
    for transform in (
        Compose(()),
        Compose((RandomFlip(p=1), RandomFlip(p=1))),
        RandomFlip(p=0),
        Resize(size),
        RandomResizedCrop(size, scale=(1, 1)),
        RandomScale(1, 1),
        RandomCrop(size),
        Expand(most=1, p=1),
        Expand(p=0),
        SSDCrop(overlaps=(None,)),
        Photometric(p=1),
        Photometric(1, 1, 1, 0.5, p=0),
    ):
        assert_same(transform(sample, rng), sample)


def test_a_label_and_labels_stay_and_what_is_not_there_stays_away():
    labels = np.array([True, False])
    chain = Compose(
        (Photometric(0.1, 0.1, 0.1, 0.1), Expand(), SSDCrop(), RandomScale(), RandomCrop((9, 9)), RandomFlip(p=1))
    )
    made = chain(Sample("x", places(20, 10), label=3, labels=labels), np.random.default_rng(0))
    assert (made.name, made.label, made.mask, made.objects) == ("x", 3, None, None)
    assert made.labels is labels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resize((0, 3)), "size=(0, 3): must be a height and a width of at least 1"),
        (lambda: RandomCrop((3,)), "size=(3,): must be a height and a width of at least 1"),
        (lambda: RandomResizedCrop((2**14, 2**14)), "size=(16384, 16384): must be at most 67,108,864 pixels in all"),
        (lambda: RandomResizedCrop((8, 8), scale=(0, 1)), "scale=(0, 1): must be two numbers, 0 < low <= high <= 1"),
        (lambda: RandomResizedCrop((8, 8), scale=(0.5, 2)), "scale=(0.5, 2): must be two numbers, 0 <"),
        (lambda: RandomResizedCrop((8, 8), ratio=(2, 1)), "ratio=(2, 1): must be two finite numbers, 0 < low <= high"),
        (lambda: RandomResizedCrop((8, 8), ratio=(1, math.inf)), "ratio=(1, inf): must be two finite numbers"),
        (lambda: RandomScale(0), "low=0, high=2.0: must be 0 < low <= high <= 100"),
        (lambda: RandomScale(1, math.nan), "low=1, high=nan: must be 0 < low <= high <= 100"),
        (lambda: RandomScale(2, 1), "low=2, high=1: must be 0 < low <= high <= 100"),
        (lambda: RandomFlip(p=1.5), "p=1.5: must be from 0 to 1"),
        (lambda: RandomFlip(p=math.nan), "p=nan: must be from 0 to 1"),
        (lambda: Photometric(brightness=-0.1), "brightness=-0.1: must be from 0 to 1"),
        (lambda: Photometric(contrast=2), "contrast=2: must be from 0 to 1"),
        (lambda: Photometric(saturation=math.nan), "saturation=nan: must be from 0 to 1"),
        (lambda: Photometric(hue=0.6), "hue=0.6: must be from 0 to 0.5"),
        (lambda: Photometric(p=-1), "p=-1: must be from 0 to 1"),
        (lambda: Expand(most=0.5), "most=0.5: must be from 1 to 100"),
        (lambda: Expand(most=math.inf), "most=inf: must be from 1 to 100"),
        (lambda: Expand(p=2), "p=2: must be from 0 to 1"),
        (lambda: SSDCrop(overlaps=()), "overlaps=(): must hold at least one"),
        (lambda: SSDCrop(overlaps=(None, 1.1)), "overlaps=1.1: must be from 0 to 1"),
        (lambda: SSDCrop(trials=0), "trials=0: must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# --- crops


@few
@given(scenes(st.integers(8, 15), st.integers(8, 15)), st.tuples(st.integers(1, 25), st.integers(1, 25)), seeds)
def test_a_random_crop_is_what_indexing_gives(scene, size, rng):
    height, width = scene.mask.shape
    numbers = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    made = RandomCrop(size)(replace(scene, mask=numbers), rng)
    row, column = np.argwhere(made.mask != IGNORED)[0]
    top, left = np.array(divmod(int(made.mask[row, column]), width)) - (row, column)
    for start, own, new in ((top, height, size[0]), (left, width, size[1])):
        assert min(0, own - new) <= start <= max(0, own - new)

    around = 30
    cut = np.s_[around + top : around + top + size[0], around + left : around + left + size[1]]
    np.testing.assert_array_equal(made.mask, np.pad(numbers, around, constant_values=IGNORED)[cut])
    for channel, colour in enumerate(MEAN_COLOUR):
        values = np.asarray(scene.picture)[..., channel]
        expected = np.pad(values, around, constant_values=colour)[cut]
        np.testing.assert_array_equal(np.asarray(made.picture)[..., channel], expected)
    shown = np.pad(scene.mask, around)[cut]
    stays = [label for label in scene.objects.labels if 4 * (shown == label).sum() >= (scene.mask == label).sum()]
    assert list(made.objects.labels) == stays
    for label, box in zip(made.objects.labels, made.objects.boxes, strict=True):
        np.testing.assert_array_equal(box, tight(shown, label))


def test_an_object_goes_where_less_than_a_quarter_of_it_is_left():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3.9], [1, 1, 3, 3]], np.float32)
    objects = Objects(boxes, np.array([1, 2, 3]), np.zeros(3, bool))
    made = crop(Sample("x", places(9, 9), objects=objects), (2, 2, 9, 9)).objects
    assert made.labels.tolist() == [1, 3]
    assert made.boxes.tolist() == [[0, 0, 2, 2], [0, 0, 1, 1]]


def test_a_random_crop_comes_from_everywhere():
    sample = Sample("dots", places(3, 2), mask=np.arange(6, dtype=np.uint8).reshape(2, 3))
    rng = np.random.default_rng(0)
    assert {int(RandomCrop((1, 1))(sample, rng).mask[0, 0]) for _ in range(100)} == set(range(6))
    where = {tuple(np.argwhere(RandomCrop((3, 4))(sample, rng).mask == 0)[0]) for _ in range(100)}
    assert where == {(0, 0), (0, 1), (1, 0), (1, 1)}


def part_shown(transform, width, height, rng):
    """Width and height of the part of a picture that a transform shows, larger than it was."""
    sample = Sample("places", places(width, height))
    shown = []
    state = rng.bit_generator.state
    for axis in (1, 0):
        rng.bit_generator.state = state
        mask = np.indices((height, width))[axis].astype(np.uint8)
        shown.append(len(np.unique(transform(replace(sample, mask=mask), rng).mask)))
    return shown


@few
@given(st.integers(30, 60), st.integers(30, 60), seeds)
def test_a_resized_crop_has_the_area_and_the_shape_that_are_asked_for(width, height, rng):
    transform = RandomResizedCrop((60, 60), scale=(0.2, 0.5), ratio=(1.2, 3))
    across, down = part_shown(transform, width, height, rng)
    slack = 1 + 1 / min(across, down)
    if (across, down) != (width, height):
        assert 0.2 / slack <= across * down / (width * height) <= 0.5 * slack
        assert 1.2 / slack <= across / down <= 3 * slack


def test_a_long_picture_is_taken_whole_where_no_crop_fits():
    for scale in ((0.9, 1), (1, 1)):
        rng = np.random.default_rng(0)
        assert part_shown(RandomResizedCrop((60, 60), scale=scale), 60, 2, rng) == [60, 2]


def test_a_random_scale_is_between_its_ends_and_keeps_the_shape():
    sample, rng = Sample("places", places(60, 30)), np.random.default_rng(0)
    made = [RandomScale(0.5, 2)(sample, rng).picture.size for _ in range(200)]
    assert 30 <= min(width for width, _ in made) < 40
    assert 110 < max(width for width, _ in made) <= 120
    assert all(abs(width - 2 * height) <= 1 for width, height in made)
    assert RandomScale(0.001, 0.001)(sample, rng).picture.size == (1, 1)


# --- SSD's variations


@many
@given(scenes(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9]), seeds)
def test_an_ssd_crop_shows_what_it_promises(scene, least, rng):
    made = SSDCrop(overlaps=(least,))(scene, rng)
    width, height = made.picture.size
    if made is scene:
        return
    left, top = (value // LEVELS for value in made.picture.getpixel((0, 0))[:2])
    window = (left, top, left + width, top + height)
    np.testing.assert_array_equal(np.asarray(made.picture), np.asarray(scene.picture.crop(window)))
    shape, part = scene.mask.shape, pixels(window, scene.mask.shape)
    shares = width / shape[1], height / shape[0]
    rounding = 0.5 / min(shape)
    assert min(shares) >= 0.3 / math.sqrt(2) - rounding
    assert max(shares) <= 2 * (min(shares) + rounding) + rounding

    stays, best = {}, -1.0
    for box, label, ignored in zip(scene.objects.boxes, scene.objects.labels, scene.objects.ignored, strict=True):
        if left <= (box[0] + box[2]) / 2 < window[2] and top <= (box[1] + box[3]) / 2 < window[3]:
            own = pixels(box, shape)
            stays[label] = np.clip(box - (left, top, left, top), 0, (width, height, width, height))
            best = best if ignored else max(best, (own & part).sum() / (own | part).sum())
    assert best >= least - 1e-6
    assert list(made.objects.labels) == list(stays)
    np.testing.assert_array_equal(made.objects.boxes, np.array(list(stays.values())))


def test_an_ssd_crop_is_found_where_there_is_one():
    box = np.array([[10, 5, 45, 35]], np.float32)
    sample = Sample("large", places(60, 40), objects=Objects(box, np.array([1]), np.array([False])))
    for least, fewest in ((0.0, 50), (0.3, 50), (0.5, 50), (0.7, 25)):  # of 0.7 fifty trials may hold none
        made = [SSDCrop(overlaps=(least,))(sample, np.random.default_rng(seed)) for seed in range(50)]
        assert sum(one is not sample for one in made) >= fewest, least
    assert all(SSDCrop(overlaps=(1.0, None))(sample, np.random.default_rng(seed)) is sample for seed in range(10))
    whole = sum(SSDCrop()(sample, np.random.default_rng(seed)) is sample for seed in range(300))
    assert 20 <= whole <= 80  # a seventh, and what is not found


def test_an_ssd_crop_keeps_an_object_however_little_of_it_is_left():
    box = np.array([[0, 0, 60, 40]], np.float32)
    sample = Sample("large", places(60, 40), objects=Objects(box, np.array([1]), np.array([False])))
    transform, left = SSDCrop(overlaps=(0.0,)), []
    for seed in range(50):
        made = transform(sample, np.random.default_rng(seed))
        assert made.objects.boxes.tolist() == [[0, 0, *made.picture.size]]
        left.append(made.picture.width * made.picture.height / 2400)
    assert min(left) < 0.2


@pytest.mark.parametrize("count", [0, 2])
def test_a_picture_without_objects_that_count_stays_whole(count):
    objects = Objects(np.full((count, 4), (1, 1, 9, 9), np.float32), np.ones(count, np.int64), np.ones(count, bool))
    for sample in (Sample("x", places(20, 10), objects=objects), Sample("x", places(20, 10))):
        assert SSDCrop(overlaps=(0.0, 0.5))(sample, np.random.default_rng(0)) is sample


@few
@given(scenes(), seeds)
def test_an_expanded_picture_lies_whole_on_the_mean_colour(scene, rng):
    made = Expand(p=1)(scene, rng)
    width, height = scene.picture.size
    for own, new in zip(scene.picture.size, made.picture.size, strict=True):
        assert own <= new <= 4 * own
    rows, columns = np.nonzero(made.mask != IGNORED)
    top, left = rows.min(), columns.min()
    inside = np.s_[top : top + height, left : left + width]
    np.testing.assert_array_equal(made.mask[inside], scene.mask)
    np.testing.assert_array_equal(np.asarray(made.picture)[inside], np.asarray(scene.picture))
    np.testing.assert_array_equal(made.objects.boxes, scene.objects.boxes + np.float32([left, top, left, top]))
    around = np.asarray(made.picture).reshape(-1, 3)[(made.mask == IGNORED).ravel()]
    assert (around == MEAN_COLOUR).all()
    assert len(around) + width * height == made.mask.size


@pytest.mark.parametrize("size", [(5000, 4000), (3000, 2000)])
def test_the_canvas_of_a_photograph_fits_into_memory(size):
    made = Expand(p=1)(Sample("large", Image.new("RGB", size)), np.random.default_rng(2)).picture
    assert size[0] * size[1] <= made.width * made.height <= max(2**24, size[0] * size[1])


class Fixed:
    """A generator that draws the same all the time, and the highest of a range."""

    def __init__(self, drawn):
        self.drawn = drawn

    def random(self):
        return self.drawn

    def uniform(self, low, high):
        return high


@pytest.mark.parametrize("drawn", [0.1, 0.9])
def test_contrast_comes_before_or_after_the_colours(drawn):
    sample = Sample("noise", Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)))
    changes = [(ImageEnhance.Brightness, 1.2), (ImageEnhance.Color, 1.7)]
    changes.insert(1 if drawn < 0.5 else 2, (ImageEnhance.Contrast, 1.5))
    expected = sample.picture
    for enhancer, factor in changes:
        expected = enhancer(expected).enhance(factor)
    made = Photometric(brightness=0.2, contrast=0.5, saturation=0.7, p=1)(sample, Fixed(drawn))
    assert made.picture.tobytes() == expected.tobytes()


@few
@given(seeds)
def test_brightness_contrast_and_saturation_change_that_alone(rng):
    values = rng.integers(60, 160, (6, 6, 3), dtype=np.uint8)
    sample = Sample("noise", Image.fromarray(values))
    bright = np.asarray(Photometric(brightness=0.4, p=1)(sample, rng).picture) / values
    assert np.ptp(bright) < 2 / 60
    assert 0.6 - 1 / 60 <= bright.mean() <= 1.4
    grey = [np.asarray(Image.fromarray(values).convert("L")).astype(float)]
    for transform in (Photometric(contrast=0.4, p=1), Photometric(saturation=0.4, p=1)):
        grey.append(np.asarray(transform(sample, rng).picture.convert("L")).astype(float))
    assert abs(grey[1].mean() - grey[0].mean()) <= 2
    spread = grey[1].std() / grey[0].std()
    assert 0.55 <= spread <= 1.45
    assert np.abs(grey[2] - grey[0]).max() <= 3


@few
@given(st.tuples(*[st.integers(0, 255)] * 3).filter(lambda colour: np.ptp(colour) >= 100), seeds)
def test_hue_is_turned_and_nothing_else(colour, rng):
    sample = Sample("plain", Image.new("RGB", (1, 1), colour))
    made = Photometric(hue=0.1, p=1)(sample, rng).picture.getpixel((0, 0))
    before, after = (colorsys.rgb_to_hsv(*(value / 255 for value in rgb)) for rgb in (colour, made))
    turned = (after[0] - before[0] + 0.5) % 1 - 0.5
    assert abs(turned) <= 0.1 + 0.02
    np.testing.assert_allclose(after[1:], before[1:], rtol=0, atol=0.03)


def test_hue_is_turned_both_ways_and_so_far():
    sample, hues = Sample("red", Image.new("RGB", (1, 1), (200, 40, 40))), []
    for seed in range(100):
        made = Photometric(hue=0.1, p=1)(sample, np.random.default_rng(seed)).picture.getpixel((0, 0))
        hues.append((colorsys.rgb_to_hsv(*made)[0] + 0.5) % 1 - 0.5)
    assert -0.11 < min(hues) < -0.08
    assert 0.08 < max(hues) < 0.11


@pytest.mark.parametrize("transform", [RandomFlip(p=0.3), Expand(p=0.3), Photometric(brightness=1, p=0.3)])
def test_probabilities_are_kept(transform):
    sample, rng = Sample("places", places(10, 8)), np.random.default_rng(0)
    changed = sum(transform(sample, rng).picture.tobytes() != sample.picture.tobytes() for _ in range(1000))
    assert 250 <= changed <= 350


# --- tensors


@few
@given(scenes(), st.tuples(*[st.floats(0.1, 0.9)] * 3), st.tuples(*[st.floats(0.1, 0.9)] * 3))
def test_a_training_input_is_what_evaluation_makes_of_the_picture(scene, mean, std):
    sample = replace(scene, objects=None)
    for transform in (Resize((20, 30)), RandomResizedCrop((20, 30), scale=(1, 1))):
        resized = transform(sample, np.random.default_rng(0))
        image, _ = as_tensors(resized, mean, std)
        assert image.dtype == torch.float32
        assert torch.equal(image, Preprocessing((20, 30), mean=mean, std=std)(scene.picture))
        assert torch.equal(as_tensors(resized)[0], Preprocessing((20, 30))(scene.picture))


def test_each_task_has_its_target():
    mask = np.array([[0, IGNORED, 2], [1, 1, 0]], np.uint8)
    expected = {
        "label": (3, torch.tensor(3)),
        "labels": (np.array([True, False, True]), torch.tensor([1.0, 0.0, 1.0])),
        "mask": (mask, torch.tensor([[0, 255, 2], [1, 1, 0]])),
    }
    for name, (value, target) in expected.items():
        made = as_tensors(Sample("x", places(3, 2), **{name: value}))[1]
        assert made.dtype == target.dtype
        assert torch.equal(made, target)
    mask[:] = 9
    assert torch.equal(made, target)


def test_a_sample_has_one_target():
    with pytest.raises(
        ValueError, match=r"sample 'x' has nothing to find in it: must have one of label, labels, mask"
    ):
        as_tensors(Sample("x", places(3, 2)))
    with pytest.raises(ValueError, match=r"sample 'x' has label and mask: must have one of label, labels, mask"):
        as_tensors(Sample("x", places(3, 2), label=1, mask=np.zeros((2, 3), np.uint8)))


@few
@given(scenes(), st.lists(transforms, max_size=3), seeds)
def test_ignored_objects_reach_no_target_and_all_targets_are_good(scene, chain, rng):
    ignored = set(scene.objects.labels[scene.objects.ignored])
    counted = set(scene.objects.labels) - ignored
    image, target = as_tensors(replace(Compose(tuple(chain))(scene, rng), mask=None))
    assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
    assert set(target["labels"].tolist()) <= counted
    check_targets([target], [(image.shape[1], image.shape[2])], num_classes=5)


def test_objects_that_count_reach_the_target():
    boxes = np.array([[0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6]], np.float32)
    objects = Objects(boxes, np.array([3, 2, 1]), np.array([False, True, False]))
    target = as_tensors(Sample("x", places(8, 8), objects=objects))[1]
    assert target["labels"].tolist() == [3, 1]
    assert target["boxes"].tolist() == boxes[[0, 2]].tolist()


# --- MixUp


@few
@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.01, 100), seeds)
def test_mixup_blends_pictures_and_targets_alike(count, classes, alpha, rng):
    targets = torch.from_numpy(rng.dirichlet(np.ones(classes), count)).float()
    images = targets[:, :, None, None].expand(count, classes, 2, 3)
    state = rng.bit_generator.state
    mixed, blended = mixup(images, targets, alpha, rng)
    assert (mixed.shape, mixed.dtype, blended.dtype) == (images.shape, torch.float32, torch.float32)
    np.testing.assert_allclose(mixed, blended[:, :, None, None].expand_as(mixed), rtol=1e-5)
    np.testing.assert_allclose(blended.sum(dim=1), torch.ones(count), rtol=1e-5)
    assert (blended >= 0).all()
    # Every picture is one of a pair once, so the batch as a whole has what it had.
    np.testing.assert_allclose(blended.sum(dim=0), targets.sum(dim=0), rtol=1e-5)
    rng.bit_generator.state = state
    assert torch.equal(mixup(images, targets, alpha, rng)[1], blended)


def test_the_blend_follows_the_beta_distribution():
    rng, shares = np.random.default_rng(0), []
    while len(shares) < 2000:
        share = mixup(torch.zeros(2, 1), torch.eye(2), 0.4, rng)[1][0]
        shares += [] if share[0] == 1 else [share[0].item()]  # with itself
    assert abs(np.mean(shares) - 0.5) < 0.04
    assert abs(np.var(shares) - 0.25 / 1.8) < 0.01


@pytest.mark.parametrize(
    ("targets", "alpha", "message"),
    [
        (torch.tensor([0, 1]), 0.2, "targets of shape (2,) and type torch.int64: must be (2, classes)"),
        (torch.eye(2).long(), 0.2, "targets of shape (2, 2) and type torch.int64: must be (2, classes)"),
        (torch.eye(3), 0.2, "targets of shape (3, 3) and type torch.float32: must be (2, classes)"),
        (torch.eye(2), 0.0, "alpha=0.0: must be finite and above 0"),
        (torch.eye(2), math.nan, "alpha=nan: must be finite and above 0"),
    ],
)
def test_what_cannot_be_blended_is_refused(targets, alpha, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        mixup(torch.zeros(2, 3, 4, 4), targets, alpha, np.random.default_rng(0))
