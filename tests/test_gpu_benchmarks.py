"""The GPU's benchmarks where there is no GPU: what they say, and what they count."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here they would run")
@pytest.mark.parametrize("name", ["gpu_eesp", "gpu_recurrence"])
def test_without_a_gpu_they_say_so_in_one_line(name):
    done = subprocess.run([sys.executable, FOLDER / f"{name}.py"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"{name}.py: error: needs a GPU, and torch finds none"
    assert done.stdout == ""


@pytest.fixture
def gpu_eesp(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("gpu_eesp")
    for name in ("gpu_eesp", "gpu", "environment"):
        del sys.modules[name]


def test_blocks_are_those_of_the_papers_table(gpu_eesp):
    blocks = gpu_eesp.blocks()
    # Strided units of levels 2 to 5, and 3, 7 and 3 units after the last three.
    counted = sorted((b.channels, b.height, b.width, b.stride, count) for b, count in blocks.items())
    assert counted == sorted(
        [
            (24, 112, 112, 2, 1),
            (32, 56, 56, 2, 1),
            (64, 28, 28, 2, 1),
            (128, 14, 14, 2, 1),
            (64, 28, 28, 1, 3),
            (128, 14, 14, 1, 7),
            (256, 7, 7, 1, 3),
        ]
    )


def test_bytes_are_those_of_the_tensors(gpu_eesp):
    block = gpu_eesp.Block(3, 5, 8, 2, (1, 1, 2))
    unit = gpu_eesp.make_unit(block.channels, block.stride, block.dilations)
    y = torch.randn(2, 3, 5, 8)
    assert block.bytes_moved(2, 4) == y.nbytes + gpu_eesp.EagerBranches(unit)(y).nbytes
