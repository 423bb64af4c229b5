"""Signals: the step is finished, the checkpoint saved, and the run goes on as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import CASES, assert_same_run, contents, epoch_ends, state_of, steps_run, tiny, watch_steps

import eru.lm.steps
from eru.lm.evaluation import evaluate
from eru.lm.loop import train
from eru.lm.run import open_run
from eru.training import Interrupted, RunFolder

pytestmark = pytest.mark.usefixtures("no_pictures")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(tiny(**CASES["sgd, averaged"]), corpus, folder, quiet=True)
    return folder


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("moment", ["before the first checkpoint", "inside of an epoch", "at the end of one", "last"])
def test_it_finishes_the_step_and_goes_on_later(corpus, whole, tmp_path, monkeypatch, signum, moment):
    ends = epoch_ends(whole)
    steps = {"before the first checkpoint": 2, "inside of an epoch": ends[0] + 2, "at the end of one": ends[1]}
    step = steps.get(moment, ends[-1])

    def send(state, length):
        if state.position.step == step - 1:
            signal.raise_signal(signum)

    recipe, run = tiny(**CASES["sgd, averaged"]), tmp_path / "run"
    with monkeypatch.context() as patch:
        watch_steps(patch, send)
        with pytest.raises(Interrupted, match=f"stopped by {signum.name} after step {step}") as caught:
            train(recipe, corpus, run, quiet=True)
    assert (caught.value.signum, caught.value.step, state_of(run)["position"]["step"]) == (signum, step, step)
    assert evaluate(run, "valid", data=corpus).perplexity > 1
    train(recipe, corpus, run, resume=True, quiet=True)
    assert_same_run(run, whole)
    assert set(steps_run(run).values()) == {1}


def test_the_checkpoint_does_not_wait_for_the_validation(corpus, whole, tmp_path, monkeypatch):
    """The time that is left may be short: the process may be killed while it validates."""

    def killed(*_, **__):
        assert state_of(tmp_path / "run")["position"]["step"] == 2
        signal.raise_signal(signal.SIGINT)  # The second signal.

    recipe, run = tiny(**CASES["sgd, averaged"]), tmp_path / "run"
    with monkeypatch.context() as patch:
        watch_steps(
            patch, lambda state, length: signal.raise_signal(signal.SIGTERM) if state.position.step == 1 else 0
        )
        patch.setattr(eru.lm.steps, "evaluate_tokens", killed)
        with pytest.raises(KeyboardInterrupt) as caught:
            train(recipe, corpus, run, quiet=True)
    assert not isinstance(caught.value, Interrupted)
    train(recipe, corpus, run, resume=True, quiet=True)
    assert_same_run(run, whole)


def test_a_second_signal_ends_the_step_itself(corpus, tmp_path, monkeypatch):
    def send_twice(state, length):
        if state.position.step == 3:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)

    watch_steps(monkeypatch, send_twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(tiny(), corpus, tmp_path / "run", quiet=True)
    assert not isinstance(caught.value, Interrupted)
    assert state_of(tmp_path / "run")["position"]["step"] == 0


def test_a_signal_before_the_first_step_leaves_a_run_to_resume(corpus, whole, tmp_path):
    def stop():
        signal.raise_signal(signal.SIGHUP)
        return False

    recipe, run = tiny(**CASES["sgd, averaged"]), tmp_path / "run"
    with pytest.raises(Interrupted, match="after step 0,"):
        train(recipe, corpus, run, stop=stop, quiet=True)
    train(recipe, corpus, run, resume=True, quiet=True)
    assert_same_run(run, whole)


ENDLESS = ("--recipe=small", "--device=cpu", "--epochs=100000", "--set=log_every=1", "--set=schedule=constant")
SIZES = ("--set=embedding_size=8", "--set=hidden_size=8", "--set=batch_size=2", "--set=bptt=9")


def interrupted(command, run, signum, child=None):
    """Start an endless training in a process of its own, send it a signal after its first step, and wait for it.

    Or send the signal to one of its children.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(list(map(str, command)), env=environment, **streams) as process:
        while process.poll() is None and not ((run / "config.json").exists() and steps_run(run)):
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        os.kill(process.pid if child is None else int(children.read_text().split()[child]), signum)
        out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("signum", SIGNALS)
def test_the_command_says_how_to_go_on_and_exits_as_shells_expect(corpus, tmp_path, signum):
    run = tmp_path / "my run"
    command = [sys.executable, ROOT / "cli.py", "lm-train", "--data", corpus.name, "--out", run, *ENDLESS, *SIZES]
    code, out, err = interrupted(command, run, signum)
    assert (code, out) == (128 + signum, "")
    step = state_of(run)["position"]["step"]
    assert err.splitlines()[-1] == (
        f"stopped by {signum.name} after step {step}, with the checkpoint saved: "
        f"go on with python cli.py lm-train --resume --out '{run}'"
    )
    assert open_run(run).load_model().vocab_size > 2


@pytest.mark.slow
def test_several_processes_stop_together(corpus, tmp_path):
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, ROOT / "cli.py", "lm-train", "--data", corpus.name, "--out", run, *ENDLESS, *SIZES]
    code, _, err = interrupted(command, run, signal.SIGTERM)
    assert code != 0
    assert err.count("go on with python cli.py lm-train --resume") == 1, err
    step = state_of(run)["position"]["step"]
    assert step == max(record["step"] for record in RunFolder.open(run).metrics())
    assert any(path.name == "model.safetensors" for path in contents(run))


@pytest.mark.slow
def test_one_process_that_dies_ends_the_others_and_the_run_goes_on(corpus, tmp_path):
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, ROOT / "cli.py", "lm-train", "--data", corpus.name, "--out", run, *ENDLESS, *SIZES]
    code, _, err = interrupted(command, run, signal.SIGKILL, child=0)  # the one that writes
    assert code != 0
    assert "SIGKILL" in err
    step = state_of(run)["position"]["step"]
    command += ["--resume", f"--max-steps={step + 3}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert state_of(run)["position"]["step"] == step + 3
