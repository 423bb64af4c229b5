import os
import stat
from pathlib import Path

import pytest

from eru.training import atomic_write, read_json, write_json


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
        pytest.raises(ValueError, match="mode must be 'w' or 'wb', got 'a'"),
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


@pytest.mark.parametrize("content", [None, b"", b'{"half": ', b"\xff\xfe"])
def test_read_json_names_the_bad_file(tmp_path, content):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_json(path)
