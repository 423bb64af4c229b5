"""vision-shapes, vision-train, vision-eval and predict on a run, as they are typed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = ("--set=sizes=32x32", "--set=batch_size=4", "--epochs=1", "--set=log_every=1", "--device=cpu")


@pytest.fixture(scope="module")
def folders(call, tmp_path_factory):
    """A folder with shapes in two layouts, and a run of two epochs, made by commands."""
    root = tmp_path_factory.mktemp("vision")
    for layout in ("voc", "imagenet"):
        assert call("vision-shapes", "--layout", layout, "--out", root / layout, "--train=8", "--val=6").code == 0
    said = train(call, root, root / "run", "--json").json
    assert (said["finished"], said["steps"], said["task"]) == (True, 2, "segment")
    return root


def train(call, root, out, *options):
    model = ("--task=segment", "--layout=voc", "--model=espnetv2_050_seg_voc", "--recipe=shapes")
    return call("vision-train", *model, "--data", root / "voc", "--out", out, *TINY, *options)


def test_a_run_is_resumed_with_nothing_but_its_folder(call, folders, tmp_path):
    stopped = train(call, folders, tmp_path / "run", "--max-steps=1")
    assert "stopped in epoch 1 of 1, step 1, training loss " in stopped.err
    assert f"{tmp_path / 'run'}: stopped after step 1, 0 of 1 epochs complete; " in stopped.out
    assert "vision-train --resume --out" in stopped.out
    done = call("vision-train", "--resume", "--out", tmp_path / "run", "--json", "--device=cpu").json
    assert (done["finished"], done["steps"]) == (True, 2)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (folders / "run", tmp_path / "run")]
    assert weights[0] == weights[1]


def test_a_run_is_measured_and_predicts(call, folders, tmp_path):
    said = call("vision-eval", folders / "run", "--json", "--pictures", tmp_path / "pictures", "--device=cpu").json
    assert (said["task"], said["pictures"]) == ("segment", 6)
    assert 0 <= said["mean_iou"] <= 1
    assert {Path(path).name for path in said["written"]} == {"sheet.png", "confusion.png"}
    picture = next((folders / "voc" / "JPEGImages").iterdir())
    out = tmp_path / "answer.png"
    answer = call("predict", picture, "--model", folders / "run", "--out", out, "--json", "--device=cpu").json
    assert answer["results"][0]["shares"]
    assert out.exists()


def refused(answer, *named):
    assert (answer.code, answer.out) == (2, ""), answer
    assert "Traceback" not in answer.err
    last = answer.err.splitlines()[-1]
    assert last.startswith("Error: ")
    for name in named:
        assert str(name) in last


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--task=segment"], ["--data, --layout, --model: must be given"]),
        (["--task=detect"], ["model='espnetv2_050_seg_voc'", "cannot do the task detect", "espnetv2_050_ssd_voc"]),
        (["--task=classify"], ["task='classify': the layout voc has segment, detect, multilabel"]),
        (["--splits=train"], ["--splits train"]),
        (["--set=epochs=x"], ["epochs=x"]),
        (["--epochs=2", "--set=epochs=3"], ["--epochs 2", "epochs=3"]),
        (["--weights=nowhere.pth"], ["nowhere.pth"]),
        (["--data=nowhere"], ["nowhere"]),
        (["--recipe=paper-fixed"], ["recipe='paper-fixed'"]),
    ],
)
def test_bad_input_to_training_is_one_line_and_leaves_nothing(call, folders, tmp_path, options, named):
    given = {"--task": "segment", "--layout": "voc", "--model": "espnetv2_050_seg_voc", "--data": folders / "voc"}
    given |= {"--recipe": "shapes", "--out": tmp_path / "run"}
    for option in options:
        name, _, value = option.partition("=")
        if name in given:
            given[name] = value
    arguments = [f"{name}={value}" for name, value in given.items()]
    arguments += ["--set=batch_size=4"]
    arguments += [option for option in options if option.partition("=")[0] not in given]
    if len(options) == 1 and options[0] == "--task=segment":
        arguments = options
    refused(call("vision-train", *arguments, "--device=cpu"), *named)
    assert not (tmp_path / "run").exists()


def test_bad_input_to_the_other_commands_is_one_line(call, folders, tmp_path):
    refused(call("vision-eval", folders / "run", "--size=32", "--device=cpu"), "--size '32'")
    refused(call("vision-eval", tmp_path / "nothing", "--device=cpu"), "no such model")
    refused(call("vision-eval", folders / "run", "--data", folders / "imagenet", "--device=cpu"), "imagenet")
    refused(call("vision-shapes", "--layout=voc", "--out", folders / "voc"), folders / "voc")
    refused(call("vision-shapes", "--layout=voc", "--out", tmp_path / "few", "--train=1"), "train=1")
    picture = next((folders / "voc" / "JPEGImages").iterdir())
    refused(call("predict", picture, "--model", folders / "run", "--num-classes=3", "--device=cpu"), "run folder")


def test_a_signal_ends_a_training_with_its_checkpoint_saved(folders, tmp_path):
    command = [sys.executable, "cli.py", "vision-train", "--task=classify", "--layout=imagenet", "--recipe=shapes"]
    command += ["--model=espnetv2_050", f"--data={folders / 'imagenet'}", f"--out={tmp_path / 'run'}"]
    process = subprocess.Popen([*command, *TINY[:2], "--epochs=5000", TINY[3]], stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '"step": 2' in metrics.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "stopped by SIGTERM" in said
    last = [json.loads(line) for line in metrics.read_text().splitlines()][-1]
    assert last["event"] in ("stop", "epoch")
    assert (tmp_path / "run" / "state.pt").exists()
