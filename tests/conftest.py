import os
from contextlib import contextmanager
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
