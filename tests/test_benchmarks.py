"""The scripts of benchmarks/ start, which nobody would notice who only reads the results that lie beside them."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_each_script_finds_what_it_imports():
    # A script's own folder comes first on the path, so a script named like a package would hide it from the others.
    names = [path.stem for path in sorted(FOLDER.glob("*.py"))]
    assert "vision_data" in names
    if find_spec("atheris") is None:  # a fuzzer that only that script needs
        names.remove("fuzz_coverage")
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    done = subprocess.run([sys.executable, "-c", program, *names], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
