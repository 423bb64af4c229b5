import importlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vision.pictures import open_picture
from vision.pretrained import save_weights
from vision.registry import create_model

SEEN = (
    r"each picture resized to .*48x64.*, normalised by the mean .*; [\d,.]+ ms a picture \([\d,.]+ pictures/s\) "
    "from picture to answer"
)
MODELS = {"classify": "espnetv2_050", "segment": "espnetv2_050_seg_voc", "detect": "espnetv2_050_ssd_voc"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """``weights(task)`` is a file of random weights, of 3 classes."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, (task, name) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        save_weights(create_model(name, num_classes=3), folder / f"{task}.safetensors")
    return lambda task: folder / f"{task}.safetensors"


@pytest.fixture
def album(tmp_path):
    """A folder with two pictures, a truncated one, an empty one, and something else."""
    folder = tmp_path / "album"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for name in ("a.png", "d.jpg"):
        Image.fromarray(noise).save(folder / name)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    (folder / "c.gif").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def predict(call, weights):
    """``predict(task, *arguments)`` uses that task's random model on inputs of 48 x 64."""

    def run(task, *arguments):
        model = (
            "--model",
            MODELS[task],
            "--weights",
            weights(task),
            "--num-classes=3",
            "--size=48x64",
            "--device=cpu",
        )
        return call("predict", *model, *arguments)

    return run


def test_a_classifier_answers_in_json(predict, album, weights):
    said = predict("classify", album / "a.png", "--top-k=2", "--json").json
    assert (said["model"], said["weights"], said["failures"]) == (MODELS["classify"], str(weights("classify")), [])
    (result,) = said["results"]
    assert (result["picture"], result["written"]) == (str(album / "a.png"), [])
    assert len(result["labels"]) == 2
    assert set(result["labels"]) < {"class 0", "class 1", "class 2"}
    assert result["milliseconds"] > 0
    assert said["preprocessing"]["size"] == [48, 64]
    assert 1 / 3 <= result["probabilities"][0] <= sum(result["probabilities"]) <= 1


def test_a_segmenter_draws_an_overlay_and_a_mask(predict, album, tmp_path):
    said = predict("segment", album / "a.png", "--out", tmp_path / "x.png", "--json").json
    (result,) = said["results"]
    assert result["written"] == [str(tmp_path / "x.png"), str(tmp_path / "x.mask.png")]
    assert sum(result["shares"].values()) == pytest.approx(100)
    with Image.open(tmp_path / "x.png") as overlay, Image.open(tmp_path / "x.mask.png") as mask:
        assert overlay.size == mask.size == (70, 50)
        shares = {f"class {i}": 100 * (np.asarray(mask) == i).mean() for i in range(3)}
    assert result["shares"] == pytest.approx({label: share for label, share in shares.items() if share})


def test_a_detector_reports_what_reaches_the_threshold(predict, album):
    found, none = (
        predict("detect", album / "a.png", f"--threshold={threshold}", "--json").json["results"][0]
        for threshold in (0, 1)
    )
    assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"]) > 0
    for left, top, right, bottom in found["boxes"]:
        assert 0 <= left <= right <= 70
        assert 0 <= top <= bottom <= 50
    assert {"boxes": [], "labels": [], "scores": []}.items() <= none.items()


def test_without_json_there_is_one_line_for_each_picture(predict, album):
    answer = predict("segment", album / "a.png", album / "d.jpg")
    assert answer.code == 0
    assert re.fullmatch(rf"{SEEN}\n", answer.err)
    for line, name in zip(answer.out.splitlines(), ("a.png", "d.jpg"), strict=True):
        assert re.fullmatch(rf"{re.escape(str(album / name))}: class \d [\d.]+%(, class \d [\d.]+%)*", line)


def test_a_folder_with_files_that_cannot_be_read(predict, album, tmp_path):
    answer = predict("segment", album, tmp_path / "none.png", "--out", tmp_path / "out", "--json")
    assert answer.code == 2
    assert len(answer.out.splitlines()) == 1
    said = json.loads(answer.out)
    assert [result["picture"] for result in said["results"]] == [str(album / "a.png"), str(album / "d.jpg")]
    failed = [str(album / "b.png"), str(album / "c.gif"), str(tmp_path / "none.png")]
    assert [failure["picture"] for failure in said["failures"]] == failed
    summary, *errors = answer.err.splitlines()
    assert summary == "3 of 5 pictures failed:"
    assert errors == [f"Error: {failure['reason']}" for failure in said["failures"]]
    for error, path in zip(errors, failed, strict=True):
        assert error.startswith(f"Error: {path}: ")
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_single_picture_that_cannot_be_read(predict, album):
    answer = predict("segment", album / "c.gif")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"Error: {album / 'c.gif'}: cannot be read: the file is empty\n"
    answer = predict("segment", album / "c.gif", "--json")
    assert (answer.code, json.loads(answer.out)["results"]) == (2, [])


def test_an_animation_is_noted(predict, tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "many.gif", save_all=True, append_images=frames[1:])
    answer = predict("classify", tmp_path / "many.gif", "--json")
    assert len(answer.json["results"]) == 1
    assert answer.err == f"note: {tmp_path / 'many.gif'} holds several pictures; the first one is used\n"


def test_the_published_weights_are_the_default(call, album, monkeypatch):
    asked = []

    def stop(*arguments, **options):
        asked.append((arguments, options))
        raise ValueError("asked")

    monkeypatch.setattr(sys.modules["eru_cli.predict"], "load_predictor", stop)
    assert call("predict", album, "--model=espnetv2_200", "--device=cpu").err == "Error: asked\n"
    call(
        "predict", album, "--model=m", "--weights=w", "--num-classes=4", "--size=20x30", "--top-k=2", "--threshold=.1"
    )
    usual = {"num_classes": None, "size": None, "device": "cpu", "top_k": 5, "threshold": None}
    usual |= {"labels": None, "multi_label": False}
    changed = {"num_classes": 4, "size": (20, 30), "top_k": 2, "threshold": 0.1}
    assert asked == [(("espnetv2_200", "DEFAULT"), usual), (("m", "w"), asked[1][1])]
    assert asked[1][1].items() >= changed.items()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size=64"], "--size '64': must be HEIGHTxWIDTH"),
        (["--size=0x64"], "size=(0, 64)"),
        (["--size=16x16"], "size=(16, 16): must be a height and a width of at least 32"),
        (["--size=64x31"], "size=(64, 31): must be a height and a width of at least 32"),
        (["--weights=https://example.org/a.pth"], "weights='https://example.org/a.pth': no such file"),
        (["--multi-label"], "multi_label=True: espnetv2_050_seg_voc has no such option"),
        (["--labels=none.txt"], "labels 'none.txt': No such file"),
        (["--size=100000000x3"], "size=(100000000, 3)"),
        (["--size=-1x64"], "--size '-1x64': must be"),
        (["--size=64x48x3"], "--size '64x48x3': must be"),
        (["--top-k=0"], "top_k=0"),
        (["--threshold=2"], "threshold=2.0"),
        (["--size=100000x100000"], "size=(100000, 100000): must be at most"),
        (["--num-classes=0"], "0"),
        (["--num-classes=1000000000000"], "num_classes=1000000000000: must be a whole number, from 1 to 1,000,000"),
        (["--num-classes=4"], "segment.safetensors"),
        (["--model=espnetv2_seg"], "'espnetv2_seg'"),
        (["--model=espnetv2_100_seg_voc"], "segment.safetensors"),
        (["--weights=none.pth"], "none.pth"),
        (["--weights=DEFAULT"], "espnetv2_175_seg_voc"),
        (["--device=tpu"], "--device 'tpu'"),
        (["--out=x.jpg"], "out='x.jpg'"),
        (["--out=x.png"], "out='x.png'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_arguments_give_one_line(predict, album, arguments, said):
    if arguments == ["--weights=DEFAULT"]:
        arguments = ["--model=espnetv2_175_seg_voc", *arguments]
    answer = predict("segment", album, *arguments)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("Error: ")
    assert said in line


@pytest.mark.parametrize("content", [b"", b"hello", None], ids=["empty", "text", "truncated"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_file_that_holds_no_weights(predict, album, weights, tmp_path, content, name):
    path = tmp_path / name
    if content is None:
        content = weights("segment").read_bytes()[:5000]
    path.write_bytes(content)
    answer = predict("segment", album, "--weights", path)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("Error: ")
    assert str(path) in line


def test_no_picture_at_all(call, predict, tmp_path):
    answer = call("predict", "--model=espnetv2_200")
    assert (answer.code, answer.out) == (2, "")
    assert "PICTURE" in answer.err
    answer = predict("segment", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"Error: {tmp_path}: no pictures in this folder")


# --- folders: what is taken, what is noted, what is written


def test_a_folder_into_itself_any_number_of_times_gives_the_same_files(predict, album):
    for name in ("b.png", "c.gif"):
        (album / name).unlink()
    said, files = [], []
    for _ in range(3):
        answer = predict("segment", album, "--out", album, "--json")
        said.append([(result["picture"], result["written"]) for result in answer.json["results"]])
        files.append(sorted(path.name for path in album.iterdir()))
    assert said[0] == said[1] == said[2]
    assert files[0] == files[1] == files[2]
    assert [Path(picture).name for picture, _ in said[0]] == ["a.png", "d.jpg"]
    drawn = "a-2.mask.png, a-2.png, d.mask.png, ..."
    assert answer.err == f"note: {album}: passed over 4 pictures that show answers ({drawn})\n"


def test_what_may_have_been_meant_is_noted(predict, album):
    for name in ("b.png", "c.gif"):
        (album / name).unlink()
    assert re.fullmatch(rf"{SEEN}\n", predict("classify", album).err)  # notes.txt is no picture
    for name in ("z.HEIC", "raw.dng", "page.eps"):
        (album / name).write_bytes(b"whatever")
    (album / "sub").mkdir()
    (album / ".hidden").mkdir()
    answer = predict("classify", album, album)
    assert answer.code == 0
    unread = "3 pictures of formats that are not read here (page.eps, raw.dng, z.HEIC)"
    note, seen = answer.err.splitlines()
    assert note == f"note: {album}: passed over 1 sub-folders (sub); {unread}"
    assert re.fullmatch(SEEN, seen)


@pytest.mark.parametrize("count", [0, 1])
def test_an_interrupt_keeps_the_answers_that_are_there(predict, album, count, monkeypatch):
    batch = importlib.import_module("vision.batch")
    opened = []

    def interrupt(path):
        if len(opened) == count:
            raise KeyboardInterrupt
        opened.append(path)
        return open_picture(path)

    monkeypatch.setattr(batch, "open_picture", interrupt)
    answer = predict("classify", album, "--json")
    assert answer.code == 130
    results = json.loads(answer.out)["results"]
    assert [Path(result["picture"]).name for result in results] == ["a.png", "b.png"][:count]
    assert answer.err == f"Stopped after {count} pictures.\n"


@pytest.mark.parametrize("out", ["", " ", "-"])
def test_an_out_that_names_nothing(predict, album, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    answer = predict("segment", album / "a.png", "--out", out)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"Error: out={out!r}: must be a name that ends in .png, or a folder\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_an_address_is_named_as_it_was_given(predict):
    answer = predict("classify", "https://example.org/cat.jpg", "--json")
    assert answer.code == 2
    assert json.loads(answer.out)["failures"][0]["picture"] == "https://example.org/cat.jpg"
    assert answer.err == "Error: https://example.org/cat.jpg: an address, not a file: download it first\n"


# --- a state dict alone, whose classes have no names


@pytest.mark.parametrize("task", MODELS)
def test_labels_name_the_classes_of_a_state_dict(call, album, tmp_path, task):
    model = create_model(MODELS[task])
    model.reset_classifier(4)
    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    (tmp_path / "labels.txt").write_text("background\ncat\nbig dog\nbird \n")
    options = ["--model", MODELS[task], "--weights", tmp_path / "tuned.pth", "--size=64x64", "--threshold=0"]
    said = call("predict", album / "a.png", *options, "--labels", tmp_path / "labels.txt", "--json").json
    result = said["results"][0]
    named = set(result.get("labels", result.get("shares")))
    assert named
    assert named <= {"background", "cat", "big dog", "bird"}
    (tmp_path / "labels.txt").write_text("background\ncat\n")
    answer = call("predict", album / "a.png", *options, "--labels", tmp_path / "labels.txt")
    assert (answer.code, answer.err) == (2, "Error: labels: 2 names, but the model has 4 classes\n")


def test_a_state_dict_can_be_of_several_labels(call, album, tmp_path):
    model = create_model("espnetv2_050", num_classes=3)
    model.classifier.bias.data = torch.tensor([5.0, -5.0, 5.0])
    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    options = ["--model=espnetv2_050", "--weights", tmp_path / "tuned.pth", "--size=64x64", "--json"]
    several, one = (
        call("predict", album / "a.png", *options, *more).json["results"][0]["probabilities"]
        for more in (["--multi-label"], [])
    )
    assert len(several) == 2
    assert min(several) > 0.5
    assert sum(one) == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"", "must hold at least one name"),
        (b"cat\ncat\n", "'cat' twice"),
        (b"caf\xe9\n", "utf-8"),
    ],
)
def test_labels_that_are_no_names(predict, album, tmp_path, content, said):
    (tmp_path / "labels.txt").write_bytes(content)
    answer = predict("classify", album, "--labels", tmp_path / "labels.txt")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"Error: labels {str(tmp_path / 'labels.txt')!r}: ")
    assert said in answer.err
