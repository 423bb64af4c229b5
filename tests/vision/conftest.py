import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with the authors' files, which are not ours to distribute."""
    folder = os.environ.get("ERU_REFERENCE")
    if not folder:
        pytest.skip("needs the authors' weights and arrays made with them: set ERU_REFERENCE to their folder")
    return Path(folder)
