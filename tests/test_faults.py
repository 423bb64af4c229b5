"""Trainings of both kinds, struck at random moments by the script that does it hundreds of times for the documents."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "faults.py"


@pytest.mark.slow
def test_after_every_fault_a_training_ends_as_if_there_had_been_none():
    command = [sys.executable, str(SCRIPT), "--faults", "100", "--dry"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    rows = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert [(row["training"], row["unequal"]) for row in rows] == [("language model", 0), ("vision model", 0)]
    assert all(row["faults"] >= 50 for row in rows)
    assert all(row["kinds"]["killed"] > 20 for row in rows)
    assert all(row["kinds"]["full disk"] > 0 for row in rows)
