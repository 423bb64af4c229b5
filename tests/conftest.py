import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# No test depends on a clock: a slow machine is no failure.
settings.register_profile("eru", deadline=None)
settings.load_profile("eru")

if os.environ.get("TRITON_INTERPRET") == "1":
    # The interpreter multiplies the bits of bfloat16 as integers, and cuts where the GPU rounds.
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    _create_dot, _convert_float = interpreter.InterpreterBuilder.create_dot, interpreter._convert_float

    def _widened(handle):
        if handle.data.dtype != np.uint16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def _dot(self, a, b, *others):
        return _create_dot(self, _widened(a), _widened(b), *others)

    def _convert(data, source, target, rounding):
        if (source, target) != (tl.float32, tl.bfloat16):
            return _convert_float(data, source, target, rounding)
        return torch.tensor(data.view(np.float32)).bfloat16().view(torch.int16).numpy().view(np.uint16)

    interpreter.InterpreterBuilder.create_dot, interpreter._convert_float = _dot, _convert


@pytest.fixture(scope="session")
def penn_treebank():
    """The folder of the Penn Treebank's files, which are not ours to distribute."""
    folders = [Path(os.environ["ERU_DATA_DIR"]) / "ptb"] if "ERU_DATA_DIR" in os.environ else []
    folders.append(Path(__file__).parents[2] / "shared/data/ptb")
    for folder in folders:
        if (folder / "ptb.train.txt").is_file():
            return folder
    pytest.skip("no Penn Treebank in $ERU_DATA_DIR/ptb or ../shared/data/ptb")


@pytest.fixture
def run_interpreted():
    """Runs a test file in Triton's interpreter, in a process of its own.

    The interpreter replaces Triton's language when that is imported, so no other test may share its process.
    """

    def run(file):
        pytest.importorskip("triton", minversion="3.7", reason="older interpreters and newer NumPy do not fit")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        done = subprocess.run(
            command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert "passed" in done.stdout

    return run


class NoGPU:
    """As much of a driver as Triton needs to compile."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    get_current_stream = staticmethod(lambda device: 0)


@pytest.fixture
def h200_target(monkeypatch):
    """Lets Triton compile where there is no GPU; skips where its driver is another."""
    triton = pytest.importorskip("triton", minversion="3.4")
    monkeypatch.setattr(triton.runtime.driver, "_active", NoGPU())
