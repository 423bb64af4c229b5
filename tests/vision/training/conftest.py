import pytest

from vision.data import write_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A folder with a few small pictures in every layout."""
    root = tmp_path_factory.mktemp("shapes")
    for layout in ("imagenet", "coco", "voc", "cityscapes"):
        write_shapes(layout, root / layout, train=12, val=6, size=(48, 64))
    return root
