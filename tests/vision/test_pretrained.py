import pickle
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_rules import published_entries

import vision
from vision import pretrained
from vision.pretrained import WEIGHTS, Weights, blob_id, fetch, read_state
from vision.published import from_published, our_name


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ERU_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def published():
    """A classifier in the authors' names, with its own model."""
    model = vision.Classifier(0.5)
    return model, published_entries("keys_cls_s1.0.json", model.state_dict())


@pytest.fixture
def served(tmp_path, published):
    """A record of a file on a server of this machine."""
    path = tmp_path / "server" / "espnetv2_s_0.5_imagenet_224x224.pth"
    path.parent.mkdir()
    torch.save(published[1], path, _use_new_zipfile_serialization=False)
    return replace(WEIGHTS["espnetv2_050.imagenet_224"], url=path.as_uri(), blob=blob_id(path.read_bytes()))


# --- the records


def test_there_is_a_record_of_every_published_file():
    assert len(WEIGHTS) == 25
    assert len({weights.blob for weights in WEIGHTS.values()}) == 25
    for name, weights in WEIGHTS.items():
        assert weights.name == name == f"{weights.model}.{name.split('.')[1]}"
        assert weights.model in vision.list_models()
        assert weights.licence == "MIT"
        assert "Mehta" in weights.attribution
        assert weights.url.startswith("https://raw.githubusercontent.com/sacmehta/EdgeNets/master/model/")
        int(weights.blob, 16)
        assert len(weights.blob) == 40
        height, width = weights.preprocessing.size
        assert weights.file_name.endswith(f"_{width}x{height}.pth")
        task = {"seg": "segmentation", "ssd": "detection"}.get(weights.model[13:16], "classification")
        assert f"/model/{task}/model_zoo/espnetv2/" in weights.url


def test_records_hold_what_the_reference_lists(reference):
    listed = {}
    folder = ""
    for line in (reference / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].endswith(".pth"):
            folder = cells[0].rpartition("/")[0] if not cells[0].startswith("...") else folder
            listed[cells[0].rpartition("/")[2]] = cells[1]
    assert listed == {weights.file_name: weights.blob for weights in WEIGHTS.values()}


def test_the_files_at_hand_are_the_published_ones(reference):
    files = sorted((reference / "weights").glob("*.pth"))
    assert len(files) == 4
    by_name = {weights.file_name: weights for weights in WEIGHTS.values()}
    for file in files:
        assert blob_id(file.read_bytes()) == by_name[file.name].blob


def test_a_models_default_is_listed_first():
    assert vision.list_weights("espnetv2_200_ssd_coco") == [
        "espnetv2_200_ssd_coco.512x512",
        "espnetv2_200_ssd_coco.300x300",
    ]
    assert len(vision.list_weights()) == 25


def test_blob_ids_are_gits(tmp_path):
    path = tmp_path / "some.bin"
    path.write_bytes(bytes(range(256)) * 9)
    git = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    assert blob_id(path.read_bytes()) == git


# --- the key table


@pytest.mark.parametrize(
    ("keys", "build"),
    [
        ("keys_cls_s1.0.json", lambda: vision.Classifier(1.0, device="meta")),
        ("keys_seg_pascal_s2.0.json", lambda: vision.Segmenter(2.0, device="meta")),
        ("keys_ssd300_voc.json", lambda: vision.Detector(2.0, device="meta")),
    ],
)
def test_the_key_table_maps_every_entry_to_one_of_ours_in_shape_and_type(keys, build):
    import json

    from golden_rules import GOLDEN

    listed = json.loads((GOLDEN / keys).read_text())
    made = from_published(
        {e["key"]: torch.empty(e["shape"], dtype=getattr(torch, e["dtype"]), device="meta") for e in listed}
    )
    own = build().state_dict()
    assert sorted(made) == sorted(own)
    assert {k: (v.shape, v.dtype) for k, v in made.items()} == {k: (v.shape, v.dtype) for k, v in own.items()}
    assert len({our_name(e["key"]) for e in listed}) == len(listed)


# --- loading


def test_a_published_file_is_fetched_once_checked_and_loaded(served, published, cache):
    model = vision.Classifier(0.5)
    assert vision.load_weights(model, served) is served
    for name, value in from_published(published[1]).items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    path = cache / "weights" / served.file_name
    assert fetch(replace(served, url=f"file:///gone/{served.file_name}")) == path
    path.write_bytes(b"altered")
    assert blob_id(fetch(served).read_bytes()) == served.blob


def test_an_altered_download_is_refused_and_not_kept(served, cache):
    with pytest.raises(ValueError, match=rf"altered: its git blob id must be {'0' * 40}, found {served.blob}"):
        fetch(replace(served, blob="0" * 40))
    assert list((cache / "weights").iterdir()) == []


def test_without_a_network_the_message_says_where_the_file_belongs(served, cache):
    gone = replace(served, url="file:///gone/espnetv2_s_0.5_imagenet_224x224.pth")
    with pytest.raises(ValueError, match=r"the download of file:///gone/.* failed") as error:
        fetch(gone)
    assert str(cache / "weights" / served.file_name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_download_of_any_size_is_cut(served, monkeypatch):
    monkeypatch.setattr(pretrained, "_SIZE_LIMIT", 1000)
    with pytest.raises(ValueError, match="larger than 1,000 bytes"):
        fetch(served)


@pytest.mark.parametrize("form", ["zip", "legacy", "wrapped", "parallel", "safetensors"])
def test_every_form_of_a_file_loads(form, published, tmp_path):
    model, state = published
    model = model.eval()
    model.load_state_dict(from_published(state))
    path = tmp_path / "file.pth"
    if form == "safetensors":
        path = tmp_path / "file.safetensors"
        vision.save_weights(model, path)
    elif form == "wrapped":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "parallel":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    other = vision.create_model("espnetv2_050", weights=path).eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


def test_a_classifiers_backbone_is_taken_over(published, tmp_path):
    model, state = published
    model.load_state_dict(from_published(state))
    path = tmp_path / "classifier.pth"
    torch.save(state, path)
    for name in ("espnetv2_050_seg_voc", "espnetv2_050_ssd_voc"):
        other = vision.create_model(name, num_classes=4, weights_backbone=path)
        taken = other.backbone.state_dict()
        assert len(taken) > 300
        for key, value in taken.items():
            torch.testing.assert_close(value, model.backbone.state_dict()[key], rtol=0, atol=0)


def test_other_classes_draw_the_last_layer_anew(served, monkeypatch):
    monkeypatch.setitem(WEIGHTS, served.name, served)
    for wish in ("DEFAULT", served.name, served):
        model = vision.create_model("espnetv2_050", num_classes=7, weights=wish)
        assert model.classifier.weight.shape == (7, 1024)
        assert model.dataset is None
        assert model.weights_record is served
        assert model.backbone.level1[0].weight.std() > 0.05
    whole = vision.create_model("espnetv2_050", weights="DEFAULT")
    torch.testing.assert_close(model.backbone.state_dict(), whole.backbone.state_dict(), rtol=0, atol=0)


# --- files that do not fit


class _Malicious:
    def __reduce__(self):
        return print, ("unpickled",)


def wrong_files(folder: Path, state: dict) -> dict[str, tuple[Path, str]]:
    files = {}

    def add(name: str, content: bytes, message: str) -> None:
        (folder / name).write_bytes(content)
        files[name] = folder / name, message

    torch.save(state, folder / "whole.pth")
    whole = (folder / "whole.pth").read_bytes()
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    legacy = (folder / "legacy.pth").read_bytes()
    add("empty.pth", b"", "not a checkpoint, or a broken one")
    add("cut.pth", whole[: len(whole) // 2], "not a checkpoint, or a broken one")
    add("cut_legacy.pth", legacy[: len(legacy) // 2], "broken")
    add("text.pth", b"404: not found, says the portal of the hotel", "refused|not a checkpoint")
    add("text.safetensors", b"404: not found, says the portal of the hotel", "not a checkpoint")
    add("malicious.pth", pickle.dumps({"level1.conv.weight": _Malicious()}), "refused, since it is broken or holds")
    torch.save([1, 2], folder / "list.pth")
    files["list.pth"] = folder / "list.pth", "must hold a state dict of tensors"
    torch.save({"epoch": 3}, folder / "numbers.pth")
    files["numbers.pth"] = folder / "numbers.pth", "must hold a state dict of tensors"
    torch.save({**state, "extra.weight": torch.ones(1)}, folder / "more.pth")
    files["more.pth"] = folder / "more.pth", "1 entries are unknown, such as extra.weight"
    torch.save({k: v for k, v in state.items() if k != "classifier.bias"}, folder / "fewer.pth")
    files["fewer.pth"] = folder / "fewer.pth", "1 entries are missing, such as classifier.bias"
    return files


def test_files_that_are_no_weights_of_this_model_are_refused_in_one_line(published, tmp_path, capsys):
    model = vision.Classifier(0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name, (path, message) in wrong_files(tmp_path, published[1]).items():
        with pytest.raises(ValueError, match=message) as error:
            vision.load_weights(model, path)
        assert "\n" not in str(error.value), name
        assert name in str(error.value)
    assert "unpickled" not in capsys.readouterr().out
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"width": 1.0}, {"num_classes": 10}, {"in_channels": 1}, {"shortcut": False}])
def test_weights_of_another_model_are_refused(options, published, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(published[1], path)
    message = "entries are unknown" if "shortcut" in options else "have other shapes, such as .* where the model has"
    with pytest.raises(ValueError, match=message):
        vision.load_weights(vision.Classifier(**{"width": 0.5, **options}), path)


def test_other_datasets_weights_are_refused(reference):
    city = reference / "weights" / "espnetv2_s_1.0_city_512x256.pth"
    with pytest.raises(ValueError, match=r"other shapes, such as .*\(20, .* where the model has \(21,"):
        vision.create_model("espnetv2_100_seg_voc", weights=city)
    assert vision.create_model("espnetv2_100_seg_city", weights=city).weights_record.dataset.name == "cityscapes"


def test_a_name_that_is_nothing_lists_what_there_is():
    with pytest.raises(ValueError, match=r"weights='nothing': neither a file nor one of the published espnetv2_050\."):
        vision.load_weights(vision.Classifier(0.5), "nothing")


def test_a_record_is_what_it_says():
    record = WEIGHTS["espnetv2_200_seg_city.1024x512"]
    assert isinstance(record, Weights)
    assert record.preprocessing.size == (512, 1024)
    assert record.dataset.categories[19] == "background"
    assert record.metrics == {"mIoU (val)": 66.4, "mIoU (test)": 66.2}


def test_states_keep_their_types(published, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(published[1], path)
    assert {value.dtype for value in read_state(path).values()} == {torch.float32, torch.int64}
