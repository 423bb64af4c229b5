import json
from collections import defaultdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eru.lm.text.tokenizer import build_tokenizer, load_tokenizer
from eru.lm.text.vocabulary import WordTokenizer

KINDS = ("word", "char", "sentencepiece")
LINES = ["the cat saw the dog", "the dog saw it", "a cat , a dog and a <unk> bird"] * 3
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r▁"), max_size=30)


@pytest.fixture(scope="module")
def tokenizers():
    return {
        "word": build_tokenizer("word", LINES),
        "char": build_tokenizer("char", LINES),
        "sentencepiece": build_tokenizer("sentencepiece", LINES, 290),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_and_eos_is_a_newline(tokenizers, kind):
    tokenizer = tokenizers[kind]
    first, second = (tokenizer.encode(line) for line in LINES[:2])
    assert tokenizer.eos not in first + second
    assert max(first + second) < tokenizer.vocab_size
    eos = tokenizer.eos
    assert tokenizer.decode([*first, eos, *second, eos, eos]) == f"{LINES[0]}\n{LINES[1]}\n\n"
    assert tokenizer.decode([]) == ""


SCRIPTS = {
    "English": LINES,
    "Chinese without spaces": ["你好世界"] * 200,
    "Japanese with wide spaces": ["すもも\u3000もももももの\u3000うち"] * 50,
    "Thai": ["ภาษาไทยไม่เว้นวรรค"] * 50,
    "one space in many": ["天地玄黃宇宙洪荒日月盈昃辰宿列張"] * 999 + ["寒來 暑往"],
    "tables": ["a\tb\tc"] * 50,
    "spaces alone": ["  "] * 50,
    "symbols": ["\x00\u2028\ufeff🙂" * 3] * 50,
}


@pytest.fixture(scope="module")
def of_scripts():
    return {name: build_tokenizer("sentencepiece", lines, 300) for name, lines in SCRIPTS.items()}


@pytest.mark.parametrize("script", SCRIPTS)
@given(line=TEXT | st.lists(st.sampled_from([" ", "你好", "世界", "a", "\t", "\u3000"])).map("".join))
def test_sentencepiece_gives_every_line_back(of_scripts, script, line):
    tokenizer = of_scripts[script]
    ids = tokenizer.encode(line)
    assert tokenizer.decode(ids) == line
    assert not {tokenizer.unknown, tokenizer.eos} & set(ids)
    assert tokenizer.lacking(line) == []


@pytest.mark.parametrize("line", ["\ud800", "a \udcff b", "\udfff" * 3])
def test_what_utf8_cannot_express_is_refused_or_unknown(tokenizers, line):
    for kind in ("word", "char"):
        tokenizer = tokenizers[kind]
        assert tokenizer.unknown in tokenizer.encode(line)
    with pytest.raises(ValueError, match=r"line='.*': cannot be expressed in UTF-8"):
        tokenizers["sentencepiece"].encode(line)


@given(line=TEXT)
def test_unknown_units_are_unknown_and_the_others_come_back(tokenizers, line):
    types = set("".join(LINES))
    tokenizer = tokenizers["char"]
    ids = tokenizer.encode(line)
    assert [index == tokenizer.unknown for index in ids] == [sign not in types for sign in line]
    assert tokenizer.decode(ids) == "".join(sign if sign in types else "<unk>" for sign in line)
    assert tokenizer.lacking(line) == [sign for sign in line if sign not in types]


@given(line=st.lists(st.sampled_from(["cat", "dog", "zebra", "<unk>", "it"])).map(" ".join))
def test_words_that_are_lacking_read_unk(tokenizers, line):
    tokenizer = tokenizers["word"]
    assert tokenizer.decode(tokenizer.encode(line)) == line.replace("zebra", "<unk>")
    assert tokenizer.lacking(line) == ["zebra"] * line.count("zebra")


def test_types_by_falling_count_then_alphabet():
    tokenizer = build_tokenizer("word", ["c b a a b", "a c d"])
    assert tokenizer.types == ("<unk>", "<eos>", "a", "b", "c")
    assert build_tokenizer("char", ["cbab"]).types == ("<unk>", "<eos>", "b", "a", "c")


def test_words_seen_once_are_kept_where_the_text_marks_unknown_ones():
    assert build_tokenizer("word", ["a b <unk> b"]).types == ("<unk>", "<eos>", "b", "a")
    assert build_tokenizer("word", ["a b b"]).types == ("<unk>", "<eos>", "b")


def test_vocab_size_counts_the_special_types():
    assert build_tokenizer("word", ["a b b c c c"], 4).types == ("<unk>", "<eos>", "c", "b")
    assert build_tokenizer("word", ["a b b c c c"], 99).types == ("<unk>", "<eos>", "c", "b", "a")


@pytest.mark.parametrize(("kind", "size"), [("word", 2), ("char", 0), ("sentencepiece", 0), ("sentencepiece", 265)])
def test_a_vocab_size_too_small_is_refused(kind, size):
    with pytest.raises(ValueError, match=f"vocab_size={size}"):
        build_tokenizer(kind, LINES, size)


def test_a_size_that_the_characters_need_is_told_without_options_of_another_program():
    with pytest.raises(ValueError, match=r"vocab_size=262 .* 262 vs \d+\. Increase vocab_size$"):
        build_tokenizer("sentencepiece", ["abcdefghijklmnopqrstuvwxyz"] * 9, 262)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_text_is_refused(kind):
    with pytest.raises(ValueError, match="empty"):
        build_tokenizer(kind, ["", ""])


def test_an_unknown_kind_lists_the_known():
    with pytest.raises(ValueError, match="kind='bpe': must be one of word, char, sentencepiece"):
        build_tokenizer("bpe", LINES)


def test_sentencepiece_trains_in_silence_and_always_alike(tmp_path, capfd):
    for name in ("a", "b"):
        build_tokenizer("sentencepiece", LINES).save(tmp_path / name)
    model = (tmp_path / "a" / "tokenizer.model").read_bytes()
    assert model == (tmp_path / "b" / "tokenizer.model").read_bytes()
    assert capfd.readouterr() == ("", "")


def test_sentencepiece_learns_from_lines_of_any_length():
    """A whole corpus in one line, which sentencepiece would drop, teaches it the same words."""
    tokenizer = build_tokenizer("sentencepiece", [" ".join(f"{line} {n}" for n in range(300) for line in LINES)], 300)
    assert len(tokenizer.encode("the dog saw the dog")) < len("the dog saw the dog") / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_the_same(tokenizers, kind, tmp_path):
    tokenizers[kind].save(tmp_path / "new" / "folder")
    loaded = load_tokenizer(tmp_path / "new" / "folder")
    assert type(loaded) is type(tokenizers[kind])
    for name in ("vocab_size", "eos", "unknown"):
        assert getattr(loaded, name) == getattr(tokenizers[kind], name)
    line = "the dog and the émigré saw it"
    assert loaded.encode(line) == tokenizers[kind].encode(line)


GOOD = {"kind": "word", "unknown": 0, "eos": 1, "types": ["<unk>", "<eos>", "a"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "bpe"}, "kind='bpe'"),
        ({"types": ["a", "b", "a"]}, "'a' occurs more than once"),
        ({"types": ["a", "b", 3]}, "strings"),
        ({"types": None}, "not a tokenizer"),
        ({"eos": 3}, "eos=3"),
        ({"eos": 0}, "two ids"),
        ({"unknown": -1}, "unknown=-1"),
        ({"unknown": 0.5}, "unknown=0.5"),
        ({"kind": "sentencepiece"}, r"tokenizer\.model"),
    ],
)
def test_a_damaged_tokenizer_is_refused(tmp_path, change, message):
    (tmp_path / "tokenizer.json").write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "word"}', "\x00"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_damaged_model_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"kind": "sentencepiece"}')
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match="damaged"):
        load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        load_tokenizer(tmp_path)


class NewVocab:
    """The surface of torchtext's Vocab since 0.10."""

    def __init__(self, words, default):
        self.words, self.default = words, default

    def get_itos(self):
        return self.words

    def get_stoi(self):
        return {word: index for index, word in enumerate(self.words)}

    def __getitem__(self, word):
        return self.get_stoi().get(word, self.default)

    def get_default_index(self):
        return self.default


def legacy_vocab(words, unk_index):
    stoi = defaultdict(lambda: unk_index, {word: index for index, word in enumerate(words)})
    return SimpleNamespace(itos=words, stoi=stoi, unk_index=unk_index)


@pytest.mark.parametrize(
    "vocab",
    [
        NewVocab(["<pad>", "<unk>", "a", "b", "<eos>"], 1),
        legacy_vocab(["<pad>", "<unk>", "a", "b", "<eos>"], 1),
    ],
    ids=["new", "legacy"],
)
def test_foreign_vocabularies_keep_their_ids(vocab):
    tokenizer = WordTokenizer.from_vocab(vocab)
    assert (tokenizer.vocab_size, tokenizer.eos, tokenizer.unknown) == (5, 4, 1)
    assert tokenizer.encode("b a z") == [3, 2, 1]


def test_what_a_foreign_vocabulary_lacks_is_appended():
    assert WordTokenizer.from_vocab(NewVocab(["a", "b"], None)).types == ("a", "b", "<unk>", "<eos>")
    named_otherwise = WordTokenizer.from_vocab(NewVocab(["UNK", "a"], 0))
    assert (named_otherwise.types, named_otherwise.unknown) == (("UNK", "a", "<eos>"), 0)


@pytest.mark.parametrize(
    ("vocab", "error"),
    [(NewVocab(["a", "a"], 0), ValueError), (["a", "b"], TypeError), ("a b", TypeError), (7, TypeError)],
)
def test_foreign_things_are_refused(vocab, error):
    with pytest.raises(error, match=r"vocab|types"):
        WordTokenizer.from_vocab(vocab)
