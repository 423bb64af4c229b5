import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from eru.lm.text import tokens
from eru.lm.text.corpus import SPLITS, load_corpus
from eru.lm.text.tokenizer import build_tokenizer
from eru.lm.text.tokens import encode_corpus
from eru.lm.text.vocabulary import WordTokenizer

TEXT = {
    "train": "the cat saw the dog\n\nthe dog saw the café\n" * 50,
    "valid": "the bird saw the dog",
    "test": "a dog\nthe dog\n",
}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("ERU_CACHE_DIR", str(tmp_path / "cache"))
    for split, text in TEXT.items():
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    return load_corpus(str(tmp_path))


@pytest.mark.parametrize("kind", ["word", "char", "sentencepiece"])
def test_every_line_is_encoded_and_ended(corpus, kind):
    tokenizer = build_tokenizer(kind, corpus.lines("train"))
    encoded = encode_corpus(corpus, tokenizer)
    for split in SPLITS:
        expected = [i for line in TEXT[split].splitlines() for i in [*tokenizer.encode(line), tokenizer.eos]]
        found = encoded[split]
        assert found.ids.tolist() == expected
        assert isinstance(found.ids, np.memmap)
        assert found.ids.dtype == np.uint16
        assert found.unknown == expected.count(tokenizer.unknown)
        assert found.unknown_rate == found.unknown / len(expected)
        assert found.bytes == len(TEXT[split].removesuffix("\n").encode()) + 1


@pytest.mark.parametrize("kind", ["word", "char", "sentencepiece"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_parts_of_any_size_are_together_the_whole_text(corpus, monkeypatch, kind, end):
    text = f"\ufeffthe cat saw{end}{end}the café <eos>{end}the dog{end}" * 20 + "saw the cat"
    corpus.path("train").write_bytes(text.encode())
    corpus = load_corpus(corpus.name)
    tokenizer = build_tokenizer(kind, corpus.lines("train"), 300 if kind == "sentencepiece" else None)
    whole = tokens._Parts(corpus, "train", tokenizer, np.dtype("<u2"))
    assert len(whole) == 1
    content, counts = whole[0]
    assert np.frombuffer(content, "<u2").tolist() == encode_corpus(corpus, tokenizer)["train"].ids.tolist()
    for size in (1, 7, 40, 333):
        monkeypatch.setattr(tokens, "_PART", size)
        parts = tokens._Parts(corpus, "train", tokenizer, np.dtype("<u2"))
        assert len(parts) == 1 if end == "\r" else len(parts) > 2
        made = [parts[number] for number in range(len(parts))]
        assert b"".join(part for part, _ in made) == content
        assert sum(part for _, part in made).tolist() == counts.tolist()


def test_several_processes_encode_what_one_does(corpus, monkeypatch):
    tokenizer = build_tokenizer("word", corpus.lines("train"))
    expected = {split: found.ids.tolist() for split, found in encode_corpus(corpus, tokenizer).items()}
    (folder,) = (Path(os.environ["ERU_CACHE_DIR"]) / "tokens").iterdir()
    fields = (folder / "tokens.json").read_text()
    shutil.rmtree(folder)
    monkeypatch.setattr(tokens, "_PART", 100)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    found = encode_corpus(corpus, tokenizer)
    assert {split: found[split].ids.tolist() for split in found} == expected
    assert (folder / "tokens.json").read_text() == fields
    assert torch.equal(torch.get_rng_state(), before)


def test_large_vocabularies_take_four_bytes(corpus):
    words = ["<unk>", "<eos>", *map(str, range(1 << 16)), "the", "dog"]
    found = encode_corpus(corpus, WordTokenizer(words, unknown=0, eos=1))["test"].ids
    assert found.dtype == np.uint32
    assert found.tolist() == [0, 65539, 1, 65538, 65539, 1]


def test_the_same_text_and_tokenizer_are_encoded_once(corpus, monkeypatch):
    lines = list(corpus.lines("train"))
    before = encode_corpus(corpus, build_tokenizer("word", lines))
    monkeypatch.setattr(tokens, "_encode", lambda *_: pytest.fail("encoded again"))
    after = encode_corpus(load_corpus(corpus.name), build_tokenizer("word", lines))
    for split in SPLITS:
        assert after[split].ids.tolist() == before[split].ids.tolist()
        assert (after[split].bytes, after[split].unknown) == (before[split].bytes, before[split].unknown)


@pytest.mark.parametrize("kind", ["word", "char", "sentencepiece"])
def test_text_that_marks_its_ends_gives_the_same_tokens(corpus, kind):
    tokenizer = build_tokenizer(kind, corpus.lines("train"))
    before = encode_corpus(corpus, tokenizer)
    for split in SPLITS:
        text = corpus.path(split).read_text(encoding="utf-8")
        corpus.path(split).write_text("".join(f"{line} <eos>\n" for line in text.splitlines()), encoding="utf-8")
    marked = load_corpus(corpus.name)
    assert marked.fingerprint != corpus.fingerprint
    after = encode_corpus(marked, build_tokenizer(kind, marked.lines("train")))
    for split in SPLITS:
        assert after[split].ids.tolist() == before[split].ids.tolist()
        assert after[split].bytes == before[split].bytes


def test_a_corpus_without_test_text_is_encoded(corpus):
    corpus.path("test").unlink()
    without = load_corpus(corpus.name)
    assert list(encode_corpus(without, build_tokenizer("word", without.lines("train")))) == ["train", "valid"]


def test_another_text_or_tokenizer_is_encoded_anew(corpus):
    tokenizer = build_tokenizer("word", corpus.lines("train"))
    assert encode_corpus(corpus, tokenizer)["test"].unknown == 1
    Path(corpus.path("test")).write_text("dog bird bird")
    changed = load_corpus(corpus.name)
    assert encode_corpus(changed, tokenizer)["test"].unknown == 2
    assert encode_corpus(changed, build_tokenizer("word", ["bird bird"]))["test"].unknown == 1


@pytest.mark.parametrize("text", ["dog", "dog\n", "\n\n dog \n"])
def test_one_token_is_too_few(corpus, text):
    tokenizer = build_tokenizer("word", corpus.lines("train"))
    Path(corpus.path("valid")).write_text(text)
    with pytest.raises(ValueError, match=r"valid\.txt: has 1 token.* at least 2"):
        encode_corpus(load_corpus(corpus.name), tokenizer)
    assert list((Path(os.environ["ERU_CACHE_DIR"]) / "tokens").iterdir()) == []


@pytest.fixture
def cached(corpus):
    """The corpus, its tokenizer, their folder in the cache, and what it holds."""
    tokenizer = build_tokenizer("word", corpus.lines("train"))
    before = {split: found.ids.tolist() for split, found in encode_corpus(corpus, tokenizer).items()}
    (folder,) = (Path(os.environ["ERU_CACHE_DIR"]) / "tokens").iterdir()
    return corpus, tokenizer, folder, before


def cut(path):
    os.truncate(path, 10)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, os.remove])
@pytest.mark.parametrize("name", ["train.bin", "test.bin", "tokens.json"])
def test_damaged_token_files_are_named_and_made_again(cached, name, damage):
    corpus, tokenizer, folder, before = cached
    damage(folder / name)
    with pytest.warns(UserWarning, match=f"{folder} are damaged .* and made again"):
        after = encode_corpus(corpus, tokenizer)
    assert {split: found.ids.tolist() for split, found in after.items()} == before
    assert {split: found.ids.tolist() for split, found in encode_corpus(corpus, tokenizer).items()} == before


def test_what_nothing_has_used_for_a_month_leaves_the_cache(cached):
    corpus, tokenizer, folder, _ = cached
    day, month = 25 * 3600, 31 * 24 * 3600
    other, fresh = (folder.with_name(f".{name}.0a1b2c3d.tmp") for name in ("half-made", "being-made"))
    for entry, age in ((folder, month), (other, day), (fresh, 0)):
        entry.mkdir(exist_ok=True)
        os.utime(entry, times=(0, time.time() - age))
    encode_corpus(corpus, tokenizer)  # a use
    corpus.path("test").write_text("a dog\n")
    encode_corpus(load_corpus(corpus.name), tokenizer)
    assert folder.is_dir()
    assert not other.exists()
    assert fresh.exists()
    os.utime(folder, times=(0, time.time() - month))
    corpus.path("test").write_text("the dog\n")
    encode_corpus(load_corpus(corpus.name), tokenizer)
    assert not folder.exists()


def test_penn_treebank_has_its_published_numbers(penn_treebank, tmp_path, monkeypatch):
    monkeypatch.setenv("ERU_CACHE_DIR", str(tmp_path))
    corpus = load_corpus("ptb", penn_treebank)
    tokenizer = build_tokenizer("word", corpus.lines("train"))
    assert tokenizer.vocab_size == 10_000
    encoded = encode_corpus(corpus, tokenizer)
    assert [len(encoded[split].ids) for split in SPLITS] == [929_589, 73_760, 82_430]
    assert tokenizer.decode(encoded["valid"].ids[:12]) == (
        "consumers may want to move their telephones a little closer to the"
    )
