import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from vision.answers import Classification, Detections, Segmentation
from vision.batch import Answered, Failure, answer_files
from vision.datasets import CITYSCAPES, COCO, IMAGENET, VOC, Dataset, numbered
from vision.predictor import Predictor, load_predictor
from vision.preprocessing import Preprocessing
from vision.pretrained import save_weights
from vision.registry import create_model, list_models


class Says(nn.Module):
    """A model that gives what it is told to, whatever it sees."""

    def __init__(self, output):
        super().__init__()
        self.output, self.seen = output, None
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.seen = x
        return self.output


def predictor(output, dataset, size=(4, 6), **options):
    return Predictor(Says(output), Preprocessing(size), dataset, **options)


def picture(width=60, height=40):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def probabilities(logits):
    exponentials = np.exp(np.asarray(logits, dtype=np.float64) - max(logits))
    return exponentials / exponentials.sum()


@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=12), st.integers(1, 15))
def test_the_likeliest_classes_come_first(logits, top_k):
    answer = predictor(torch.tensor([logits]), numbered(len(logits)), top_k=top_k)(picture())
    assert isinstance(answer, Classification)
    indices = [int(label.removeprefix("class ")) for label in answer.labels]
    expected = probabilities(logits)
    assert len(set(indices)) == len(indices) == min(top_k, len(logits))
    np.testing.assert_allclose(answer.probabilities, expected[indices], rtol=1e-4)
    np.testing.assert_allclose(answer.probabilities, np.sort(expected)[::-1][: len(indices)], rtol=1e-4)


@pytest.mark.parametrize(("threshold", "expected"), [(None, ["class 2", "class 0"]), (0.9, ["class 2"]), (0.99, [])])
def test_several_labels_are_those_above_the_threshold(threshold, expected):
    asked = predictor(torch.tensor([[0.1, -0.1, 3.0, -9.0]]), numbered(4), threshold=threshold)
    asked.model.multi_label = True
    answer = asked(picture())
    assert list(answer.labels) == expected
    sigmoids = {"class 2": 1 / (1 + np.exp(-3.0)), "class 0": 1 / (1 + np.exp(-0.1))}
    np.testing.assert_allclose(answer.probabilities, [sigmoids[label] for label in expected], rtol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.randoms(use_true_random=False))
def test_the_mask_is_that_of_the_network_at_the_pictures_size(width, height, random):
    classes = torch.tensor([[random.randrange(21) for _ in range(6)] for _ in range(4)])
    logits = nn.functional.one_hot(classes, 21).permute(2, 0, 1)[None].float()
    answer = predictor({"out": logits}, VOC)(picture(width, height))
    assert isinstance(answer, Segmentation)
    # The pixel that the centre of the picture's pixel falls into; of two where it falls between them, either.
    found, fits = answer.mask, np.zeros((height, width), dtype=bool)
    for nudge in itertools.product((-1e-6, 1e-6), repeat=2):
        rows = [int((y + 0.5) * 4 / height + nudge[0]) for y in range(height)]
        columns = [int((x + 0.5) * 6 / width + nudge[1]) for x in range(width)]
        fits |= found == classes.numpy()[np.ix_(rows, columns)]
    assert fits.all()
    counted = {VOC.categories[i]: 100 * (found == i).mean() for i in range(21) if (found == i).any()}
    assert answer.shares == pytest.approx(counted)
    assert list(answer.shares.values()) == sorted(answer.shares.values(), reverse=True)


@pytest.mark.parametrize(("threshold", "share"), [(None, 75.0), (0.9, 25.0)])
def test_one_class_is_told_from_the_background(threshold, share):
    crack = Dataset("cracks", "Cracks in walls", ("crack",))
    logits = torch.tensor([[[[4.0, 1.0], [1.0, -1.0]]]])
    answer = predictor({"out": logits}, crack, (2, 2), threshold=threshold)(picture(2, 2))
    np.testing.assert_array_equal(answer.mask, [[1, threshold is None], [threshold is None, 0]])
    assert answer.shares == {"crack": share, "background": 100 - share}
    assert answer.dataset.categories == ("background", "crack")


def test_more_classes_than_a_byte_can_tell_apart():
    logits = torch.zeros(1, 300, 2, 2)
    logits[0, 299, 0] = logits[0, 7, 1] = 1
    answer = predictor({"out": logits}, numbered(300), (2, 2))(picture(2, 2))
    np.testing.assert_array_equal(answer.mask, [[299, 299], [7, 7]])


FOUND = {
    "boxes": torch.tensor([[0.0, 1.0, 3.0, 4.0], [-1.0, 2.0, 6.5, 4.0], [1.0, 1.0, 2.0, 2.0]]),
    "labels": torch.tensor([15, 8, 12]),
    "scores": torch.tensor([0.9, 0.301, 0.299]),
}


@pytest.mark.parametrize(("threshold", "count"), [(None, 2), (0.0, 3), (0.5, 1), (1.0, 0)])
def test_boxes_are_in_pixels_of_the_picture(threshold, count):
    answer = predictor([FOUND], VOC, threshold=threshold)(picture(60, 20))  # of a network that sees 6x4
    assert isinstance(answer, Detections)
    expected = [(0, 5, 30, 20), (0, 10, 60, 20), (10, 5, 20, 10)]
    assert [tuple(box) for box in answer.boxes] == expected[:count]
    assert answer.labels == ("person", "cat", "dog")[:count]
    np.testing.assert_allclose(answer.scores, [0.9, 0.301, 0.299][:count], rtol=1e-6)


def test_the_model_sees_the_prepared_picture_in_its_own_type_and_is_not_training():
    asked = predictor(torch.zeros(1, 3), numbered(3))
    asked.model.double()
    asked(picture())
    assert (asked.model.training, asked.model.seen.dtype) == (False, torch.float64)
    assert not asked.model.seen.requires_grad
    np.testing.assert_array_equal(asked.model.seen[0], Preprocessing((4, 6))(picture()))


def test_answers_in_words():
    seen, mask = picture(), np.zeros((1, 1), dtype=np.uint8)
    assert Classification(seen, ("tabby", "lynx"), (0.912, 0.05)).describe() == "tabby 91.2%, lynx 5.0%"
    assert Classification(seen, (), ()).describe() == "nothing"
    shares = {"person": 41.84, "background": 58.16}
    assert Segmentation(seen, mask, shares, VOC).describe() == "person 41.8%, background 58.2%"
    boxes = Detections(seen, ((1.4, 2.0, 30.6, 40.0),), ("cat",), (0.98,), VOC)
    assert boxes.describe() == "cat 98.0% at (1, 2, 31, 40)"
    assert Detections(seen, (), (), (), VOC).describe() == "nothing"


def test_from_a_file_to_its_overlay_in_one_line(tmp_path):
    picture(90, 70).save(tmp_path / "in.png")
    asked = load_predictor("espnetv2_050_seg_voc", None, size=(64, 96))
    written = asked(tmp_path / "in.png").save(tmp_path / "new" / "out.png")
    assert written == (tmp_path / "new" / "out.png", tmp_path / "new" / "out.mask.png")
    for path, drawn in zip(written, asked(picture(90, 70)).render().values(), strict=True):
        with Image.open(path) as saved:
            np.testing.assert_array_equal(saved, drawn)
    with pytest.raises(ValueError, match=r"nowhere\.png: no such file"):
        asked(str(tmp_path / "nowhere.png"))
    with pytest.raises(ValueError, match=r"out\.jpg': must end in \.png"):
        asked(tmp_path / "in.png").save(tmp_path / "out.jpg")


@pytest.mark.parametrize("dataset", [VOC, CITYSCAPES])
def test_an_overlay_leaves_the_background_as_it_is(dataset):
    scene, background = picture(30, 20), dataset.categories.index("background")
    mask = np.full((20, 30), background, dtype=np.uint8)
    mask[:, 20:] = 3
    rendered = Segmentation(scene, mask, {}, dataset).render()
    assert list(rendered) == [".png", ".mask.png"]
    changed = (np.asarray(rendered[".png"]) != np.asarray(scene)).any(axis=2)
    assert not changed[:, :19].any()
    assert changed[:, 20:].mean() > 0.95


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (torch.zeros(1, 20), "PASCAL VOC 2012 has 21 categories, the model 20 outputs"),
        ({"out": torch.zeros(1, 22, 4, 6)}, "has 21 categories, the model 22 outputs"),
        ([FOUND | {"labels": torch.tensor([1, 21, 2])}], "has 21 categories, the model found 21"),
    ],
)
def test_outputs_that_say_nothing(output, said):
    with pytest.raises(ValueError, match=said):
        predictor(output, VOC)(picture())


@pytest.mark.parametrize("output", [torch.full((1, 21), torch.nan), {"out": torch.full((1, 21, 4, 6), torch.inf)}])
def test_an_answer_that_is_not_finite_fails_for_its_picture_alone(output, tmp_path):
    with pytest.raises(ArithmeticError, match="not finite"):
        predictor(output, VOC)(picture())
    for name in ("a", "b"):
        picture().save(tmp_path / f"{name}.png")
    found = list(answer_files(predictor(output, VOC), [tmp_path]))
    assert [type(each) for each in found] == [Failure, Failure]
    assert all(str(each.path) in each.reason and "not finite" in each.reason for each in found)


@pytest.mark.parametrize("size", [(31, 200), (200, 31), (1, 1)])
def test_a_picture_too_small_fails_alone(size, tmp_path):
    picture(*size).save(tmp_path / "a.png")
    picture(32, 32).save(tmp_path / "b.png")
    failed, answered = answer_files(predictor(torch.zeros(1, 21), VOC), [tmp_path])
    assert failed.reason == (
        f"{failed.path}: too small, {size[1]}x{size[0]} (height x width): a side must have 32 pixels"
    )
    assert isinstance(answered, Answered)


def test_a_threshold_leaves_unlikely_labels_out():
    logits = torch.zeros(1, 21)
    logits[0, 3] = 4.0
    answer = predictor(logits, VOC)(picture())
    assert len(answer.labels) == 5
    answer = Predictor(Says(logits), Preprocessing((4, 6)), VOC, threshold=0.3)(picture())
    assert answer.labels == (VOC.categories[3],)


@pytest.mark.parametrize("output", [{"out": torch.zeros(1, 21, 4, 6)}, [FOUND]])
def test_only_a_classifier_may_crop(output):
    asked = Predictor(Says(output), Preprocessing((4, 6), crop=0.875), VOC)
    with pytest.raises(ValueError, match=r"crops \(0.875\)"):
        asked(picture())


@pytest.mark.parametrize(
    ("options", "said"), [({"top_k": 0}, "top_k=0"), ({"threshold": 1.1}, "threshold=1.1"), ({"threshold": -1}, "=-1")]
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=said):
        predictor(torch.zeros(1, 3), numbered(3), **options)


USUAL = {
    "": (Preprocessing((224, 224), crop=0.875), IMAGENET),
    "_seg_voc": (Preprocessing((384, 384)), VOC),
    "_seg_city": (Preprocessing((512, 1024)), CITYSCAPES),
    "_ssd_voc": (Preprocessing((300, 300)), VOC),
    "_ssd_coco": (Preprocessing((300, 300)), COCO),
}


@pytest.mark.parametrize("suffix", USUAL)
def test_a_model_without_published_weights_is_used_as_its_kind_usually_is(suffix):
    asked = load_predictor(f"espnetv2_050{suffix}", None)
    assert (asked.preprocessing, asked.dataset) == USUAL[suffix]
    smaller = load_predictor(f"espnetv2_050{suffix}", None, size=(64, 96))
    assert smaller.preprocessing == Preprocessing((64, 96), crop=USUAL[suffix][0].crop)
    answer = smaller(picture(90, 70))
    kind = {"": Classification, "_seg": Segmentation, "_ssd": Detections}[suffix[:4]]
    assert type(answer) is kind


def test_there_is_a_usual_way_for_every_model():
    assert {re.sub(r"^espnetv2_\d+", "", name) for name in list_models()} == set(USUAL)


def test_a_detector_of_another_size_sees_pictures_of_that_size(tmp_path):
    save_weights(create_model("espnetv2_050_ssd_voc", size=(64, 96)), tmp_path / "mine.safetensors")
    asked = load_predictor("espnetv2_050_ssd_voc", tmp_path / "mine.safetensors")
    assert asked.preprocessing == Preprocessing((64, 96))


@pytest.mark.parametrize("suffix", ["", "_seg_voc", "_ssd_voc"])
def test_ones_own_weights_of_other_classes(tmp_path, suffix):
    torch.manual_seed(0)
    model = create_model(f"espnetv2_050{suffix}", num_classes=3)
    save_weights(model, tmp_path / "mine.safetensors")
    asked = load_predictor(
        f"espnetv2_050{suffix}", tmp_path / "mine.safetensors", num_classes=3, size=(64, 64), threshold=0.0
    )
    assert asked.dataset == numbered(3)
    direct = Predictor(model, asked.preprocessing, numbered(3), threshold=0.0)(picture())
    assert asked(picture()).as_dict() == direct.as_dict()
    # The file knows how many classes it has; who says otherwise is told.
    assert load_predictor(f"espnetv2_050{suffix}", tmp_path / "mine.safetensors").dataset == numbered(3)
    with pytest.raises(ValueError, match=re.escape("mine.safetensors")):
        load_predictor(f"espnetv2_050{suffix}", tmp_path / "mine.safetensors", num_classes=4)


PUBLISHED = "espnetv2_s_2.0_pascal_384x384.pth"


@pytest.mark.parametrize("num_classes", [1, 20, 22])
def test_published_weights_of_other_classes_answer_nothing(reference, num_classes):
    with pytest.raises(ValueError, match=f"num_classes={num_classes}: the weights .*384x384 tell 21 classes apart"):
        load_predictor("espnetv2_200_seg_voc", reference / "weights" / PUBLISHED, num_classes=num_classes)


@pytest.fixture(scope="module")
def segmenter(reference):
    return load_predictor("espnetv2_200_seg_voc", reference / "weights" / PUBLISHED)


@pytest.mark.parametrize(
    ("name", "label", "share"),
    [("astronaut", "person", 41.8), ("chelsea", "cat", 78.7), ("coffee", "diningtable", 100)],
)
def test_the_published_weights_find_the_person_the_cat_and_the_table(segmenter, tmp_path, name, label, share):
    data = pytest.importorskip("skimage.data", reason="needs the pictures of scikit-image")
    photograph = Image.fromarray(getattr(data, name)())
    photograph.save(tmp_path / "in.png")
    (found,) = answer_files(segmenter, [tmp_path / "in.png"], tmp_path / "out.png")
    assert (segmenter.preprocessing, segmenter.dataset) == (Preprocessing((384, 384)), VOC)
    assert found.answer.shares[label] == pytest.approx(share, abs=0.5)
    assert found.written == (tmp_path / "out.png", tmp_path / "out.mask.png")
    overlay, mask = (Image.open(path) for path in found.written)
    with overlay, mask:
        assert overlay.size == mask.size == photograph.size
        assert mask.mode == "P"
        index = VOC.categories.index(label)
        assert 100 * (np.asarray(mask) == index).mean() == pytest.approx(found.answer.shares[label])
        shown = np.unique(np.asarray(mask.convert("RGB")).reshape(-1, 3), axis=0)
        assert set(map(tuple, shown.tolist())) <= set(VOC.colours)
        # Under the legend and the outlines the overlay is something else: nearly everywhere it is the tint.
        where = np.asarray(mask) == index
        tint = (np.asarray(photograph, dtype=float)[where] + VOC.colours[index]) / 2
        off = np.abs(np.asarray(overlay, dtype=float)[where] - tint).max(axis=1)
        assert (off <= 1).mean() > 0.9


@pytest.fixture
def album(tmp_path):
    """A folder with two pictures that can be read, two that cannot, and something else."""
    folder = tmp_path / "album"
    folder.mkdir()
    for name in ("a.png", "d.jpg"):
        picture().save(folder / name)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "c.gif").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    return folder


def masks():
    return predictor(
        {"out": nn.functional.one_hot(torch.arange(24).view(4, 6) % 21).permute(2, 0, 1)[None].float()}, VOC
    )


def test_one_failure_does_not_stop_the_others(album, tmp_path):
    out = tmp_path / "made" / "here"
    outcomes = list(answer_files(masks(), [album, tmp_path / "none.png"], out))
    assert [outcome.path.name for outcome in outcomes] == ["a.png", "b.png", "c.gif", "d.jpg", "none.png"]
    assert [type(outcome) for outcome in outcomes] == [Answered, Failure, Failure, Answered, Failure]
    assert all(outcome.reason.startswith(f"{outcome.path}: ") for outcome in outcomes if type(outcome) is Failure)
    assert sorted(path.name for path in out.iterdir()) == ["a.mask.png", "a.png", "d.mask.png", "d.png"]
    with Image.open(out / "d.mask.png") as mask:
        np.testing.assert_array_equal(mask, outcomes[3].answer.mask)


def test_nothing_is_written_unless_asked_for(album):
    before = sorted(album.parent.rglob("*"))
    outcomes = [outcome for outcome in answer_files(masks(), [album]) if isinstance(outcome, Answered)]
    assert [outcome.written for outcome in outcomes] == [(), ()]
    assert sorted(album.parent.rglob("*")) == before


@pytest.mark.parametrize(("output", "dataset"), [(torch.zeros(1, 3), numbered(3)), ([FOUND], VOC)])
def test_labels_and_boxes_are_one_picture(album, tmp_path, output, dataset):
    (found,) = answer_files(predictor(output, dataset), [album / "a.png"], tmp_path / "x.PNG")
    assert found.written == (tmp_path / "x.PNG",)
    with Image.open(tmp_path / "x.PNG") as drawn:
        assert drawn.mode == "RGB"
        assert drawn.width >= 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album", "x.PNG"]


def test_a_folder_is_taken_for_a_single_picture_too(album, tmp_path):
    (tmp_path / "there.png").mkdir()
    for out in (tmp_path / "new", tmp_path / "there.png"):
        (found,) = answer_files(masks(), [album / "d.jpg"], out)
        assert found.written == (out / "d.png", out / "d.mask.png")


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
    names = ["x/cat.png", "x/cat.jpg", "y/cat.png", "y/CAT.bmp", "y/cat.mask.png", "y/cat-2.png"]
    files = [tmp_path / name for name in names]
    for index, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32 + index, 32)).save(file)
    outcomes = list(answer_files(masks(), files, tmp_path / "out"))
    written = [path for outcome in outcomes for path in outcome.written]
    assert len({str(path).casefold() for path in written}) == len(written) == 12
    for index, outcome in enumerate(outcomes):
        for path in outcome.written:
            with Image.open(path) as drawn:
                assert drawn.width == 32 + index


def test_an_input_is_never_overwritten(album, tmp_path):
    before = {path: path.read_bytes() for path in album.iterdir()}
    outcomes = list(answer_files(masks(), [album], album))
    assert [outcome.written[0].name for outcome in outcomes if isinstance(outcome, Answered)] == ["a-2.png", "d.png"]
    assert {path: path.read_bytes() for path in before} == before
    link = tmp_path / "link.png"
    link.symlink_to(album / "a.png")
    for out in (album / "a.png", album / ".." / "album" / "a.png", link):
        with pytest.raises(ValueError, match="would overwrite the picture itself"):
            list(answer_files(masks(), [album / "a.png"], out))
    picture().save(album / "e.mask.png")
    with pytest.raises(ValueError, match="would overwrite the picture itself"):
        list(answer_files(masks(), [album / "e.mask.png"], album / "e.png"))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("pictures", "out", "said"),
    [
        (["album"], "x.png", "must be a folder"),
        (["album/a.png", "album/d.jpg"], "x.png", "must be a folder"),
        (["single"], "x.png", "must be a folder"),
        (["album/a.png"], "x.jpg", "must end in .png, or be a folder"),
        (["album/a.png"], "album/notes.txt", "neither a .png nor a folder"),
    ],
)
def test_an_out_that_does_not_fit(album, tmp_path, pictures, out, said):
    (tmp_path / "single").mkdir()
    picture().save(tmp_path / "single" / "a.png")
    with pytest.raises(ValueError, match=rf"^out='.*{re.escape(Path(out).name)}'.*{re.escape(said)}"):
        list(answer_files(masks(), [tmp_path / name for name in pictures], tmp_path / out))


def test_an_answer_that_cannot_be_written_is_a_failure(album, tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    (outcome,) = answer_files(masks(), [album / "a.png"], tmp_path / "file" / "x.png")
    assert isinstance(outcome, Failure)
    assert re.match(rf"{re.escape(str(album))}/a.png: its answer cannot be written to .*x.png: ", outcome.reason)


def test_without_pillow_the_reason_is_said(album, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    for asks in (lambda: list(answer_files(masks(), [album])), lambda: masks()(album / "a.png")):
        with pytest.raises(ValueError, match=r"Pillow, which is not installed.*extra 'vision'"):
            asks()


def test_a_model_that_fits_nothing_stops_at_once(album):
    with pytest.raises(ValueError, match="22 outputs"):
        list(answer_files(predictor({"out": torch.zeros(1, 22, 4, 6)}, VOC), [album]))


def test_the_first_of_several_frames_is_marked(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "many.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "one.gif")
    outcomes = answer_files(masks(), [tmp_path / "many.gif", tmp_path / "one.gif"])
    assert [outcome.first_of_many for outcome in outcomes] == [True, False]
