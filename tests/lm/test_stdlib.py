import re

import pytest

from eru.lm.text import stdlib
from eru.lm.text.corpus import load_corpus
from eru.lm.text.prose import prose_lines
from eru.lm.text.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERU_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield load_corpus("stdlib")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Close the file.  It can't\nbe reopened.", ["close the file .", "it ca n't be reopened ."]),
        ("Wait 3.5 or 1,000 seconds (see PEP 479).", ["wait N or N seconds ( see pep N ) ."]),
        ("The utf8 and 0x20 forms, i.e. Base64.", ["the utf8 and 0x20 forms , i . e . base64 ."]),
        ("The caller’s “word”.", ['the caller \'s " word " .']),
        ("Call :func:`os.close` or *fd*.", ["call os . close or fd ."]),
        ("Use get_payload here.", ["use get _ payload here ."]),
        ("The options:\n\n- one of them\n- and another\n  one", ["the options :", "one of them", "and another one"]),
        (
            "Sort the names.\n\n>>> sorted(the_names)\nand what it prints\n\nThen stop it.",
            ["sort the names .", "then stop it ."],
        ),
        ("For example:\n\n    with open(name) as file:\n        return file.read()", ["for example :"]),
        ("Kinds of it\n===========\nname    meaning    default", ["kinds of it"]),
        ("f(x) -> {[=]} + y", []),
        ("", []),
    ],
)
def test_prose_lines(text, lines):
    assert prose_lines(text) == lines


def test_prose_lines_warn_of_nothing():
    assert prose_lines("'\\d' is 1\n\n    x is 1") == []


def test_sizes_are_those_promised(corpus):
    tokens = {split: sum(len(line.split()) + 1 for line in corpus.lines(split)) for split in corpus.files}
    assert tokens["train"] > 250_000  # 358,126 on Python 3.11; later versions have fewer modules
    for split in ("valid", "test"):
        assert 0.04 < tokens[split] / sum(tokens.values()) < 0.06


def test_under_five_percent_of_held_out_words_are_unknown(corpus):
    tokenizer = build_tokenizer("word", corpus.lines("train"))
    for split in ("valid", "test"):
        ids = [index for line in corpus.lines(split) for index in tokenizer.encode(line)]
        assert ids.count(tokenizer.unknown) < 0.05 * len(ids)


def test_no_held_out_line_was_seen_before(corpus):
    train, valid, test = (set(corpus.lines(split)) for split in ("train", "valid", "test"))
    assert not train & valid
    assert not (train | valid) & test


def test_lines_are_normalised(corpus):
    for split in ("train", "valid", "test"):
        text = corpus.path(split).read_text(encoding="utf-8")
        assert not re.search(r"[A-MO-Z]|(?<=[a-z])N|\b\d+\b|  |^ | $|^$|>>>", text.rstrip("\n"), flags=re.MULTILINE)


def test_the_cache_is_reused(corpus, monkeypatch):
    monkeypatch.setenv("ERU_CACHE_DIR", str(corpus.path("train").parents[1]))
    monkeypatch.setattr(stdlib, "_documentation", lambda _: pytest.fail("built twice"))
    assert load_corpus("stdlib") == corpus


def test_what_is_read_of_a_library(tmp_path):
    """A made-up library: real names, other places, broken and strange files."""
    files = {
        "abc.py": '"""The module text."""\nclass A:\n  """The class text."""\n  def f():\n    """A method."""',
        "json/__init__.py": '"""The same text."""\ndef f():\n    """The same text."""',
        "json/tests/test_it.py": '"""A test of it."""',
        "unittest/mock.py": '"""Some odd \\d escape."""\nassert (1, "always true")\n',
        "pydoc_data/topics.py": 'topics = {"a": "The first topic.", "b": "The second topic."}',
        "cmd.py": "def broken(:",
        "dis.py": '"""A null byte."""\0',
        "site-packages/other.py": '"""Some other package."""',
        "idlelib/run.py": '"""An application there."""',
        "not_of_the_library.py": '"""Some stray file."""',
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    (tmp_path / "ast.py").mkdir()
    (tmp_path / "bz2.py").write_bytes(b'"""Not UTF-8: \xe9"""')
    found = {name: lines for name, lines in stdlib._documentation(tmp_path).items() if lines}
    assert found == {
        "abc": ["the module text .", "the class text .", "a method ."],
        "json": ["the same text ."],
        "unittest": ["some odd \\ d escape ."],
        "pydoc_data": ["the first topic .", "the second topic ."],
    }


def test_modules_are_held_out_whole():
    modules = {f"m{i}": [f"line {j} of {i} ." for j in range(1 + i % 7)] for i in range(300)}
    splits = stdlib._held_out_whole(modules)
    homes = {split: {line.split()[3] for line in lines} for split, lines in splits.items()}
    assert sorted(line for lines in splits.values() for line in lines) == sorted(
        line for lines in modules.values() for line in lines
    )
    assert sum(map(len, homes.values())) == len(modules)
    total = sum(map(len, splits.values()))
    for split in ("valid", "test"):
        assert 0.04 * total < len(splits[split]) <= 0.05 * total


def test_a_line_of_two_modules_stays_in_the_earliest_split():
    splits = stdlib._held_out_whole({f"m{i}": ["the same line .", f"but this of {i} ."] for i in range(100)})
    assert "the same line ." in splits["train"]
    assert all("the same line ." not in splits[split] and splits[split] for split in ("valid", "test"))


def test_a_python_without_sources_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("ERU_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(ValueError, match="too little source text"):
        load_corpus("stdlib")
