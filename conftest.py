"""What holds for every test and doctest."""

import os
from importlib.util import find_spec

# Several processes that each compute with several threads are many times slower than with one thread each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Doctest collection cannot import these where Triton is not installed.
collect_ignore_glob = [] if find_spec("triton") else ["vision/branches/kernel.py"]
