import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from vision import backbone, segmentation

# No test depends on a clock: a slow machine is no failure.
settings.register_profile("eru", deadline=None)
settings.load_profile("eru")


@pytest.fixture(scope="session")
def penn_treebank():
    """The folder of the Penn Treebank's files, which are not ours to distribute."""
    folders = [Path(os.environ["ERU_DATA_DIR"]) / "ptb"] if "ERU_DATA_DIR" in os.environ else []
    folders.append(Path(__file__).parents[2] / "shared/data/ptb")
    for folder in folders:
        if (folder / "ptb.train.txt").is_file():
            return folder
    pytest.skip("no Penn Treebank in $ERU_DATA_DIR/ptb or ../shared/data/ptb")


@pytest.fixture(scope="session")
def shallow():
    """What builds vision's networks with one layer of each kind, as `with shallow():`.

    Compiling and exporting take seconds for each layer. A level has one unit, and a pyramid of a segmenter one branch
    that enlarges, one that keeps the size and one that shrinks.
    """

    @contextmanager
    def one_of_each():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbone, "REPEATS", dict.fromkeys(backbone.REPEATS, 1))
            patch.setattr(segmentation, "SCALES", (1.5, 1.0, 0.1))
            yield

    return one_of_each


@pytest.fixture
def few_layers(shallow):
    """Builds vision's networks in that way for a whole test."""
    with shallow():
        yield


@pytest.fixture
def two_processes(tmp_path):
    """What runs a program in two processes that train together, as `two_processes(text, *arguments)`.

    They find each other as under torchrun, which itself would take as long to start as one of them. A program that
    joins them more than once finds a port for each time in $PORTS.
    """

    def run(text, *arguments):
        program = tmp_path / "program.py"
        program.write_text(text)
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            ports = [str(place.getsockname()[1]) for place in sockets]
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "PORTS": " ".join(ports), "WORLD_SIZE": "2"}
        variables = {**os.environ, **meeting, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, program, *map(str, arguments)]
        processes = [
            subprocess.Popen(command, env={**variables, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE)
            for rank in "01"
        ]
        said = [process.communicate()[1].decode() for process in processes]
        assert [process.returncode for process in processes] == [0, 0], "\n".join(said)

    return run
