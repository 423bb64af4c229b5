import pytest

from vision.data import TASKS, write_shapes

SHAPES_SIZE = (64, 96)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A folder with shapes in each layout, all of one seed; 96 pixels wide and 64 high."""
    root = tmp_path_factory.mktemp("shapes")
    for layout in TASKS:
        write_shapes(layout, root / layout, train=18, val=7, seed=3, size=SHAPES_SIZE)
    return root
