import copy
import pickle
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from golden_rules import published_entries
from torch import nn
from torch.optim.swa_utils import AveragedModel

import vision
from vision import pretrained
from vision.network import option_names
from vision.pretrained import WeightsFile, blob_id, fetch
from vision.weights import WEIGHTS, Weights, from_published, our_name


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
        assert name.endswith((f".{height}x{width}", ".imagenet_224"))
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


def test_metrics_and_sizes_are_those_published(reference):
    text = (reference / "README.md").read_text().replace("\n", " ")
    listed = re.search(
        r"pascal 384: (.*?) \(test (.*?) at s=2.0\); pascal 256: (.*?); city 1024x512: (.*?) \(test ([\d.]+)\)", text
    )
    large, voc_test, small, city, city_test = listed.groups()
    for suffix, values in (("voc.384x384", large), ("voc.256x256", small), ("city.512x1024", city)):
        for width, value in zip(("050", "100", "150", "200"), values.split(" / "), strict=True):
            assert WEIGHTS[f"espnetv2_{width}_seg_{suffix}"].metrics["mIoU (val)"] == float(value)
    assert WEIGHTS["espnetv2_200_seg_voc.384x384"].metrics["mIoU (test)"] == float(voc_test)
    assert WEIGHTS["espnetv2_200_seg_city.512x1024"].metrics["mIoU (test)"] == float(city_test)
    listed = re.search(r"VOC07 mAP ([\d.]+) @300, ([\d.]+) @512; COCO mAP ([\d.]+) @300, ([\d.]+) @512", text)
    names = [f"espnetv2_200_ssd_{name}" for name in ("voc.300x300", "voc.512x512", "coco.300x300", "coco.512x512")]
    assert [next(iter(WEIGHTS[name].metrics.values())) for name in names] == [float(v) for v in listed.groups()]
    crops = {weights.preprocessing.crop for weights in WEIGHTS.values() if "imagenet" in weights.name}
    assert crops == {0.875}


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


@pytest.mark.parametrize("form", ["zip", "legacy", "state_dict", "model", "parallel", "safetensors"])
def test_every_form_of_a_file_loads(form, published, tmp_path):
    model, state = published
    model = model.eval()
    model.load_state_dict(from_published(state))
    path = tmp_path / "file.pth"
    if form == "safetensors":
        path = tmp_path / "file.safetensors"
        vision.save_weights(model, path)
    elif form in ("state_dict", "model"):
        torch.save({"epoch": 3, form: state}, path)
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
    weight = next(name for name in state if "spp_dw.2" in name)

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
    add(
        "malicious.pth",
        pickle.dumps({"level1.conv.weight": _Malicious()}),
        "refused: broken, or holds more than|holds more than tensors, such as",
    )
    torch.save([1, 2], folder / "list.pth")
    files["list.pth"] = folder / "list.pth", "must hold a state dict"
    torch.save({"epoch": 3}, folder / "numbers.pth")
    files["numbers.pth"] = folder / "numbers.pth", "must hold a state dict, named tensors and nothing else"
    torch.save({1: torch.ones(1)}, folder / "nameless.pth")
    files["nameless.pth"] = folder / "nameless.pth", "must hold a state dict, named tensors and nothing else"
    torch.save({**state, weight: torch.ones(3)}, folder / "crooked.pth")
    files["crooked.pth"] = folder / "crooked.pth", "not a checkpoint, or a broken one"
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
        assert "weights_only" not in str(error.value), name
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
    with pytest.raises(ValueError, match="holds weights of espnetv2_100_seg_city, not of espnetv2_100_seg_voc"):
        vision.create_model("espnetv2_100_seg_voc", weights=city, num_classes=20)
    with pytest.raises(ValueError, match=r"256x512\) does not fit .*\(20, .* where the model has \(21,"):
        vision.load_weights(vision.Segmenter(1.0, 21), city)
    assert vision.create_model("espnetv2_100_seg_city", weights=city).weights_record.dataset.name == "cityscapes"


def test_a_name_that_is_nothing_lists_what_there_is():
    for wish, meant in (("nothing", "espnetv2_100"), ("espnetv2_200_seg_voc.384", "espnetv2_200_seg_voc.384x384")):
        with pytest.raises(ValueError, match=f"weights='{wish}': no such file, nor the name of .* such as {meant}"):
            vision.load_weights(vision.Classifier(0.5), wish)
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(ValueError, match="no such file") as error:
            vision.load_weights(vision.Classifier(0.5), name)
        assert len(str(error.value)) < 600
    with pytest.raises(TypeError, match="weights=True"):
        vision.load_weights(vision.Classifier(0.5), True)


def test_a_record_is_what_it_says():
    record = WEIGHTS["espnetv2_200_seg_city.512x1024"]
    assert isinstance(record, Weights)
    assert record.preprocessing.size == (512, 1024)
    assert record.dataset.categories[19] == "background"
    assert record.metrics == {"mIoU (val)": 66.4, "mIoU (test)": 66.2}


def test_states_keep_their_types(published, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(published[1], path)
    assert {value.dtype for value in WeightsFile.find(path).state().values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("legacy", [False, True])
def test_no_cut_or_damage_of_a_file_gives_anything_but_one_line(legacy, tmp_path):
    state = {"level1.conv.weight": torch.arange(6.0).view(2, 3), "level1.bn.weight": torch.ones(2)}
    path = tmp_path / "file.pth"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    damages = [whole[:end] for end in range(0, len(whole), 1 if legacy else 7)]
    damages += [whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :] for at in range(0, len(whole), 3)]
    messages = []
    for damaged in damages:
        try:
            WeightsFile(path, damaged, None).state()
        except ValueError as error:  # anything else fails the test
            messages.append(str(error))
    assert len(messages) > len(damages) / 3
    assert all(str(path) in message and "\n" not in message for message in messages)


def test_what_was_verified_is_what_is_loaded(served, cache):
    file = WeightsFile.find(served)
    (cache / "weights" / served.file_name).write_bytes(b"altered after the check")
    assert vision.load_weights(vision.Classifier(0.5), file) is served


def test_backbones_take_all_that_they_need_or_nothing(published, tmp_path):
    model, state = published
    model.load_state_dict(from_published(state))
    whole, cut, shallow = (tmp_path / f"{name}.pth" for name in ("whole", "cut", "shallow"))
    torch.save(state, whole)
    torch.save({name: value for name, value in state.items() if name != "level2_0.act.weight"}, cut)
    torch.save({name: value for name, value in state.items() if not name.startswith("level5")}, shallow)
    backbone = vision.ESPNetv2(0.5, depth=4)
    assert vision.load_weights(backbone, whole) is None
    torch.testing.assert_close(backbone.level4.state_dict(), model.backbone.level4.state_dict())
    with pytest.raises(ValueError, match=r"1 entries are missing, such as level2\.down\.activation\.weight"):
        vision.load_weights(vision.ESPNetv2(0.5), cut)
    with pytest.raises(ValueError, match=r"entries are missing, such as level5\."):
        vision.load_weights(vision.ESPNetv2(0.5), shallow)


def test_the_default_backbone_is_the_classifiers_of_the_same_width(served, monkeypatch):
    monkeypatch.setitem(WEIGHTS, served.name, served)
    detector = vision.create_model("espnetv2_050_ssd_voc", weights_backbone="DEFAULT")
    classifier = vision.create_model("espnetv2_050", weights="DEFAULT")
    torch.testing.assert_close(detector.backbone.state_dict(), classifier.backbone.state_dict(), rtol=0, atol=0)
    assert detector.weights_record is None


def test_a_published_detector_resizes_to_the_size_it_was_trained_at(tmp_path):
    torch.save(vision.Detector(2.0, 21).state_dict(), tmp_path / "file.pth")
    path = tmp_path / "file.pth"
    published = WEIGHTS["espnetv2_200_ssd_voc.512x512"]
    record = replace(published, url=path.as_uri(), blob=blob_id(path.read_bytes()))
    assert vision.create_model("espnetv2_200_ssd_voc", weights=record).size == (512, 512)
    assert vision.create_model("espnetv2_200_ssd_voc", weights=record, size=(300, 480)).size == (300, 480)
    assert vision.create_model("espnetv2_200_ssd_voc", device="meta").size == (300, 300)


# --- files of our own: every option of every model passes through a file

KINDS = ("espnetv2_050", "espnetv2_050_seg_voc", "espnetv2_050_ssd_voc")
OTHER = {  # of every option a value that is not the default
    "width": 0.3,
    "in_channels": 2,
    "multi_label": True,
    "dropout": 0.7,
    "pyramid_width": 5,
    "size": (64, 96),
    "score_threshold": 0.2,
    "nms_threshold": 0.6,
    "top_k": 7,
    "match_threshold": 0.6,
    "negatives": 2.0,
    "convolution": "depthwise",
    "fusion": False,
    "shortcut": False,
}
CASES = [(name, option) for name in KINDS for option in option_names(type(vision.create_model(name, device="meta")))]


def answers(model, x):
    """All numbers that a model gives for a picture, however it gives them."""
    out = model(x)
    parts = [out] if isinstance(out, torch.Tensor) else out.values() if isinstance(out, dict) else out[0].values()
    return torch.cat([part.double().flatten() for part in parts])


def through_a_file(model, path):
    vision.save_weights(model, path)
    again = vision.create_model(model.name, weights=path)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert (again.architecture(), again.num_classes) == (model.architecture(), model.num_classes)
    x = torch.randn(1, model.backbone.in_channels, 40, 56)
    torch.testing.assert_close(answers(again.eval(), x), answers(model.eval(), x), rtol=0, atol=0)
    return again


@pytest.mark.parametrize(("name", "option"), CASES)
def test_every_option_passes_through_a_file(name, option, tmp_path):
    torch.manual_seed(0)
    model = vision.create_model(name, **{option: OTHER[option]})
    usual = vision.create_model(name, device="meta").architecture()
    assert model.architecture()[option] == OTHER[option] != usual[option]
    through_a_file(model, tmp_path / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", vision.list_models())
def test_every_model_passes_through_a_file(name, tmp_path):
    torch.manual_seed(0)
    through_a_file(vision.create_model(name), tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", KINDS)
def test_our_files_know_the_classes_and_their_model(name, tmp_path):
    model = vision.create_model(name, num_classes=40)
    model.reset_classifier(5)
    assert model.dataset is None
    path = tmp_path / "model.safetensors"
    assert through_a_file(model, path).num_classes == 5
    with pytest.raises(ValueError, match=f"holds weights of {name}, not of espnetv2_200"):
        vision.create_model("espnetv2_200", weights=path)
    with pytest.raises(ValueError, match="have other shapes"):
        vision.create_model(name, weights=path, num_classes=6)


def test_an_option_that_a_class_forgets_to_keep_is_no_silent_loss():
    class Forgetful(vision.Classifier):
        def __init__(self, width=0.5, *, colour="red", device=None):
            super().__init__(width, device=device)

    with pytest.raises(AttributeError, match="colour"):
        Forgetful(device="meta").architecture()


def test_weights_are_saved_as_safetensors_only(tmp_path):
    with pytest.raises(ValueError, match=r"x\.pth': must end in \.safetensors"):
        vision.save_weights(vision.Classifier(0.5), tmp_path / "x.pth")


def test_a_model_without_numbers_takes_no_weights(published, tmp_path):
    torch.save(published[1], tmp_path / "file.pth")
    with pytest.raises(ValueError, match="device='meta'"):
        vision.create_model("espnetv2_050", weights=tmp_path / "file.pth", device="meta")


# --- what people save: wrapped models, checkpoints of trainers, state dicts alone


class Part(nn.Module):
    """A trainer's module, which holds the model."""

    def __init__(self, model):
        super().__init__()
        self.model = model


def compiled(model):
    return torch.compile(model, backend="eager")  # the usual one warns of torch's own past while it is imported


def compiled_part(model):
    other = copy.deepcopy(model)
    other.backbone = compiled(other.backbone)
    return other


WRAPPED = {
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "all of them": lambda model: compiled(nn.DataParallel(AveragedModel(model))),
    "compiled part": compiled_part,
}


@pytest.fixture(scope="module")
def small():
    """A model whose every number and option differs from those of a new one."""
    torch.manual_seed(3)
    return vision.create_model("espnetv2_050_seg_voc", num_classes=5, pyramid_width=7, in_channels=2)


def check_same(model, other):
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert (other.num_classes, other.architecture()) == (model.num_classes, model.architecture())


@pytest.mark.parametrize("way", WRAPPED)
def test_a_wrapped_model_passes_through_a_file(way, small, tmp_path):
    path = tmp_path / "model.safetensors"
    vision.save_weights(WRAPPED[way](small), path)
    check_same(small, vision.create_model(small.name, weights=path))
    assert WeightsFile.find(path).architecture()["pyramid_width"] == 7
    other = WRAPPED[way](copy.deepcopy(small))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    vision.load_weights(other, path)
    check_same(small, small)
    torch.testing.assert_close(list(other.parameters()), list(small.parameters()), rtol=0, atol=0)


def training(state):
    """What lies beside a state dict in a checkpoint."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "best": torch.tensor(0.5),
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 2.0},
        **state,
    }


FORMS = {
    **{way: lambda model, way=way: WRAPPED[way](model).state_dict() for way in WRAPPED},
    **{
        key: lambda model, key=key: training({key: model.state_dict()})
        for key in ("state_dict", "model", "model_state_dict", "net", "network", "model_ema", "ema", "weights")
    },
    "nested": lambda model: training({"model": {"state_dict": model.state_dict()}}),
    "lightning": lambda model: training({"state_dict": Part(model).state_dict()}),
    "averaged alone": lambda model: training({"model_ema": AveragedModel(model).state_dict()}),
    "parallel trainer": lambda model: nn.DataParallel(Part(model)).state_dict(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_checkpoint_is_read_with_what_its_shapes_tell(form, small, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(FORMS[form](small), path)
    check_same(small, vision.create_model(small.name, weights=path))


@pytest.mark.parametrize("form", [*WRAPPED, "parallel trainer"])
@pytest.mark.parametrize("name", ["file.safetensors", "file.pth"])
def test_names_of_wrappers_are_known_in_safetensors_whatever_the_file_is_called(form, name, small, tmp_path):
    state = {key: value.contiguous() for key, value in FORMS[form](small).items()}
    (tmp_path / name).write_bytes(safetensors.torch.save(state))
    check_same(small, vision.create_model(small.name, weights=tmp_path / name))


def test_our_own_file_under_another_name_knows_its_model(tmp_path):
    model = vision.create_model("espnetv2_050", num_classes=3, multi_label=True)
    vision.save_weights(model, tmp_path / "a.safetensors")
    check_same(
        model, vision.create_model("espnetv2_050", weights=(tmp_path / "a.safetensors").rename(tmp_path / "a.pth"))
    )


@pytest.mark.parametrize("keys", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "average")])
def test_of_several_state_dicts_none_is_taken_without_a_word(keys, small, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(training(dict.fromkeys(keys, small.state_dict())), path)
    with pytest.raises(ValueError, match=rf"several state dicts \({', '.join(keys)}\): save the one that is meant"):
        vision.create_model(small.name, weights=path)


def test_what_a_file_holds_in_place_of_a_state_dict_is_listed(tmp_path):
    path = tmp_path / "file.pth"
    for saved, said in (
        ({"epoch": 3, "lr": 0.1}, r"holds 'epoch' \(int\), 'lr' \(float\)"),
        ({f"k{i}": i for i in range(20)}, r"holds 'k0' \(int\), .*'k7' \(int\) and 12 more"),
        ({}, "holds nothing"),
        ([1], "holds a list"),
        (torch.ones(3), "holds a Tensor"),
    ):
        torch.save(saved, path)
        with pytest.raises(ValueError, match=f"must hold a state dict, named tensors and nothing else, but {said}"):
            vision.load_weights(vision.Classifier(0.5), path)


def test_a_pickled_model_is_refused_with_what_helps(small, tmp_path):
    path = tmp_path / "whole.pth"
    for saved in (small, {"model": small}):
        torch.save(saved, path)
        with pytest.raises(ValueError, match=r"more than tensors, such as vision\.segmentation\.Segmenter: ") as error:
            vision.load_weights(small, path)
        assert "vision.save_weights" in str(error.value)
        assert "\n" not in str(error.value)
        assert not re.search("weights_only|safe_globals", str(error.value))


@pytest.mark.parametrize("classes", [2, 21, 40])
@pytest.mark.parametrize("name", KINDS)
def test_a_tuned_model_comes_back_from_its_state_dict_alone(name, classes, tmp_path):
    model = vision.create_model(name)
    model.reset_classifier(classes)
    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    for given in ({}, {"num_classes": classes}):
        check_same(model, vision.create_model(name, weights=tmp_path / "tuned.pth", **given))
    with pytest.raises(ValueError, match="have other shapes"):
        vision.create_model(name, weights=tmp_path / "tuned.pth", num_classes=classes + 1)
