"""The program for a machine with a GPU, tried out in small on whatever this machine has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command):
    """A program of its own, which finds this checkout's packages."""
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_it_checks_and_measures_in_small():
    results = ROOT / "benchmarks" / "results" / "gpu.json"
    before = results.read_bytes() if results.exists() else None
    done = run("benchmarks/gpu.py", "--tiny")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert all(0 <= row["difference"] <= row["limit"] for row in record["checks"])
    cases, types = ("plain", "projection", "lengths"), ("float32", "bfloat16")
    checked = {row["check"] for row in record["checks"]}
    assert checked >= {f"fused, {case}, torch.{dtype}" for case in cases for dtype in types}
    assert {(row["layer"], row["dtype"]) for row in record["layers"]} == {
        (layer, f"torch.{dtype}") for layer in ("nn.LSTM", "ERU") for dtype in types
    }
    assert all(row["ms"] > 0 for row in record["layers"])
    assert (results.read_bytes() if results.exists() else None) == before


@pytest.mark.slow
@pytest.mark.parametrize("found", ["0.2", "gpu.difference([one, one * float('nan')], [one, one])"])
def test_a_check_that_fails_ends_it(found):
    program = "import sys; sys.path.insert(0, 'benchmarks'); import gpu; one = gpu.torch.ones(1); "
    program += f"gpu.check('this', {found}, 0.1)"
    done = run("-c", program)
    assert done.returncode != 0
    assert "FAILED: this" in done.stderr
