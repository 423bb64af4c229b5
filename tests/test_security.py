"""What SECURITY.md promises: no file that is read runs code, leads out of its folder, or grows without end."""

import ast
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from eru_cli import main
from vision import create_model, save_weights
from vision.data import open_data, write_shapes

ROOT = Path(__file__).parents[1]
SOURCES = [
    path for room in ("eru", "eru_runtime", "vision", "eru_cli") for path in sorted((ROOT / room).rglob("*.py"))
]


class Malicious:
    """Makes a folder where it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with a corpus, a run on it, pictures, a run on them, and a file of weights."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "corpus").mkdir()
    for split in ("train", "valid", "test"):
        (folder / "corpus" / f"{split}.txt").write_text("the cat sat on the mat\n" * 20)
    write_shapes("imagenet", folder / "pictures", train=6, val=6, size=(32, 32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERU_CACHE_DIR", str(folder / "cache"))
        patch.chdir(folder)
        for command in (LM_TRAIN, VISION_TRAIN):
            with pytest.raises(SystemExit) as caught:
                main([*command, "--max-steps=1"])
            assert caught.value.code == 0
    save_weights(create_model("espnetv2_050", num_classes=6), folder / "weights.safetensors")
    return folder


LM_TRAIN = (
    *("lm-train", "--data=corpus", "--out=language", "--resume", "--device=cpu", "--set=tokenizer=sentencepiece"),
    *("--set=vocab_size=280", "--set=hidden_size=8", "--set=embedding_size=8", "--set=batch_size=2"),
)
VISION_TRAIN = (
    *("vision-train", "--task=classify", "--layout=imagenet", "--data=pictures", "--model=espnetv2_050"),
    *("--recipe=shapes", "--out=seen", "--resume", "--device=cpu", "--set=batch_size=6", "--set=sizes=32x32"),
)
LM_EVAL, LM_GENERATE = ("lm-eval", "language"), ("lm-generate", "language")
VISION_EVAL, PREDICT_RUN = ("vision-eval", "seen"), ("predict", "pictures/val/star", "--model=seen")
WITH_WEIGHTS = ("--model=espnetv2_050", "--weights=weights.safetensors")
PREDICT = ("predict", "pictures/val/star", *WITH_WEIGHTS)
ENTRIES = [
    *((f"language/{name}", LM_TRAIN) for name in ("state.pt", "config.json", "tokenizer/tokenizer.json")),
    *(("language/model.safetensors", command) for command in (LM_EVAL, LM_GENERATE)),
    *(("language/tokenizer/tokenizer.model", command) for command in (LM_EVAL, LM_TRAIN)),
    *(("seen/model.safetensors", command) for command in (VISION_EVAL, PREDICT_RUN)),
    *((f"seen/{name}", VISION_TRAIN) for name in ("state.pt", "config.json")),
    ("weights.safetensors", PREDICT),
    ("weights.pth", ("predict", "pictures/val/star", "--model=espnetv2_050", "--weights=weights.pth")),
    ("weights.pth", (*VISION_TRAIN, "--out=new", "--weights=weights.pth")),
    ("weights.pth", (*VISION_TRAIN, "--out=new", "--weights-backbone=weights.pth")),
    ("weights.pth", ("vision-eval", "espnetv2_050", "--weights=weights.pth", "--data=pictures", "--layout=imagenet")),
    ("corpus/valid.txt", LM_TRAIN),
    ("pictures/val/star/evil.png", PREDICT_RUN),
]


@pytest.mark.parametrize("form", ["pickle", "torch.save"])
@pytest.mark.parametrize(("name", "command"), ENTRIES, ids=[f"{name} {command[0]}" for name, command in ENTRIES])
def test_no_pickle_is_run_wherever_it_is_put(places, tmp_path, monkeypatch, capsys, name, command, form):
    folder, trace = Path(shutil.copytree(places, tmp_path / "places")), tmp_path / "was run"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ERU_CACHE_DIR", str(folder / "cache"))
    (folder / "language" / "state.previous.pt").unlink(missing_ok=True)
    (folder / "seen" / "state.previous.pt").unlink(missing_ok=True)
    payload = {"model": Malicious(trace), "level1.conv.weight": Malicious(trace)}
    if form == "pickle":
        (folder / name).write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, folder / name)
    with pytest.raises(SystemExit) as caught:
        main(list(command))
    said = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert [line for line in said if line.startswith("Error: ")] == said[-1:]
    assert Path(name).name in said[-1]
    assert not trace.exists()
    pickle.loads(pickle.dumps(payload["model"]))  # The payload does what it says where it is unpickled.
    assert trace.exists()


RUNS_CODE = r"eval|exec|compile|(pickle|marshal|shelve|yaml|dill|joblib)\.\w+|os\.(system|popen|exec\w*|spawn\w*)"


def test_no_source_unpickles_evaluates_or_starts_a_shell():
    calls = 0
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            calls += 1
            name, place = ast.unparse(node.func), f"{path}:{node.lineno}"
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert not re.fullmatch(RUNS_CODE, name), place
            assert "shell" not in options, place
            if name in ("torch.load", "np.load"):
                safe = ("weights_only", "True") if name == "torch.load" else ("allow_pickle", "False")
                assert options.get(safe[0]) == safe[1], place
    assert calls > 3000


ENTITIES = '<!ENTITY e0 "lol">' + "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
XML = {
    "billion laughs": f"<?xml version='1.0'?><!DOCTYPE a [{ENTITIES}]><annotation>&e9;</annotation>",
    "external entity": '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation>&f;</annotation>',
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    for layout in ("voc", "coco", "cityscapes"):
        write_shapes(layout, folder / layout, train=6, val=6, size=(32, 32))
    Image.new("RGB", (32, 32)).save(folder / "secret.jpg")
    return folder


@pytest.mark.parametrize("text", XML.values(), ids=XML)
def test_xml_entities_are_refused(drawn, tmp_path, text):
    root = Path(shutil.copytree(drawn / "voc", tmp_path / "voc"))
    reader = open_data("voc", "detect", root, "val")
    (root / "Annotations" / f"{reader.names[0]}.xml").write_text(text)
    with pytest.raises(ValueError, match="has a document type"):
        reader[0]


LEADS_OUT = ["../secret.jpg", "a/../../secret.jpg", "/etc/hostname", "..\\secret.jpg", "C:\\secret.jpg"]


@pytest.mark.parametrize("name", LEADS_OUT)
def test_annotations_do_not_lead_out_of_their_folder(drawn, tmp_path, name):
    root = Path(shutil.copytree(drawn / "coco", tmp_path / "coco"))
    (file,) = (root / "annotations").glob("instances_val*.json")
    told = json.loads(file.read_text())
    told["images"][0]["file_name"] = name
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"instances_val.*: names .*secret|hostname.*, which leads out of"):
        open_data("coco", "detect", root, "val")
    root = Path(shutil.copytree(drawn / "voc", tmp_path / "voc"))
    (root / "ImageSets" / "Main" / "val.txt").write_text(f"{name.removesuffix('.jpg')}\n")
    with pytest.raises(ValueError, match=r"val\.txt: names .*, which leads out of"):
        open_data("voc", "detect", root, "val")
