import os
from pathlib import Path

import pytest
from hypothesis import settings

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
