import hashlib
import shutil

import pytest

from eru.lm.text import ptb
from eru.lm.text.ptb import ptb_files

NAMES = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Every place of the search inside a temporary folder, small files for the real ones, and no network."""
    source = tmp_path / "server"
    source.mkdir()
    for name in NAMES:
        (source / name).write_text(f" the text of {name} \n")
    monkeypatch.setattr(
        ptb, "PTB_MD5", {name: hashlib.md5((source / name).read_bytes()).hexdigest() for name in NAMES}
    )
    monkeypatch.setattr(ptb, "PTB_URL", (tmp_path / "offline").as_uri() + "/")
    monkeypatch.setenv("ERU_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ERU_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


ORDER = ("data/ptb", "torch/text/datasets/PennTreebank", "cache/ptb")


@pytest.mark.parametrize("index", range(3))
def test_the_first_place_that_has_all_files_is_taken(places, index):
    for place in ORDER[index:]:
        shutil.copytree(places / "server", places / place)
    for place in ORDER[:index]:
        (places / place).mkdir(parents=True)
        (places / place / "ptb.train.txt").write_text("one file is not enough")
    assert ptb_files() == {split: places / ORDER[index] / f"ptb.{split}.txt" for split in ("train", "valid", "test")}


@pytest.mark.parametrize("place", [*ORDER, "mine"])
def test_an_altered_file_is_named_with_both_checksums(places, place):
    shutil.copytree(places / "server", places / place)
    (places / place / "ptb.valid.txt").write_text("altered")
    found = hashlib.md5(b"altered").hexdigest()
    message = rf"ptb\.valid\.txt .* MD5 must be {ptb.PTB_MD5['ptb.valid.txt']}, found {found}"
    with pytest.raises(ValueError, match=message):
        ptb_files(places / place if place == "mine" else None)


def test_data_dir_is_the_only_place(places):
    shutil.copytree(places / "server", places / "data/ptb")
    (places / "mine").mkdir()
    shutil.copy(places / "server/ptb.test.txt", places / "mine")
    with pytest.raises(ValueError, match=r"mine': has no ptb\.train\.txt, ptb\.valid\.txt$"):
        ptb_files(places / "mine")


def test_download_fills_the_cache_once(places, monkeypatch):
    monkeypatch.setattr(ptb, "PTB_URL", (places / "server").as_uri() + "/")
    files = ptb_files()
    assert [files[split].read_bytes() for split in ("train", "valid", "test")] == [
        (places / "server" / name).read_bytes() for name in NAMES
    ]
    shutil.rmtree(places / "server")
    assert ptb_files() == files


@pytest.mark.parametrize("limit", [5, 1 << 20])
def test_a_wrong_or_cut_download_is_never_kept(places, monkeypatch, limit):
    (places / "server" / "ptb.train.txt").write_text("404: not found, says the portal of the hotel")
    monkeypatch.setattr(ptb, "PTB_URL", (places / "server").as_uri() + "/")
    monkeypatch.setattr(ptb, "_SIZE_LIMIT", limit)
    with pytest.raises(ValueError, match=r"ptb\.train\.txt(.* altered|: larger than 5 bytes)"):
        ptb_files()
    assert list((places / "cache/ptb").iterdir()) == []


def test_offline_the_message_says_where_to_put_the_files(places):
    with pytest.raises(ValueError, match=r"^ptb: not found in") as error:
        ptb_files()
    message = str(error.value)
    assert "\n" not in message
    assert str(places / "cache/ptb") in message
    for way in ("$ERU_DATA_DIR/ptb", "--data-dir", "data_dir"):
        assert way in message
    for name in (*NAMES, *(str(places / place) for place in ORDER)):
        assert name in message
