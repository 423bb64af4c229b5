import os

import pytest

from eru.training import check_memory


def test_what_is_larger_than_the_machine_is_refused_and_named():
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    check_memory(there, "cpu", "a model")
    with pytest.raises(
        ValueError, match=r"^a model: needs at least [\d,.]+ GB of memory, and this machine has [\d,.]+"
    ):
        check_memory(there + 1, "cpu", "a model")
