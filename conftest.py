"""What holds for every test and doctest."""

import os

import pytest

# Several processes that each compute with several threads are many times slower than with one thread each. It must be
# said before torch is imported, and holds for the programs that tests start, too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Of several processes, give each whole files, so that what the tests of a file share is made once."""
    if config.getoption("dist", "no") == "no" and config.getoption("numprocesses", None):
        config.option.dist = "loadfile"
