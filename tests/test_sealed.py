"""Files with a digest: whatever is done to one, what comes out is what was put in, or an error."""

import errno
import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from eru.sealed import (
    load_sealed,
    load_sealed_json,
    pack_tensors,
    read_metadata,
    save_sealed,
    save_sealed_json,
    unpack_tensors,
)

TENSORS = {
    "weight": torch.arange(12.0).view(3, 4),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "scalar": torch.tensor(3),
    "none": torch.empty(0, 2),
}
STATE = {"step": 7, "model": TENSORS, "history": [5.5, None, True], "name": "run"}


def equal(found, expected):
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(equal(found[name], expected[name]) for name in expected)
    return found == expected


def flips(content, count):
    """The content with one flipped bit, at so many places."""
    for place in random.Random(0).sample(range(8 * len(content)), count):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


def test_tensors_come_back_and_others_can_read_them(tmp_path):
    content = pack_tensors(TENSORS, {"architecture": '{"name": "é"}'})
    assert equal(unpack_tensors(content), TENSORS)
    assert equal(load(content), TENSORS)
    (tmp_path / "file.safetensors").write_bytes(content)
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert json.loads(file.metadata()["architecture"]) == {"name": "é"}
    assert read_metadata(content)["architecture"] == '{"name": "é"}'


@given(names=st.lists(st.text(max_size=5), unique=True, max_size=6))
def test_equal_tensors_give_equal_bytes_whose_data_is_aligned(names):
    tensors = {name: torch.full((3,), float(i)) for i, name in enumerate(names)}
    metadata = {"a": "1", "b": "2", "c": "3"}
    content = pack_tensors(tensors, metadata)
    assert content == pack_tensors(tensors, metadata)
    assert int.from_bytes(content[:8], "little") % 8 == 0
    assert equal(unpack_tensors(content), tensors)


def test_tensors_that_share_memory_and_have_strides_are_written_as_they_are():
    base = torch.arange(24.0).view(2, 3, 2, 2)
    tensors = {"base": base, "same": base, "part": base[1:], "last": base.to(memory_format=torch.channels_last)}
    assert equal(unpack_tensors(pack_tensors(tensors)), tensors)


def test_no_flipped_bit_of_tensors_goes_unnoticed():
    content = pack_tensors(TENSORS)
    for changed in flips(content, 600):
        try:
            found = unpack_tensors(changed)
        except (ValueError, SafetensorError):
            continue
        assert equal(found, TENSORS)  # the flip was in the word "sha256" itself


def test_a_file_from_elsewhere_has_no_digest_and_is_read():
    content = save(TENSORS)
    assert equal(unpack_tensors(content), TENSORS)
    assert read_metadata(content) == {}


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]", b"PK\3\4 no tensors"])
def test_other_content_has_no_metadata(content):
    assert read_metadata(content) == {}
    with pytest.raises(SafetensorError):
        unpack_tensors(content)


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(tmp_path):
    path = tmp_path / "state.pt"
    save_sealed(STATE, path)
    assert equal(load_sealed(path), STATE)
    assert equal(torch.load(path, weights_only=True), STATE)  # the digest behind it disturbs nobody
    for changed in flips(path.read_bytes(), 300):
        path.write_bytes(changed)
        try:
            found = load_sealed(path)
        except ValueError:
            continue
        assert equal(found, STATE)


def test_every_cut_of_a_checkpoint_is_refused_or_harmless(tmp_path):
    path = tmp_path / "state.pt"
    save_sealed(STATE, path)
    content = path.read_bytes()
    for kept in [*range(0, len(content), 97), *range(len(content) - 90, len(content))]:
        path.write_bytes(content[:kept])
        try:
            found = load_sealed(path)
        except ValueError:
            continue
        assert equal(found, STATE)


def test_a_checkpoint_of_before_has_no_digest_and_is_read(tmp_path):
    torch.save(STATE, tmp_path / "state.pt")
    assert equal(load_sealed(tmp_path / "state.pt"), STATE)


def test_what_is_replaced_is_kept_where_it_is_wanted(tmp_path):
    path, before = tmp_path / "state.pt", tmp_path / "state.previous.pt"
    for step in range(3):
        save_sealed({"step": step}, path, replaced=before)
    assert (load_sealed(path), load_sealed(before)) == ({"step": 2}, {"step": 1})


class FullDisk:
    """A file on a disk with so many bytes left."""

    def __init__(self, file, left):
        self.file, self.left = file, left

    def write(self, data):
        if len(data) > self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= len(data)
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


@pytest.mark.parametrize("left", [0, 100, 1000, 2500, 4000])
def test_a_full_disk_is_told_as_such_and_loses_nothing(tmp_path, monkeypatch, left):
    path, before = tmp_path / "state.pt", tmp_path / "state.previous.pt"
    save_sealed({"step": 1}, path)
    size = path.stat().st_size
    real = type(path).open
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", lambda self, *args, **kwargs: FullDisk(real(self, *args, **kwargs), left))
        with pytest.raises(OSError, match="No space left on device") as caught:
            save_sealed({"step": 2, "weight": torch.zeros(3000)}, path, replaced=before)
    assert caught.value.filename == str(path)
    assert load_sealed(path) == {"step": 1}
    assert [(file.name, file.stat().st_size) for file in tmp_path.iterdir()] == [("state.pt", size)]


def test_no_flipped_bit_of_a_json_file_passes_unseen(tmp_path):
    path = tmp_path / "fields.json"
    save_sealed_json({"rate": 0.4, "names": ("a", "é", "sha256"), "deep": {"none": None}, "3": True}, path)
    expected, content, refused = load_sealed_json(path), path.read_bytes(), []
    assert expected["names"] == ["a", "é", "sha256"]
    for changed in flips(content, 8 * len(content)):
        path.write_bytes(changed)
        try:
            found = load_sealed_json(path)
        except ValueError as error:
            refused.append(str(error))
            continue
        # A bit of the white space between two names may pass, and one of the digest's own name.
        assert {name: value for name, value in found.items() if name in expected} == expected
    assert len(refused) > 7 * len(content)
    assert all(str(path) in message for message in refused)


def test_json_without_a_digest_is_read(tmp_path):
    (tmp_path / "older.json").write_text('{"a": 1}')
    assert load_sealed_json(tmp_path / "older.json") == {"a": 1}
    (tmp_path / "list.json").write_text("[1]")
    assert load_sealed_json(tmp_path / "list.json") == [1]


def test_what_was_changed_on_purpose_says_how_it_is_read_again(tmp_path):
    path = tmp_path / "config.json"
    save_sealed_json({"a": 1, "b": 2}, path)
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({"b": 2, **fields}))  # the order means nothing
    assert load_sealed_json(path) == {"a": 1, "b": 2}
    path.write_text(json.dumps({**fields, "a": 3}))
    with pytest.raises(ValueError, match=r'config\.json is not what was written .*; .* take "sha256" out'):
        load_sealed_json(path)
    path.write_text(json.dumps({"a": 3, "b": 2}))
    assert load_sealed_json(path) == {"a": 3, "b": 2}
