import os

import pytest

import eru.training.memory
from eru.training import check_memory


@pytest.mark.parametrize("limit", [None, "max", "1000"])
def test_a_container_has_the_memory_that_it_is_given(tmp_path, monkeypatch, limit):
    file = tmp_path / "memory.max"
    monkeypatch.setattr(eru.training.memory, "_CONTAINER", file)
    if limit is not None:
        file.write_text(f"{limit}\n")
    check_memory(1000, "cpu", "a model")
    if limit == "1000":
        with pytest.raises(ValueError, match=r"this machine has 0\.0 GB"):
            check_memory(1001, "cpu", "a model")
    else:
        check_memory(1001, "cpu", "a model")


def test_what_is_larger_than_the_machine_is_refused_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(eru.training.memory, "_CONTAINER", tmp_path / "no container")
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    check_memory(there, "cpu", "a model")
    with pytest.raises(
        ValueError, match=r"^a model: needs at least [\d,.]+ GB of memory, and this machine has [\d,.]+"
    ):
        check_memory(there + 1, "cpu", "a model")
