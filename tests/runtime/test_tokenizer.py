import json
import re

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from eru.lm.text.subword import SentencePieceTokenizer
from eru.lm.text.vocabulary import CharTokenizer, WordTokenizer
from eru_runtime.folder import Folder
from eru_runtime.tokenizer import decode_stream, read_tokenizer
from eru_runtime.unigram import UnigramTokenizer
from eru_runtime.vocabulary import VocabularyTokenizer

LINES = ["the cat saw the dog", "the dog saw it", "a cat , a dog and a <unk> bird", "naïve 你好 🙂 <0x41>"] * 9
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=30)
SCRIPTS = {
    "English": LINES,
    "runs": ["aaaaaaaa", "aaaa bbbb", "abababab", "        "] * 50,
    "Chinese without spaces": ["你好世界", "世界你好吗"] * 200,
    "Japanese with wide spaces": ["すもも\u3000もももももの\u3000うち"] * 50,
    "Thai": ["ภาษาไทยไม่เว้นวรรค"] * 50,
    "Arabic and Hindi": ["مرحبا بالعالم", "नमस्ते दुनिया"] * 50,
    "tables": ["a\tb\tc"] * 50,
    "symbols": ["\x00\u2028\ufeff🙂\ufffd" * 3] * 50,
}
PARTS = [
    "the ",
    "cat",
    " ",
    "  ",
    "你好",
    "世界",
    "a",
    "aa",
    "b",
    "\t",
    "\u3000",
    "もも",
    "ไทย",
    "مرحبا",
    "नम",
    "é",
    "▁",
]
LINE = TEXT | st.lists(st.sampled_from([*PARTS, "🙂", "\ufffd", "\x00", "<unk>", "</s>", "<0x41>"])).map("".join)


def subword_fields(tokenizer, tmp_path):
    """What an export writes of a sentencepiece tokenizer."""
    tokenizer.save(tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    ids = range(model.get_piece_size())
    kinds = {"byte": model.is_byte, "unknown": model.is_unknown, "control": model.is_control}
    return {
        "kind": "sentencepiece",
        "pieces": [model.id_to_piece(i) for i in ids],
        "scores": [model.get_score(i) for i in ids],
        "types": [next((kind for kind, found in kinds.items() if found(i)), "normal") for i in ids],
        "unknown": tokenizer.unknown,
        "eos": tokenizer.eos,
    }


def opened(fields, folder):
    """The runtime's tokenizer of fields, written and read."""
    folder.mkdir(exist_ok=True)
    (folder / "export.json").write_text('{"format": "onnx", "tokenizer": "tokenizer.json"}')
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    return read_tokenizer(Folder(folder))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Tokenizers of eru, each with the runtime's, by the name of their text."""
    folder, made = tmp_path_factory.mktemp("tokenizers"), {}
    for kind, of_eru in (("word", WordTokenizer.build(LINES)), ("char", CharTokenizer.build(LINES))):
        fields = {"kind": kind, "types": of_eru.types, "unknown": of_eru.unknown, "eos": of_eru.eos}
        made[kind] = of_eru, opened(fields, folder / kind)
    for script, lines in SCRIPTS.items():
        of_eru = SentencePieceTokenizer.build(lines, 330)
        made[script] = of_eru, opened(subword_fields(of_eru, folder / script), folder / script)
    return made


NAMES = ["word", "char", *SCRIPTS]


@pytest.mark.parametrize("name", NAMES)
@given(line=LINE)
def test_a_line_is_encoded_and_decoded_as_by_eru(pairs, name, line):
    of_eru, ours = pairs[name]
    ids = of_eru.encode(line)
    assert ours.encode(line) == ids
    assert ours.decode(ids) == of_eru.decode(ids)
    assert (ours.vocab_size, ours.unknown, ours.eos) == (of_eru.vocab_size, of_eru.unknown, of_eru.eos)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_any_ids_are_decoded_as_by_eru(pairs, name, data):
    of_eru, ours = pairs[name]
    anything = st.integers(0, ours.vocab_size - 1)
    ids = data.draw(st.lists(anything | st.just(ours.eos), max_size=20))
    assert ours.decode(ids) == of_eru.decode(ids)


@pytest.mark.parametrize("script", SCRIPTS)
@given(
    content=st.lists(
        st.sampled_from([*"aé你🙂\ufffd".encode(), 0x80, 0xC0, 0xE4, 0xED, 0xF0, 0xF4, 0xFF]), max_size=12
    )
)
def test_bytes_that_are_no_text_are_decoded_as_by_eru(pairs, script, content):
    of_eru, ours = pairs[script]
    ids = [ours._byte_ids[byte] for byte in content]
    assert ours.decode(ids) == of_eru.decode(ids)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_a_stream_gives_the_whole_text(pairs, name, data):
    ours = pairs[name][1]
    known = data.draw(LINE.map(ours.encode))
    others = data.draw(st.lists(st.integers(0, ours.vocab_size - 1) | st.just(ours.eos), max_size=12))
    ids = data.draw(st.permutations(known + others)) if data.draw(st.booleans()) else known + others
    first = data.draw(st.integers(0, len(ids)))
    parts = list(decode_stream(ours, [ids[:first], *([index] for index in ids[first:])]))
    assert "".join(parts) == ours.decode(ids)
    assert "" not in parts


def test_a_stream_waits_for_whole_characters(pairs):
    ours = pairs["runs"][1]
    parts = list(decode_stream(ours, ([index] for index in ours.encode("aé🙂b"))))
    assert parts == ["a", "é", "🙂", "b"]


@pytest.mark.parametrize("line", ["\ud800", "a \udcff b"])
def test_what_utf8_cannot_express_is_refused(pairs, line):
    with pytest.raises(ValueError, match=re.escape(f"line={line!r}: cannot be expressed in UTF-8")):
        pairs["English"][1].encode(line)


def test_a_long_line_is_encoded_in_time(pairs):
    of_eru, ours = pairs["English"]
    line = "the cat saw 你好 the dog " * 2000
    assert ours.encode(line) == of_eru.encode(line)


WORDS = {"kind": "word", "types": ["<unk>", "<eos>", "a"], "unknown": 0, "eos": 1}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = {
    "kind": "sentencepiece",
    "pieces": ["<unk>", "</s>", *BYTES, "a", "b"],
    "scores": [0.0] * 258 + [-1, -2.5],
    "types": ["unknown", "control", *["byte"] * 256, "normal", "normal"],
    "unknown": 0,
    "eos": 1,
}


def test_good_fields_make_tokenizers(tmp_path):
    assert isinstance(opened(WORDS, tmp_path), VocabularyTokenizer)
    assert isinstance(opened(PIECES, tmp_path), UnigramTokenizer)


@pytest.mark.parametrize(
    ("fields", "change", "said"),
    [
        (WORDS, {"kind": "bpe"}, "kind='bpe': must be 'word', 'char' or 'sentencepiece'"),
        (WORDS, {"types": ["a", "b", "a"]}, "'a' occurs more than once"),
        (WORDS, {"types": ["a", "b", 3]}, "types=['a', 'b', 3]: must be a list of strings"),
        (WORDS, {"types": "abc"}, "types='abc': must be a list of strings"),
        (WORDS, {"types": []}, "types=[]: must be a list of strings"),
        (WORDS, {"eos": 3}, "eos=3: must be a whole number, from 0 to 2"),
        (WORDS, {"eos": 0}, "unknown=eos=0: must be two ids"),
        (WORDS, {"unknown": 0.5}, "unknown=0.5: must be a whole number"),
        (PIECES, {"pieces": PIECES["pieces"][:-1]}, "not 259 pieces, 260 scores, 260 types"),
        (PIECES, {"pieces": ["<unk>", "</s>", "c", *BYTES[1:], "a", "b"]}, "pieces: lack the byte <0x00>"),
        (PIECES, {"scores": [None] * 260}, "must be a list of numbers"),
        (PIECES, {"scores": [float("nan")] * 260}, "scores: must be finite"),
        (PIECES, {"types": ["unused", *PIECES["types"][1:]]}, "types: hold 'unused': must be among normal, byte"),
        (PIECES, {"types": [*PIECES["types"][:-2], "control", "control"]}, "types: hold no 'normal' piece"),
        (PIECES, {"unknown": 260}, "unknown=260"),
    ],
)
def test_bad_fields_are_named_with_the_file(tmp_path, fields, change, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        opened(fields | change, tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "name"), [(WORDS, name) for name in WORDS] + [(PIECES, name) for name in ("pieces", "scores", "types")]
)
def test_a_field_that_lacks_is_named(tmp_path, fields, name):
    with pytest.raises(ValueError, match=rf"tokenizer\.json: has no field '{name}'"):
        opened({key: value for key, value in fields.items() if key != name}, tmp_path)
