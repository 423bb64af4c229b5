import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
from tiny_runs import (
    AVERAGED,
    CASES,
    COSINE,
    Killed,
    assert_same_run,
    contents,
    course_of,
    epoch_ends,
    loop,
    same,
    state_of,
    steps_run,
    stop_after,
    tiny,
)

import eru.lm.steps
from eru.lm.batches import segments
from eru.lm.loop import train
from eru.lm.recipes import make_recipe
from eru.lm.run import open_run
from eru.lm.text.tokens import encode_corpus
from eru.training import RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module", params=CASES)
def whole(request, corpus, tmp_path_factory):
    """A recipe, and the folder of a run of it that was never stopped."""
    recipe = tiny(**CASES[request.param])
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe, corpus, folder, quiet=True)
    return recipe, folder


def test_the_whole_run(whole, corpus):
    recipe, folder = whole
    ends = epoch_ends(folder)
    assert len(ends) == recipe.epochs
    assert steps_run(folder) == Counter(range(1, ends[-1] + 1))
    tokens = len(encode_corpus(corpus, open_run(folder).tokenizer)["train"].ids)
    cut = [segments(tokens // 2 - 1, 9, seed=recipe.seed, epoch=epoch) for epoch in range(recipe.epochs)]
    assert ends == [sum(map(len, cut[: epoch + 1])) for epoch in range(recipe.epochs)]
    if recipe.averaging:
        state = state_of(folder)
        assert ends[2] <= ends[-1] - state["average"]["n_averaged"] < ends[-1]
        records = [r for r in RunFolder.open(folder).metrics() if r["event"] == "epoch"]
        assert next(r["averaging"] for r in records) is False
        assert records[-1]["averaging"]
        assert records[-1]["valid_loss"] != records[-1]["raw_valid_loss"]


def test_stopped_and_resumed_equals_whole(whole, corpus, tmp_path):
    """Stopped inside of an epoch, at an epoch's end, and inside of the last one."""
    recipe, folder = whole
    ends = epoch_ends(folder)
    stops = [
        {"max_steps": ends[0] - 3},
        {"max_steps": ends[0]},
        {"max_steps": ends[0] + 2},
        {"max_steps": ends[-2]},
        {"max_steps": ends[-1] - 2},
        {},
    ]
    done = [ends[0] - 3, ends[0], ends[0] + 2, ends[-2], ends[-1] - 2, ends[-1]]
    run = tmp_path / "run"
    for number, (stop, steps) in enumerate(zip(stops, done, strict=True)):
        result = train(recipe, corpus, run, resume=number > 0, quiet=True, **stop)
        assert result.steps == steps
        assert result.epochs == sum(end <= steps for end in ends)
    assert_same_run(run, folder)
    assert set(steps_run(run).values()) == {1}
    resumed = [record["step"] for record in RunFolder.open(run).metrics() if record["event"] == "resume"]
    assert resumed == sorted({*done[:-1]})


def test_slices_in_a_folder_that_moves_equal_the_whole(whole, corpus, tmp_path):
    """Each slice ends wherever its time is up: inside an epoch, at an epoch's end, or before its first step."""
    recipe, folder = whole
    run, slices, finished = tmp_path / "0", 0, False
    while not finished:
        slices += 1
        moved = run.rename(tmp_path / str(slices)) if run.exists() else tmp_path / str(slices)
        finished = train(recipe, corpus, moved, resume=True, stop=stop_after(slices * 5 % 17), quiet=True).finished
        run = moved
    assert_same_run(run, folder)
    ends = epoch_ends(folder)
    assert set(steps_run(run).values()) == {1}
    starts = {record["step"] for record in RunFolder.open(run).metrics() if record["event"] == "resume"}
    assert starts & set(ends)
    assert starts - set(ends)


@pytest.mark.parametrize("later", [0, 1])
def test_a_stop_at_an_epochs_end_validates_once(whole, corpus, tmp_path, later):
    """Whether its time was up with the last step or only with the validation."""
    recipe, folder = whole
    first = epoch_ends(folder)[0]
    result = train(recipe, corpus, tmp_path / "run", stop=stop_after(first + later), quiet=True)
    assert (result.steps, result.epochs, result.finished) == (first, 1, False)
    assert [r["event"] for r in RunFolder.open(tmp_path / "run").metrics() if r["event"] != "step"] == [
        "start",
        "epoch",
    ]


def test_killed_and_resumed_equals_whole(whole, corpus, tmp_path, monkeypatch):
    recipe, folder = whole
    run, step = tmp_path / "run", loop.train_step
    last = epoch_ends(folder)[-1] - 1  # in the last epoch, where the mean of the weights is in use

    def killed_at(state, *others):
        if state.position.step == last:
            raise Killed
        return step(state, *others)

    monkeypatch.setattr(loop, "train_step", killed_at)
    with pytest.raises(Killed):
        train(recipe, corpus, run, quiet=True)
    monkeypatch.undo()
    checkpoint = RunFolder.open(run).load_state()["position"]["step"]
    assert 0 < checkpoint <= last
    train(recipe, corpus, run, resume=True, quiet=True)
    assert_same_run(run, folder)
    times = steps_run(run)
    assert {times[n] for n in range(1, checkpoint + 1)} == {1}
    assert {times[n] for n in range(checkpoint + 1, last + 1)} <= {2}
    (resumed,) = (record["step"] for record in RunFolder.open(run).metrics() if record["event"] == "resume")
    assert resumed == checkpoint


def test_killed_at_any_moment_of_any_writing_it_resumes(corpus, tmp_path, monkeypatch):
    """Before and after each file is replaced, the folder can be resumed, or started where there is no run yet."""
    recipe = tiny(bptt=30, random_bptt=False, checkpoint_every=3, log_every=4, num_layers=1)
    train(recipe, corpus, tmp_path / "whole", quiet=True)
    fsync, calls = os.fsync, 0

    def killed_at(number):
        def sync(descriptor):
            nonlocal calls
            calls += 1
            if calls == number:
                raise Killed
            fsync(descriptor)

        return sync

    number, kills = 0, 0
    while kills == number:
        number += 1
        calls, run = 0, tmp_path / str(number)
        monkeypatch.setattr(os, "fsync", killed_at(number))
        try:
            train(recipe, corpus, run, quiet=True)
        except Killed:
            kills += 1
        monkeypatch.setattr(os, "fsync", fsync)
        result = train(recipe, corpus, run, resume=True, quiet=True)
        assert result.epochs == 2
        assert_same_run(run, tmp_path / "whole")
        assert (run / "README.md").read_text() == (tmp_path / "whole" / "README.md").read_text()
    assert kills > 15


def test_killed_before_the_last_validation_it_is_not_finished(corpus, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    recipe = tiny(checkpoint_every=2)
    with monkeypatch.context() as patch:
        patch.setattr(eru.lm.steps, "evaluate_tokens", killed)
        with pytest.raises(Killed):
            train(recipe, corpus, tmp_path / "run", max_steps=4, quiet=True)
    result = train(recipe, corpus, tmp_path / "run", resume=True, max_steps=4, quiet=True)
    assert math.isfinite(result.valid_perplexity)
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_process_killed_by_a_signal_resumes(corpus, tmp_path):
    recipe = tiny(checkpoint_every=2, epochs=40)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, json\n"
        "from eru.lm.text.corpus import load_corpus\n"
        "from eru.lm.recipes import Recipe\n"
        "from eru.lm.loop import train\n"
        "train(Recipe(**json.loads(sys.argv[1])), load_corpus(sys.argv[2]), sys.argv[3], quiet=True)\n"
    )
    run = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), json.dumps(asdict(recipe)), corpus.name, str(run)]
    with subprocess.Popen(command, env=environment) as process:
        while process.poll() is None and not ((run / "state.pt").exists() and state_of(run)["position"]["step"]):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    checkpoint = RunFolder.open(run).load_state()["position"]["step"]
    train(recipe, corpus, run, resume=True, max_steps=checkpoint + 3, quiet=True)
    train(recipe, corpus, tmp_path / "whole", max_steps=checkpoint + 3, quiet=True)
    found, expected = state_of(run), state_of(tmp_path / "whole")
    assert same(found["model"], expected["model"])
    assert same(found["optimizer"], expected["optimizer"])
    assert {steps_run(run)[n] for n in range(1, checkpoint + 1)} == {1}


def test_resume_starts_where_there_is_no_run(corpus, tmp_path):
    assert train(tiny(), corpus, tmp_path / "run", resume=True, max_steps=3, quiet=True).steps == 3


def test_a_lost_checkpoint_is_no_new_start(corpus, tmp_path):
    """Whatever of the earlier training is left, nothing of it is overwritten."""
    whole = tmp_path / "whole"
    train(tiny(), corpus, whole, max_steps=3, quiet=True)
    for name in ("state.pt", "state.previous.pt"):
        (whole / name).unlink()
    for event in ("epoch", "stop"):
        run = Path(shutil.copytree(whole, tmp_path / event))
        (run / "model.safetensors").unlink()
        (run / "metrics.jsonl").write_text(json.dumps({"event": event, "step": 3, "epoch": 1}) + "\n")
    weights = Path(shutil.copytree(whole, tmp_path / "weights"))
    (weights / "metrics.jsonl").unlink()
    open_run(whole).publish(tmp_path / "published")
    for name in ("whole", "epoch", "stop", "weights", "published"):
        run = tmp_path / name
        before = contents(run)
        with pytest.raises(ValueError, match=rf"{run} cannot go on: it holds .* not its checkpoint state\.pt"):
            train(tiny(), corpus, run, resume=True, quiet=True)
        assert contents(run) == before


@pytest.mark.filterwarnings("ignore:.*state.previous.pt, is taken in its place")
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-100])])
def test_where_the_last_checkpoint_is_lost_the_one_before_it_ends_at_the_same_weights(whole, corpus, tmp_path, damage):
    (recipe, whole_run), run = whole, tmp_path / "run"
    ends = epoch_ends(whole_run)
    train(recipe, corpus, run, max_steps=ends[0] + 2, quiet=True)
    damage(run / "state.pt")
    train(recipe, corpus, run, resume=True, quiet=True)
    assert_same_run(run, whole_run)


@pytest.mark.parametrize("kept", [["config.json"], ["config.json", "tokenizer"], ["config.json", "metrics.jsonl"]])
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_anew(corpus, tmp_path, kept):
    train(tiny(), corpus, tmp_path / "whole", max_steps=3, quiet=True)
    run = tmp_path / "run"
    train(tiny(log_every=1), corpus, run, max_steps=3, quiet=True)
    records = [record for record in RunFolder.open(run).metrics() if record["event"] in ("start", "step")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for path in run.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    train(tiny(), corpus, run, resume=True, max_steps=3, quiet=True)
    assert_same_run(run, tmp_path / "whole")


def test_resume_of_a_finished_run_changes_no_byte(whole, corpus):
    recipe, folder = whole
    before = contents(folder)
    done = epoch_ends(folder)[-1]
    for stop in ({}, {"max_steps": done}, {"max_steps": 1}, {"stop": lambda: True}):
        result = train(recipe, corpus, folder, resume=True, quiet=True, **stop)
        assert (result.epochs, result.steps) == (recipe.epochs, done)
        assert contents(folder) == before


def test_a_run_of_no_steps_can_be_continued(corpus, tmp_path):
    result = train(tiny(), corpus, tmp_path / "run", stop=lambda: True, quiet=True)
    assert (result.epochs, result.steps, result.tokens_per_second) == (0, 0, 0)
    assert result.valid_perplexity == result.train_perplexity == math.inf
    assert train(tiny(), corpus, tmp_path / "run", resume=True, max_steps=1, quiet=True).steps == 1


def test_the_schedule_does_not_depend_on_the_stop(whole, corpus, tmp_path):
    recipe, folder = whole
    train(recipe, corpus, tmp_path / "run", max_steps=9, quiet=True)
    rates = {step: record["learning_rate"] for (event, step), record in course_of(folder).items() if event == "step"}
    for (event, step), record in course_of(tmp_path / "run").items():
        assert event == "step"
        assert record["learning_rate"] == rates[step]
    if recipe.schedule == "cosine":
        ends = [0, *epoch_ends(folder)]
        for epoch, (start, end) in enumerate(pairwise(ends)):
            windows = end - start
            for window in range(windows):
                done, total = epoch * windows + window, recipe.epochs * windows
                progress = max(done - 4, 0) / (total - 4)
                factor = min((done + 1) / 5, (1 + math.cos(math.pi * progress)) / 2)
                assert math.isclose(rates[start + window + 1], recipe.learning_rate * factor, rel_tol=1e-9)


@pytest.mark.parametrize("epochs", [100_000, 10**12, 10**30])
def test_nothing_takes_longer_for_more_epochs(corpus, tmp_path, monkeypatch, epochs):
    listed = []
    monkeypatch.setattr(loop, "segments", lambda *args, **draw: listed.append(draw) or segments(*args, **draw))
    result = train(tiny(**COSINE), corpus, tmp_path / "run", epochs=epochs, max_steps=3, quiet=True)
    assert (result.steps, result.finished) == (3, False)
    train(tiny(**COSINE), corpus, tmp_path / "run", epochs=epochs, resume=True, max_steps=4, quiet=True)
    assert [draw["epoch"] for draw in listed] == [0, 0]


def test_epochs_are_those_of_the_recipe(corpus, tmp_path):
    train(tiny(**COSINE), corpus, tmp_path / "told", epochs=4, quiet=True)
    train(tiny(**{**COSINE, "epochs": 4}), corpus, tmp_path / "recipe", quiet=True)
    assert_same_run(tmp_path / "told", tmp_path / "recipe")


@pytest.mark.parametrize("epochs", [1, 9])
def test_a_falling_rate_is_not_resumed_with_other_epochs(corpus, tmp_path, epochs):
    recipe = tiny(**COSINE)
    train(recipe, corpus, tmp_path / "run", max_steps=1, quiet=True)
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"epochs={epochs}: the learning rate .* falls over {recipe.epochs} epochs"):
        train(recipe, corpus, tmp_path / "run", resume=True, epochs=epochs, quiet=True)
    assert contents(tmp_path / "run") == before


def test_a_constant_rate_is_resumed_with_other_epochs(corpus, tmp_path):
    recipe = tiny(**AVERAGED)
    train(recipe, corpus, tmp_path / "whole", quiet=True)
    for epochs in (1, 3, recipe.epochs):
        result = train(recipe, corpus, tmp_path / "run", resume=True, epochs=epochs, quiet=True)
        assert (result.epochs, result.finished) == (epochs, True)
        assert open_run(tmp_path / "run").recipe.epochs == epochs
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_of_another_model_is_refused_by_its_name(corpus, tmp_path):
    for name, changes in (("run", {}), ("wider", {"hidden_size": 12})):
        train(tiny(**COSINE, **changes), corpus, tmp_path / name, max_steps=1, quiet=True)
    run, wider = (RunFolder.open(tmp_path / name) for name in ("run", "wider"))
    state = run.load_state()
    for broken, reason in (
        (wider.load_state(), "RuntimeError: size mismatch"),
        ({name: part for name, part in state.items() if name != "optimizer"}, "KeyError: 'optimizer'"),
        ({**state, "position": {"epochs": 1}}, "TypeError: .*'epochs'"),
    ):
        run.save_state(broken)
        with pytest.raises(ValueError, match=rf"state\.pt does not fit its config\.json: {reason}"):
            train(tiny(**COSINE), corpus, run.path, resume=True, quiet=True)


def test_resume_refuses_another_run(whole, corpus, make_corpus, tmp_path):
    recipe, folder = whole
    before = contents(folder)
    other = make_corpus(["a b c d"] * 30, ["a b"], ["a b"])
    for changes, options, message in (
        ({"hidden_size": 12}, {}, r"recipe\.hidden_size \(saved 8, given 12\)"),
        ({"seed": 9, "bptt": 7}, {}, r"recipe\.bptt \(saved 9, given 7\), recipe\.seed \(saved 1, given 9\)"),
        ({}, {"corpus": other}, r"data\.fingerprint \(saved '\w+', given '\w+'\)"),
        ({}, {"precision": "bfloat16"}, r"precision \(saved 'float32', given 'bfloat16'\)"),
    ):
        changed = make_recipe("small", **{k: v for k, v in {**asdict(recipe), **changes}.items() if k != "name"})
        arguments = {"corpus": corpus, **options}
        with pytest.raises(ValueError, match=rf"holds a run of another configuration: {message};"):
            train(changed, out=folder, resume=True, quiet=True, **arguments)
        assert contents(folder) == before
    (tmp_path / "config.json").write_text('{"kind": "segmentation"}')
    with pytest.raises(ValueError, match=r"holds no language model: kind='segmentation'"):
        train(recipe, corpus, tmp_path, resume=True, quiet=True)


def test_a_copied_text_is_the_same_text(corpus, make_corpus, tmp_path):
    copy = make_corpus(*(list(corpus.lines(split)) for split in ("train", "valid", "test")))
    assert copy.name != corpus.name
    train(tiny(), corpus, tmp_path / "run", max_steps=1, quiet=True)
    assert train(tiny(), copy, tmp_path / "run", resume=True, max_steps=2, quiet=True).steps == 2


def test_an_existing_folder_is_left_alone(whole, corpus, tmp_path):
    recipe, folder = whole
    before = contents(folder)
    with pytest.raises(ValueError, match="holds a run already: go on with it"):
        train(recipe, corpus, folder, quiet=True)
    assert contents(folder) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="a file is in its place"):
        train(recipe, corpus, tmp_path / "file", quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_config_older_than_a_field_means_its_default(corpus, tmp_path):
    run = tmp_path / "run"
    train(tiny(), corpus, run, max_steps=1, quiet=True)
    config = json.loads((run / "config.json").read_text())
    del config["sha256"]
    for field in ("partial_shuffle", "patience"):
        del config["recipe"][field]
    config["recipe"]["conv_axis"] = "feature"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"configuration: recipe\.partial_shuffle \(saved False, given True\);"):
        train(tiny(partial_shuffle=True), corpus, run, resume=True, quiet=True)
    assert train(tiny(), corpus, run, resume=True, max_steps=2, quiet=True).steps == 2
    assert open_run(run).recipe == tiny()


def test_a_checkpoint_with_the_older_names_is_resumed(whole, corpus, tmp_path):
    recipe, folder = whole
    run = tmp_path / "run"
    train(recipe, corpus, run, max_steps=epoch_ends(folder)[0] + 2, quiet=True)
    state = RunFolder.open(run).load_state()
    position = state["position"]
    position["window"], position["tokens"] = position.pop("batch"), position.pop("counted")
    RunFolder.open(run).save_state(state)
    train(recipe, corpus, run, resume=True, quiet=True)
    assert_same_run(run, folder)
