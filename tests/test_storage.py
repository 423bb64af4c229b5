import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from eru.storage import atomic_write, cache_dir, draft_of, make_cache_folder, new_folder, read_json, write_json


@pytest.mark.parametrize(("mode", "old", "new"), [("w", "old", "ünd new"), ("wb", b"old", b"\x00new")])
def test_atomic_write_replaces_the_whole_file(tmp_path, mode, old, new):
    path = tmp_path / "file"
    for content in (old, new):
        with atomic_write(path, mode) as file:
            file.write(content)
    assert path.read_bytes() == (new.encode() if mode == "w" else new)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_target_is_untouched_until_the_body_ends(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [True, False])
def test_exception_leaves_no_trace(tmp_path, error, existing):
    path = tmp_path / "file"
    if existing:
        path.write_text("old")

    def interrupted():
        with atomic_write(path) as file:
            file.write("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert [p.read_text() for p in tmp_path.iterdir()] == (["old"] if existing else [])


def test_content_and_name_reach_the_disk_in_order(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("folder" if is_folder else f"file of {os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def record_replace(self, target):
        events.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    with atomic_write(tmp_path / "file") as file:
        file.write("12345")
    assert events == ["file of 5 bytes", "replace", "folder"]


def test_permissions_are_those_of_a_plain_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_atomic_write_refuses_other_modes(tmp_path):
    with (
        pytest.raises(ValueError, match="mode='a': must be 'w' or 'wb'"),
        atomic_write(tmp_path / "x", "a"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_json_round_trip(tmp_path):
    value = {"name": "ünïcode", "rate": 0.1 + 0.2, "nested": {"list": [1, None, True]}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize(("value", "error"), [([float("nan")], ValueError), ([object()], TypeError)])
def test_write_json_refuses_what_json_cannot_say(tmp_path, value, error):
    write_json(tmp_path / "x.json", "old")
    with pytest.raises(error):
        write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == "old"


@pytest.mark.parametrize("content", [None, b"", b'{"half": ', b"\xff\xfe", b"[" * 99_999])
def test_read_json_names_the_bad_file(tmp_path, content):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_json(path)


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


def test_a_program_may_write_the_draft(tmp_path):
    for content in (b"old", b"new"):
        with draft_of(tmp_path / "library.so") as draft:
            assert (draft.parent, draft.exists()) == (tmp_path, False)
            subprocess.run([sys.executable, "-c", f"open({str(draft)!r}, 'wb').write({content!r})"], check=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("library.so", b"new")]


def test_a_draft_that_was_never_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileNotFoundError), draft_of(tmp_path / "file"):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("old")
    with pytest.raises(OSError, match="folder"), atomic_write(tmp_path / "folder") as file:
        file.write("new")
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["folder", "mine"]


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match="file"), new_folder(tmp_path / "file"):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_whole_tree_reaches_the_disk_before_its_name(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (flushed.append(os.fstat(descriptor).st_ino), fsync(descriptor))
    )
    with new_folder(tmp_path / "run") as draft:
        (draft / "tokenizer").mkdir()
        (draft / "tokenizer" / "tokenizer.json").write_text("{}")
        (draft / "config.json").write_text("{}")
    made = {path.stat().st_ino for path in (tmp_path / "run", *(tmp_path / "run").rglob("*"))}
    assert set(flushed[:-1]) == made
    assert flushed[-1] == tmp_path.stat().st_ino
