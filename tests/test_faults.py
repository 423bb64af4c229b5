"""Faults and damaged files, as the scripts of benchmarks/ draw them in their hundreds for docs/reliability.md."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def rows_of(script, *arguments):
    """The rows that a script prints."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--dry"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return [ast.literal_eval(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_damaged_files_are_answered_or_refused(tmp_path):
    assert rows_of("fuzz.py", "--files", "58", "--out", str(tmp_path)) == [{"files": 58, "faults": 0}]


@pytest.mark.slow
def test_after_every_fault_a_training_ends_as_if_there_had_been_none():
    rows = rows_of("faults.py", "--faults", "36", "--vision", "0.28")
    assert [(row["training"], row["unequal"]) for row in rows] == [("language model", 0), ("vision model", 0)]
    assert all(row["faults"] >= 10 for row in rows)
    assert sum(row["kinds"]["killed"] for row in rows) >= 24
