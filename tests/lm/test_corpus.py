import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    (folder / "train.txt").unlink()
    (folder / "valid.txt").unlink()
    with pytest.raises(ValueError, match=r"has no train\.txt, valid\.txt$"):
        load_corpus(str(folder))


def test_only_who_asks_for_the_test_text_needs_it(folder):
    whole = load_corpus(folder)
    (folder / "test.txt").unlink()
    corpus = load_corpus(folder)
    assert list(corpus.files) == ["train", "valid"]
    assert list(corpus.lines("train")) == list(whole.lines("train"))
    digests = b"".join(hashlib.sha256((folder / f"{split}.txt").read_bytes()).digest() for split in corpus.files)
    assert corpus.fingerprint == hashlib.sha256(digests).hexdigest() != whole.fingerprint
    with pytest.raises(ValueError, match=rf"split='test': the folder {folder} has no test\.txt$"):
        next(corpus.lines("test"))
    (folder / "wiki.test.raw").write_text("text")
    with pytest.raises(ValueError, match=r"has no test\.txt: rename or copy wiki\.test\.raw to test\.txt$"):
        corpus.path("test")


@pytest.mark.parametrize(
    "names",
    [
        ("train.TXT", "valid.TXT", "test.TXT"),
        ("Train.txt", "Valid.txt", "Test.txt"),
        ("train", "val", "test"),
        ("training.txt", "validation.txt", "test.text"),
        ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("my-train.txt.gz", "my_dev_1.txt", "my-test.txt.gz"),
    ],
)
def test_files_of_other_names_are_named_with_those_expected(folder, names):
    for split, name in zip(SPLITS, names, strict=True):
        (folder / f"{split}.txt").rename(folder / name)
    for other in ("constraint.txt", "interval.txt", "devices.csv", "README.md"):
        (folder / other).write_text("nothing of it")
    if not (folder / "train.txt").exists():  # where names of other case are other names
        expected = f"rename or copy {names[0]} to train.txt, {names[1]} to valid.txt"
        with pytest.raises(ValueError, match=re.escape(f"{folder} has no train.txt, valid.txt: {expected}") + "$"):
            load_corpus(folder)


@given(lines=st.lists(st.text(st.sampled_from("ab <eos>\t"), max_size=20).map(str.strip), max_size=5))
def test_an_end_that_the_text_marks_itself_is_no_second_one(tmp_path_factory, lines):
    lines = [line for line in lines if not line.endswith("<eos>")]
    folder = tmp_path_factory.mktemp("marked")
    for form in ("{}\n", "{} <eos>\n", " {}\t<eos> \r\n"):
        (folder / "train.txt").write_bytes("".join(form.format(line) for line in [*lines, "end"]).encode())
        (folder / "valid.txt").write_text("text <eos>")
        assert [line.strip() for line in load_corpus(folder).lines("train")] == [*lines, "end"]


def test_only_a_mark_of_its_own_before_the_newline_is_an_end(folder):
    text = ["<eos>", "a <eos> b", "a<eos>", "a <eos> <eos>", "a <eos>."]
    (folder / "train.txt").write_text("\n".join(text))
    assert list(load_corpus(folder).lines("train")) == ["", "a <eos> b", "a<eos>", "a <eos>", "a <eos>."]


def test_an_unknown_corpus_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"unknown corpus 'wikitext': must be 'stdlib', 'ptb' or a folder"):
        load_corpus("wikitext")


def test_data_dir_is_for_ptb_only(folder):
    with pytest.raises(ValueError, match="data_dir"):
        load_corpus("stdlib", data_dir=folder)


def test_an_unknown_split_lists_the_known(folder):
    with pytest.raises(ValueError, match="split='dev': must be one of train, valid, test"):
        load_corpus(str(folder)).path("dev")
