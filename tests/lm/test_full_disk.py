"""A disk that is full for a while: nothing is lost, and the training goes on when there is room again."""

import errno
import shutil
import subprocess

import pytest
from tiny_runs import COSINE, assert_same_run, tiny

from eru.lm.loop import train

pytestmark = pytest.mark.usefixtures("no_pictures")
SIZE = 2_000_000  # bytes, of which a run of this kind takes a tenth
PAGE = 4096


@pytest.fixture
def small_disk(tmp_path):
    """A folder with a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a file system of its own")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free_bytes(folder):
    return shutil.disk_usage(folder).free


@pytest.mark.parametrize("room", [0, 10 * PAGE])
def test_a_training_goes_on_after_a_full_disk(small_disk, corpus, tmp_path, room):
    recipe, run, filler = tiny(**COSINE), small_disk / "run", small_disk / "filler"
    train(recipe, corpus, tmp_path / "whole", quiet=True)
    train(recipe, corpus, run, max_steps=6, quiet=True)
    with filler.open("wb", buffering=0) as file:
        while file.write(bytes(PAGE)) == PAGE and free_bytes(small_disk):
            pass
        file.truncate(filler.stat().st_size - room)
    with pytest.raises(OSError, match="No space left") as full:
        train(recipe, corpus, run, resume=True, quiet=True)
    assert full.value.errno == errno.ENOSPC
    assert str(run) in str(full.value.filename)
    filler.unlink()
    train(recipe, corpus, run, resume=True, quiet=True)
    assert_same_run(run, tmp_path / "whole")
    assert not list(run.glob(".*.tmp"))
