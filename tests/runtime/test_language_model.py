import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import eru_runtime
from eru.lm import generation
from eru_runtime.sampling import Sampler, truncate

V = 8
WORDS = ["the", "cat", "sat", "on", "a", "mat"]
FORMS = {
    "step": {"graph": "step"},
    "step of any batch": {"graph": "step", "batch": "batch"},
    "sequence": {"graph": "sequence"},
    "sequence of any batch": {"graph": "sequence", "batch": "batch"},
    "sequence of one step": {"graph": "sequence", "steps": 1},
}


@pytest.fixture(scope="module")
def toy(toy_text):
    return toy_text(V)


@pytest.fixture(params=FORMS)
def model(request, toy, write_text_folder):
    form = FORMS[request.param]
    return eru_runtime.load(write_text_folder(toy.model(**form), graph=form["graph"]), threads=1)


@pytest.fixture
def plain(toy, write_text_folder):
    return eru_runtime.load(write_text_folder(toy.model()))


def test_scores_are_those_of_the_network(model, toy):
    tokens = [1, 2, 5, 5, 0, 7]
    reader = model.start()
    for end, token in enumerate(tokens, start=1):
        scores = reader.step(token)
        assert (scores.dtype, scores.shape) == (np.float32, (V,))
        np.testing.assert_allclose(scores, toy.scores(tokens[:end]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.start().read(tokens).argsort(), scores.argsort())


def test_a_long_text_is_read_in_parts(model, toy):
    tokens = np.random.default_rng(0).integers(0, V, 500)
    np.testing.assert_allclose(model.start().read(tokens), toy.scores(tokens), rtol=1e-3, atol=1e-4)


def test_readers_do_not_disturb_each_other(plain):
    alone = plain.start()
    expected = [alone.step(token) for token in (1, 2, 3)]
    one, other = plain.start(), plain.start()
    for token, scores in zip((1, 2, 3), expected, strict=True):
        np.testing.assert_array_equal(one.step(token), scores)
        other.step(7 - token)


@pytest.mark.parametrize("prompt", ["", "the cat", "the cat\nsat", "\n", "a mat\n", "a\r\nmat\rsat"])
def test_the_likeliest_text_is_the_chain_of_the_likeliest(model, toy, prompt):
    start = model.tokenizer.encode(prompt.replace("\r\n", "\n").replace("\r", "\n").replace("\n", " <eos> "))
    text = [1, *start]  # after the end of a line
    for _ in range(12):
        scores = toy.scores(text)
        scores[0] = -math.inf
        text.append(int(scores.argmax()))
    expected = model.tokenizer.decode(text[1:])
    assert model.generate(prompt, 12, temperature=0) == expected
    assert model.generate(prompt, 12, temperature=5e-324, seed=1) == expected
    assert model.generate(prompt, 12, temperature=1e-9, seed=1) == expected
    assert model.generate(prompt, 12, top_k=1) == expected


def test_a_stream_is_the_text_part_by_part(model):
    parts = list(model.stream("the cat", 20, seed=3))
    assert parts[0] == "the cat"
    assert len(parts) == 21
    assert "".join(parts) == model.generate("the cat", 20, seed=3)


def test_a_stream_comes_as_it_is_made(plain):
    stream = plain.stream("the cat", 10**9)
    assert next(stream) == "the cat"
    assert next(stream)


def test_no_tokens(plain):
    assert plain.generate("the  cat barks", 0) == "the cat <unk>"
    assert plain.generate("", 0) == ""


def test_the_seed_decides(plain):
    assert plain.generate("the", 30, seed=5) == plain.generate("the", 30, seed=5)
    assert plain.generate("the", 30, seed=6) != plain.generate("the", 30, seed=5)
    assert plain.generate("the", 30) != plain.generate("the", 30)


def test_what_is_unknown_is_never_made(toy_text, write_text_folder):
    toy = toy_text(V)
    toy.bias[0] = 50.0  # by far the likeliest
    model = eru_runtime.load(write_text_folder(toy.model()))
    for temperature in (0, 1.0, 1e6):
        assert "<unk>" not in model.generate("the cat", 60, temperature=temperature, seed=1)


@given(
    scores=st.lists(st.floats(-20, 20), min_size=1, max_size=12, unique=True),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(0.01, 1.0),
)
def test_tokens_are_left_out_as_by_eru(scores, top_k, top_p):
    of_eru = generation.truncate(torch.tensor(scores, dtype=torch.float64), top_k, top_p).softmax(dim=0).numpy()
    tokens, probabilities = truncate(np.array(scores), top_k, top_p)
    ours = np.zeros(len(scores))
    ours[tokens] = probabilities
    if (ours > 0).sum() == (of_eru > 0).sum():
        np.testing.assert_allclose(ours, of_eru, rtol=1e-9)
    else:  # where a sum meets top_p to the last digit, rounding decides
        sums = np.sort(np.exp(scores) / np.exp(scores).sum())[::-1].cumsum()
        assert top_p is not None
        assert (np.abs(sums - top_p * sums[: top_k or None][-1]) < 1e-9).any()


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_k": 3}, {"top_p": 0.8}])
def test_draws_follow_the_distribution(options):
    scores = np.array([0.5, -math.inf, 1.5, 0.0, -1.0, 1.0])
    draw = Sampler(**options, seed=0)
    counts = Counter(draw(scores) for _ in range(4000))
    tokens, probabilities = truncate(
        scores / options.get("temperature", 1.0), options.get("top_k"), options.get("top_p")
    )
    expected = {token: 4000 * share for token, share in zip(tokens.tolist(), probabilities, strict=True) if share}
    assert set(counts) == set(expected)
    statistic = sum((counts[token] - count) ** 2 / count for token, count in expected.items())
    assert statistic < 18.5  # 99.9 % quantile with 4 degrees of freedom


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": -1}, "tokens=-1: must be a whole number, at least 0"),
        ({"tokens": 2.5}, "tokens=2.5: must be a whole number"),
        ({"temperature": -0.5}, "temperature=-0.5: must be a finite number, at least 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"top_k": 0}, "top_k=0: must be a whole number, at least 1"),
        ({"top_p": 0.0}, "top_p=0.0: must be a finite number, above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p=1.1: must be a finite number, above 0 and at most 1"),
        ({"seed": -1}, "seed=-1: must be a whole number, at least 0"),
        ({"prompt": "\udcff"}, "prompt='\\udcff': is not UTF-8 text"),
    ],
)
def test_bad_arguments_are_named_before_any_text_is_made(plain, options, said):
    for ask in (plain.generate, plain.stream):
        with pytest.raises(ValueError, match=re.escape(said)):
            ask(**{"prompt": "the", **options})


@pytest.mark.parametrize("prompt", [None, b"the", ["the"], 7])
def test_a_prompt_that_is_no_string_is_refused(plain, prompt):
    with pytest.raises(TypeError, match=re.escape(f"prompt={prompt!r}: must be a string")):
        plain.stream(prompt)


@pytest.mark.parametrize("token", [-1, V, 1.5, "the"])
def test_a_token_that_is_none_is_refused(plain, token):
    with pytest.raises(ValueError, match=re.escape(f"token={token!r}: must be a whole number, from 0 to 7")):
        plain.start().step(token)
    with pytest.raises(ValueError, match=re.escape("tokens=[]: must hold at least one token")):
        plain.start().read([])


def test_scores_that_are_not_finite_are_refused(toy_text, write_text_folder):
    for value in (math.nan, math.inf):
        toy = toy_text(V)
        toy.bias[3] = value
        with pytest.raises(ValueError, match="not finite"):
            eru_runtime.load(write_text_folder(toy.model())).generate("the", 1)


@pytest.mark.parametrize(
    ("form", "fields", "said"),
    [
        ({}, {"graph": "tree"}, "graph='tree': must be 'step' or 'sequence'"),
        ({}, {"graph": "sequence"}, "tokens is tensor(int64) (1): must be tensor(int64) (1, 1)"),
        ({"batch": 4}, {}, "tokens is tensor(int64) (4): must be tensor(int64) (1)"),
        ({"graph": "sequence", "steps": 35}, {"graph": "sequence"}, "tokens is tensor(int64) (35, 1): must be"),
    ],
)
def test_a_graph_of_another_form_is_refused(toy, write_text_folder, form, fields, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        eru_runtime.load(write_text_folder(toy.model(**form), **fields))


def test_a_state_without_a_fixed_size_is_refused(toy, write_text_folder):
    model = toy.model()
    model.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "size"
    with pytest.raises(ValueError, match=re.escape("c0 is of any size (size): must be of a fixed one")):
        eru_runtime.load(write_text_folder(model))


def test_a_tokenizer_of_another_model_is_refused(toy, write_text_folder):
    tokenizer = {"kind": "char", "types": ["<unk>", "<eos>", "a"], "unknown": 0, "eos": 1}
    with pytest.raises(ValueError, match="gives scores of 8 tokens, but the tokenizer has 3"):
        eru_runtime.load(write_text_folder(toy.model(), tokenizer))


def test_a_graph_that_is_no_language_model_is_refused(toy, seeing, write_text_folder):
    with pytest.raises(ValueError, match="its inputs are image: must be tokens, image"):
        eru_runtime.load(write_text_folder(seeing("classification", [[0] * 3] * V, [0] * V, (4, 4))))


def test_text_of_characters_and_of_subwords(toy_text, write_text_folder):
    types = ["<unk>", "<eos>", *"abcdef"]
    model = eru_runtime.load(
        write_text_folder(toy_text(8).model(), {"kind": "char", "types": types, "unknown": 0, "eos": 1})
    )
    text = model.generate("abc\ncab", 30, seed=1)
    assert text.startswith("abc\ncab")
    assert set(text) <= {*"abcdef\n"}
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "▁"]
    subwords = {
        **{
            "kind": "sentencepiece",
            "pieces": pieces,
            "scores": [0.0] * 258 + [-1.0, -2.0, -3.0],
            "unknown": 0,
            "eos": 1,
        },
        "types": ["unknown", "control", *["byte"] * 256, *["normal"] * 3],
    }
    model = eru_runtime.load(write_text_folder(toy_text(261).model(), subwords))
    parts = list(model.stream("ab é", 200, seed=1))
    assert parts[0] == "ab é"
    assert "".join(parts) == model.generate("ab é", 200, seed=1)
