"""What holds for every test and doctest."""

import os

# Several processes that each compute with several threads are many times slower than with one thread each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
