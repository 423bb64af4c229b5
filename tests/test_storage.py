from pathlib import Path

import pytest

from eru.storage import cache_dir, make_cache_folder, new_folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ERU_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/eru")),
        ({"ERU_CACHE_DIR": "", "XDG_CACHE_HOME": ""}, Path("/home/someone/.cache/eru")),
    ],
)
def test_the_cache_follows_its_variables(monkeypatch, variables, expected):
    for name in ("ERU_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == expected


def test_a_folder_appears_only_when_complete(tmp_path):
    target = tmp_path / "deep" / "corpus"
    with new_folder(target) as draft:
        (draft / "train.txt").write_text("text")
        assert not target.exists()
    assert [file.name for file in target.iterdir()] == ["train.txt"]
    assert list(target.parent.iterdir()) == [target]


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    def fill():
        with new_folder(tmp_path / "corpus") as draft:
            (draft / "train.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_processes_wins(tmp_path):
    with new_folder(tmp_path / "corpus") as slow:
        (slow / "train.txt").write_text("slow")
        with new_folder(tmp_path / "corpus") as quick:
            (quick / "train.txt").write_text("quick")
    assert (tmp_path / "corpus" / "train.txt").read_text() == "quick"
    assert list(tmp_path.iterdir()) == [tmp_path / "corpus"]


def test_a_place_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="ERU_CACHE_DIR"):
        make_cache_folder(tmp_path / "file" / "eru")
