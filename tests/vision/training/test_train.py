"""Training of all four tasks on small pictures: what it leaves behind, and that a stop changes nothing."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image

import vision.training.loop as loop
from eru.training import NonFiniteLossError, RunFolder
from vision import create_model, save_weights
from vision.datasets import numbered
from vision.preprocessing import Preprocessing
from vision.training.loop import train
from vision.training.recipes import make_recipe
from vision.training.run import open_run

pytestmark = pytest.mark.usefixtures("few_layers")
TASKS = {
    "classify": ("imagenet", "espnetv2_050"),
    "multilabel": ("coco", "espnetv2_050"),
    "segment": ("voc", "espnetv2_050_seg_voc"),
    "detect": ("coco", "espnetv2_050_ssd_coco"),
}
QUALITY = {"classify": "top1", "multilabel": "f1", "segment": "mean_iou", "detect": "map"}


def tiny(task, **changes):
    changes = {"epochs": 2, "batch_size": 4, "sizes": ((48, 64),), "log_every": 1, "checkpoint_every": 2, **changes}
    return make_recipe("shapes", task, **changes)


def run(recipe, shapes, out, **options):
    layout, model = TASKS[recipe.task]
    options = {"quiet": True, **options}
    return train(recipe, options.pop("model", model), layout, shapes / layout, out, **options)


def weights(folder):
    return RunFolder.open(folder).load_weights()


def assert_same(some, others):
    assert some.keys() == others.keys()
    for name in some:
        assert torch.equal(some[name], others[name]), name


def without_time(records):
    own = ("seconds", "pictures_per_second", "device", "threads", "variables", "torch")
    return [{k: v for k, v in record.items() if k not in own} for record in records if record["event"] != "resume"]


@pytest.mark.parametrize("task", TASKS)
def test_a_stopped_run_resumed_equals_one_that_never_was(shapes, tmp_path, task):
    recipe = tiny(task, ema=0.9)
    whole = run(recipe, shapes, tmp_path / "whole")
    assert (whole.finished, whole.epochs, whole.steps, whole.quality) == (True, 2, 6, QUALITY[task])
    assert whole.train_pictures == 12
    assert whole.valid_pictures == 6
    for last in (1, 3, 4):  # inside of the first epoch, at its end, inside of the second
        stopped = run(recipe, shapes, tmp_path / "parts", resume=True, max_steps=last)
        assert (stopped.finished, stopped.steps) == (False, last)
    resumed = run(recipe, shapes, tmp_path / "parts", resume=True)
    assert replace(resumed, run="", pictures_per_second=0) == replace(whole, run="", pictures_per_second=0)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    histories = [without_time(RunFolder.open(tmp_path / name).metrics()) for name in ("whole", "parts")]
    assert [r for r in histories[1] if r["event"] != "stop"] == histories[0]
    assert run(recipe, shapes, tmp_path / "whole", resume=True).steps == 6  # a finished run stays as it is


@pytest.mark.parametrize("task", TASKS)
def test_a_run_leaves_a_model_that_predicts_and_a_sheet_to_look_at(shapes, tmp_path, task):
    result = run(tiny(task, epochs=1), shapes, tmp_path / "run")
    opened = open_run(tmp_path / "run")
    assert opened.task == task
    (record,) = opened.folder.epochs()
    assert record[result.quality] == pytest.approx(1 - record["valid_loss"])
    assert result.best == pytest.approx(record[result.quality])
    assert result.parameters == sum(p.numel() for p in opened.load_model().parameters())
    with Image.open(tmp_path / "run" / "sheet.png") as sheet:
        assert min(sheet.size) > 100
    assert (tmp_path / "run" / "curve.png").exists()
    layout, _ = TASKS[task]
    picture = next(p for p in (shapes / layout).rglob("*.*") if p.suffix in (".jpg", ".png") and "Class" not in str(p))
    assert opened.predictor()(picture).describe()


def test_it_learns(shapes, tmp_path):
    recipe = tiny("segment", epochs=6, rates=(0.01,), scales=(1.0, 1.0), flip=0.0)
    run(recipe, shapes, tmp_path / "run")
    losses = [record["train_loss"] for record in open_run(tmp_path / "run").folder.epochs()]
    assert losses[-1] < 0.8 * losses[0]


def test_two_stages_see_two_sizes(shapes, tmp_path, monkeypatch):
    seen, step = [], loop.train_step

    def watched(*others):
        seen.append((tuple(others[-1][0].shape[2:]), others[0].position.epoch))
        return step(*others)

    monkeypatch.setattr(loop, "train_step", watched)
    recipe = tiny("segment", epochs=1, sizes=((32, 48), (48, 64)), rates=(1e-3, 1e-4))
    assert run(recipe, shapes, tmp_path / "run").epochs == 2
    assert sorted(set(seen)) == [((32, 48), 0), ((48, 64), 1)]


@pytest.mark.parametrize("freeze", ["backbone", "batch-norm"])
def test_what_is_frozen_stays(shapes, tmp_path, freeze):
    before = tmp_path / "start.safetensors"
    torch.manual_seed(0)
    start = create_model("espnetv2_050", num_classes=6)
    save_weights(start, before)
    run(tiny("classify", epochs=1, freeze=freeze, rates=(0.1,)), shapes, tmp_path / "run", weights=before)
    after = weights(tmp_path / "run")
    held = {name for name, value in start.state_dict().items() if torch.equal(value, after[name])}
    norms = {
        f"{name}.{part}"
        for name, module in start.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for part in module.state_dict()
    }
    backbone = {name for name in after if name.startswith("backbone.")}
    assert held >= (norms if freeze == "batch-norm" else backbone)
    assert {name for name in after if name.startswith("classifier.")}.isdisjoint(held)


def test_a_start_with_other_classes_keeps_all_but_the_last_layer(shapes, tmp_path):
    before = tmp_path / "start.safetensors"
    start = create_model("espnetv2_050", num_classes=6)
    save_weights(start, before)
    options = {"weights_backbone": before, "stop": lambda: True}
    result = run(tiny("segment"), shapes, tmp_path / "run", **options)
    assert result.steps == 0
    state = open_run(tmp_path / "run").folder.load_state()["model"]
    own = start.state_dict()
    shared = [name for name in state if name.startswith("backbone.")]
    assert shared
    assert all(torch.equal(state[name], own[name]) for name in shared)


@pytest.mark.parametrize("task", TASKS)
def test_accumulated_gradients_train_as_whole_batches_do(shapes, tmp_path, task):
    # With the statistics of batch norm held, a part's outputs do not depend on the others.
    for accumulate in (1, 2):
        recipe = tiny(task, accumulate=accumulate, freeze="batch-norm", optimizer="sgd", schedule="constant")
        run(recipe, shapes, tmp_path / str(accumulate), max_steps=1)
    states = [RunFolder.open(tmp_path / str(n)).load_state() for n in (1, 2)]
    whole, parts = ({i: s["momentum_buffer"] for i, s in state["optimizer"]["state"].items()} for state in states)
    assert all(sum(float(gradient.abs().sum()) for gradient in found.values()) > 0 for found in (whole, parts))
    if task in ("classify", "multilabel"):  # The others weight a picture by its pixels or objects that count.
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(states[1]["model"], states[0]["model"], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"batch_size=4: cannot be cut into .* accumulate=3 parts"):
        run(tiny(task, accumulate=3), shapes, tmp_path / "refused")


def test_a_loss_that_is_no_number_ends_the_run_before_a_checkpoint(shapes, tmp_path):
    recipe = tiny("classify", rates=(1e30,), optimizer="sgd", clip=1e30, schedule="constant")
    with pytest.raises(
        NonFiniteLossError,
        match=r"at step \d+ \(epoch 1, the first gradient that is not finite is that of backbone\..*\): lower",
    ):
        run(recipe, shapes, tmp_path / "run")
    state = RunFolder.open(tmp_path / "run").load_state()
    assert all(value.isfinite().all() for value in state["model"].values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"batch_size": 13}, {}, "batch_size=13: there are only 12 training pictures"),
        ({}, {"model": "espnetv2_050_seg_voc"}, "model='espnetv2_050_seg_voc': cannot do the task classify"),
        ({}, {"model": "espnet"}, "name='espnet': no such model"),
        ({}, {"max_steps": -1}, "max_steps=-1"),
        ({}, {"splits": ("train", "valid")}, "valid"),
        ({}, {"depth": 3}, "depth=3: espnetv2_050 has no such option"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(shapes, tmp_path, changes, options, said):
    with pytest.raises(ValueError, match=said):
        run(tiny("classify", **changes), shapes, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_another_recipe_or_data_set_cannot_be_resumed(shapes, tmp_path):
    run(tiny("classify"), shapes, tmp_path / "run", max_steps=1)
    with pytest.raises(ValueError, match=r"recipe\.weight_decay"):
        run(tiny("classify", weight_decay=0.5), shapes, tmp_path / "run", resume=True)
    with pytest.raises(ValueError, match="holds a run already"):
        run(tiny("classify"), shapes, tmp_path / "run")


@pytest.mark.parametrize("broken", ["refuse", "skip"])
def test_a_broken_picture_is_refused_by_name_or_counted(shapes, tmp_path, broken):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(shapes / "imagenet", data)
    victim = sorted((data / "train").rglob("*.*"))[3]
    victim.write_bytes(victim.read_bytes()[:200])
    call = {"recipe": tiny("classify", epochs=1), "model": "espnetv2_050", "layout": "imagenet", "data": data}
    if broken == "refuse":
        with pytest.raises(ValueError, match=victim.name):
            train(**{**call, "recipe": tiny("classify", batch_size=12)}, out=tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()  # nothing was learned, so nothing stands in the way
    else:
        train(**call, out=tmp_path / "run", broken="skip", quiet=True)
        (record,) = open_run(tmp_path / "run").folder.epochs()
        assert record["passed_over"] == 1
        assert math.isfinite(record["train_loss"])


def test_weights_to_start_from_are_named_once_unless_no_checkpoint_holds_them(shapes, tmp_path):
    before, out = tmp_path / "start.safetensors", tmp_path / "run"
    save_weights(create_model("espnetv2_050", num_classes=6), before)
    run(tiny("classify"), shapes, out, weights=before, max_steps=1)
    assert run(tiny("classify"), shapes, out, resume=True, max_steps=2).steps == 2
    for name in ("state.pt", "state.previous.pt", "model.safetensors", "metrics.jsonl"):
        (out / name).unlink()
    with pytest.raises(ValueError, match=r"killed before it held the weights to start from.*--weights"):
        run(tiny("classify"), shapes, out, resume=True)
    assert run(tiny("classify"), shapes, out, resume=True, weights=before, max_steps=1).steps == 1


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("model", 1e308, "'model' is 1e\\+308: must be an object"),
        ("model", {"name": "espnetv2_050"}, "'num_classes' of 'model' is None"),
        ("model", {"name": [], "num_classes": 2}, "'name' of 'model' is "),
        ("data", None, "'data' is None"),
        ("data", {"layout": "voc", "root": "x", "splits": "train"}, "'splits' of 'data' is 'train'"),
        ("data", {"layout": "voc", "root": "x", "splits": [1, 2]}, "'splits' of 'data' is .*: must be names"),
        ("data", {"layout": "voc", "root": "x", "splits": [], "start": 3}, "'start' of 'data' is 3"),
        ("recipe", {"name": "mine"}, "no recipe"),
        ("dataset", [], "config.json is broken"),
        ("preprocessing", {"size": "large"}, "config.json is broken"),
    ],
)
def test_a_config_of_another_shape_is_named(tmp_path, part, value, said):
    config = {
        "kind": "vision-model",
        "recipe": asdict(tiny("classify")),
        "model": {"name": "espnetv2_050", "num_classes": 2},
        "dataset": asdict(numbered(2)),
        "preprocessing": asdict(Preprocessing((32, 32))),
        "data": {"layout": "imagenet", "root": "pictures", "splits": ["train", "val"]},
    }
    RunFolder.create(tmp_path / "whole", config)
    assert open_run(tmp_path / "whole").task == "classify"
    RunFolder.create(tmp_path / "run", {**config, part: value})
    with pytest.raises(ValueError, match=rf"run/config\.json is broken: .*{said}|{said}"):
        open_run(tmp_path / "run")
