"""One training at a time in a run folder."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eru.training import RunFolder, lock

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")

HOLD = """
import sys, time
from pathlib import Path
from torch.utils.data import DataLoader
from eru.training.lock import held
with held(Path(sys.argv[1])):
    if sys.argv[2] == "1":
        reading = iter(DataLoader(range(10**6), num_workers=1, multiprocessing_context="fork"))
        next(reading)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {})


@pytest.mark.parametrize("workers", [0, 1])
def test_another_process_is_kept_out_until_it_dies(run, workers):
    command = [sys.executable, "-c", HOLD, str(run.path), str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(ValueError, match="another training is at work in this folder"), run.held():
                pytest.fail("both hold it")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        with run.held():  # at once, though a process that read for it may still be there
            pass


def test_without_locks_a_training_goes_on(run, monkeypatch):
    def has_none(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")

    draft = run.path / ".state.pt.0a1b2c3d.tmp"
    draft.touch()
    monkeypatch.setattr(lock.fcntl, "flock", has_none)
    with run.held(), run.held():
        assert draft.exists()  # another training may be writing it


def test_the_hold_ends_with_its_block_whatever_happens(run):
    with pytest.raises(ZeroDivisionError), run.held():
        1 / 0  # noqa: B018
    with run.held():
        pass
    with run.held():
        pass


def test_what_a_killed_process_left_half_written_is_removed(run):
    (run.path / "tokenizer").mkdir()
    drafts = [run.path / ".state.pt.0a1b2c3d.tmp", run.path / "tokenizer" / ".tokenizer.json.ffffffff.tmp"]
    others = [run.path / ".notes.tmp", run.path / "state.pt.0a1b2c3d.tmp", run.path / ".x.0A1B2C3D.tmp"]
    for file in (*drafts, *others):
        file.write_bytes(b"half")
    folder = run.path / ".copy.00000000.tmp"
    folder.mkdir()
    (folder / "config.json").touch()
    with run.held():
        assert not any(path.exists() for path in (*drafts, folder))
        assert all(path.exists() for path in others)


def test_a_refused_process_removes_nothing(run):
    draft = run.path / ".state.pt.0a1b2c3d.tmp"
    with run.held():
        draft.write_bytes(b"half")
        with pytest.raises(ValueError, match="another training"), run.held():
            pass
        assert draft.exists()
