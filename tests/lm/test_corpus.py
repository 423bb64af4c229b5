import hashlib

import pytest

from eru.lm.text.corpus import SPLITS, load_corpus


@pytest.fixture
def folder(tmp_path):
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text(f"first {split} line\nsecond\n", encoding="utf-8")
    return tmp_path


def test_a_folder_is_a_corpus(folder):
    corpus = load_corpus(str(folder))
    assert corpus.name == str(folder)
    assert list(corpus.lines("valid")) == ["first valid line", "second"]
    assert corpus.bytes("test") == len(b"first test line\nsecond\n")
    assert corpus.path("train") == folder / "train.txt"


def test_fingerprint_is_the_hash_of_the_three_hashes(folder):
    digests = b"".join(hashlib.sha256((folder / f"{split}.txt").read_bytes()).digest() for split in SPLITS)
    assert load_corpus(str(folder)).fingerprint == hashlib.sha256(digests).hexdigest()


def test_moving_a_line_between_splits_changes_the_fingerprint(folder):
    before = load_corpus(str(folder)).fingerprint
    (folder / "train.txt").write_text("first train line\n")
    (folder / "valid.txt").write_text("second\nfirst valid line\nsecond\n")
    assert load_corpus(str(folder)).fingerprint != before


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_of_every_system(folder, ending):
    (folder / "train.txt").write_bytes(f"\ufeffeins{ending}{ending}zwei\u2028drei".encode())
    assert list(load_corpus(str(folder)).lines("train")) == ["eins", "", "zwei\u2028drei"]


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_named(folder, content):
    (folder / "valid.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"valid\.txt: the file is empty"):
        load_corpus(str(folder))


@pytest.mark.parametrize("content", [b"caf\xe9 au lait", b"cut in a sign \xe2\x82"])
def test_text_that_is_not_utf8_is_named(folder, content):
    (folder / "test.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"test\.txt: not UTF-8"):
        load_corpus(str(folder))


def test_a_sign_across_two_chunks_is_no_error(folder, monkeypatch):
    monkeypatch.setattr("eru.lm.text.corpus._CHUNK", 2)
    (folder / "train.txt").write_text("a€b€c", encoding="utf-8")
    assert list(load_corpus(str(folder)).lines("train")) == ["a€b€c"]


def test_missing_files_are_named(folder):
    (folder / "valid.txt").unlink()
    (folder / "test.txt").unlink()
    with pytest.raises(ValueError, match=r"has no valid\.txt, test\.txt"):
        load_corpus(str(folder))


def test_an_unknown_corpus_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"unknown corpus 'wikitext': must be 'stdlib', 'ptb' or a folder"):
        load_corpus("wikitext")


def test_data_dir_is_for_ptb_only(folder):
    with pytest.raises(ValueError, match="data_dir"):
        load_corpus("stdlib", data_dir=folder)


def test_an_unknown_split_lists_the_known(folder):
    with pytest.raises(ValueError, match="split='dev': must be one of train, valid, test"):
        load_corpus(str(folder)).path("dev")
