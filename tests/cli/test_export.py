"""The command `export`: what it writes, and what it refuses in one line."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vision import create_model, save_weights

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]


def refusal(answer):
    """The one line of an error."""
    assert (answer.code, answer.out) == (2, ""), answer
    [line] = answer.err.splitlines()
    return line.removeprefix("Error: ")


@pytest.fixture
def weights(few_layers, tmp_path):
    """A file of a classifier's weights; in a test that takes it, models of that name have few layers."""
    path = tmp_path / "classes.safetensors"
    save_weights(create_model("espnetv2_050", num_classes=3), path)
    return path


def test_a_run_becomes_a_folder(call, trained, tmp_path):
    folder, _ = trained
    record = call("export", folder, "--out", tmp_path / "out", "--json").json
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == record
    assert record["kind"] == "language-model"
    assert (tmp_path / "out" / "model.onnx").stat().st_size == record["bytes"]


def test_it_says_what_was_verified(call, trained, weights, tmp_path):
    folder, _ = trained
    told = call("export", folder, "--quantize", "int8", "--out", tmp_path / "text").out
    assert "model.onnx: 0.0 MB, perplexity" in told
    assert "where PyTorch has" in told
    options = ("--weights", weights, "--size", "64x64", "--format", "pt2")
    told = call("export", "espnetv2_050", *options, "--out", tmp_path / "classes").out
    assert "model.pt2: " in told
    assert "compared with PyTorch: largest difference" in told


def test_a_page_gets_a_tab_for_each_model(call, trained, weights, tmp_path):
    folder, _ = trained
    answer = call("export", folder, "--web", "--out", tmp_path / "site")
    assert answer.code == 0
    assert "npm install" in answer.err
    names = {path.name for path in (tmp_path / "site").iterdir()}
    assert {"index.html", "app.js", "style.css", "package.json", "text"} <= names
    assert "pictures" not in names
    options = ("--weights", weights, "--size", "64x64", "--web")
    assert call("export", "espnetv2_050", *options, "--out", tmp_path / "site").code == 0
    assert (tmp_path / "site" / "pictures" / "labels.txt").exists()
    # A tab is never silently replaced.
    assert "is there already" in refusal(call("export", folder, "--web", "--out", tmp_path / "site"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "RUN_OR_MODEL 'nothing': is no run folder, and no model; there are ptb-awd-7m, espnetv2_100,"),
        (["ptb-awd-7m", "--nms"], "--nms: ptb-awd-7m is a language model, which has no such option"),
        (["ptb-awd-7m", "--num-classes", "3"], "--num-classes: ptb-awd-7m is a language model, which has no such"),
        (["espnetv2_100", "--graph", "step"], "--graph: espnetv2_100 is a vision model, which has no such option"),
        (["ptb-awd-7m", "--batch", "many"], "--batch 'many': must be a whole number, or dynamic"),
        (["ptb-awd-7m", "--batch", "0"], "batch=0: must be a whole number, 1 to 65,536, or 'dynamic'"),
        (["ptb-awd-7m", "--num-classes", "0"], "--num-classes: ptb-awd-7m is a language model, which has no such"),
        (["ptb-awd-7m", "--quantize", "int8-weights"], "quantize='int8-weights': must be one of none, int8"),
        (["ptb-awd-7m", "--web", "--format", "pt2"], "--format pt2: --web needs onnx"),
        (["ptb-awd-7m", "--web", "--batch", "dynamic"], "--batch dynamic: --web needs 1"),
        (["ptb-awd-7m", "--web", "--graph", "sequence"], "--graph sequence: --web needs step"),
        (["espnetv2_050", "--web", "--size", "dynamic"], "--size dynamic: --web needs one size"),
        (["espnetv2_050", "--size", "big"], "--size 'big': must be HEIGHTxWIDTH"),
        (["ptb-awd-7m", "--format", "tflite"], "Invalid value for '--format': 'tflite' is not one of"),
    ],
)
def test_bad_input(arguments, message, call, tmp_path):
    assert refusal(call("export", *arguments, "--out", tmp_path / "out")).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["index.html"], ["package.json"], ["style.css", "package.json"]])
def test_a_page_takes_the_place_of_no_other_files(names, call, trained, tmp_path):
    folder, _ = trained
    site = tmp_path / "site"
    site.mkdir()
    for name in names:
        (site / name).write_text('{"name": "mine"}')
    assert "which the page would overwrite" in refusal(call("export", folder, "--web", "--out", site))
    assert sorted(path.name for path in site.iterdir()) == sorted(names)
    assert {path.read_text() for path in site.iterdir()} == {'{"name": "mine"}'}


def test_a_page_that_cannot_be_written_leaves_no_model(call, trained, tmp_path, monkeypatch):
    folder, _ = trained

    def full(_):
        raise OSError(28, "No space left on device", "app.js")

    command = importlib.import_module("eru_cli.export")
    monkeypatch.setattr(command, "write_page", full)
    assert "No space left" in refusal(call("export", folder, "--web", "--out", tmp_path / "site"))
    assert not (tmp_path / "site" / "text").exists()


def test_a_config_that_is_no_object(call, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("[]")
    refusal(call("export", tmp_path / "run", "--out", tmp_path / "out"))


def test_a_detector_on_the_page_chooses_its_boxes(call, tmp_path):
    path = tmp_path / "boxes.safetensors"
    save_weights(create_model("espnetv2_050_ssd_voc", num_classes=3), path)
    answer = call("export", "espnetv2_050_ssd_voc", "--weights", path, "--web", "--out", tmp_path / "page")
    assert refusal(answer) == "--web: espnetv2_050_ssd_voc finds boxes, so it needs --nms"


def test_an_option_of_the_other_kind_is_named_for_a_run_too(call, trained, tmp_path):
    folder, _ = trained
    assert "is a language model" in refusal(call("export", folder, "--size", "64x64", "--out", tmp_path / "out"))


def test_a_run_folder_that_is_broken(call, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    assert "is not valid JSON" in refusal(call("export", tmp_path / "run", "--out", tmp_path / "out"))


def test_every_option_belongs_to_one_kind_or_to_both():
    command = importlib.import_module("eru_cli.export")
    names = {parameter.name for parameter in command.export.params}
    shared = {"model", "out", "format", "batch", "quantize", "web", "as_json"}
    assert names == shared | set(command._OF_LANGUAGE) | set(command._OF_VISION)


FULL_DISK = """
import resource, signal, sys
from eru_cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as it does on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_full_disk_leaves_nothing(format, trained, tmp_path):
    folder, _ = trained
    arguments = ["export", str(folder), "--format", format, "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(r"Error: \[Errno \d+\] .*: '.*out'\n", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []
