import math
import re
import shutil
from collections import Counter
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eru.lm.generation import generate, generate_tokens, lacking, truncate
from eru.lm.loop import train
from eru.lm.model import LanguageModel
from eru.lm.recipes import make_recipe
from eru.lm.run import open_run

V = 6


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = LanguageModel(V, 5, 9, num_layers=2, input_dropout=0.5)
    with torch.no_grad():
        model.softmax_bias.normal_()
        model.embedding.weight *= 3
    return model


def distribution(model, text):
    """Probabilities of what follows a text, all of it fed at once."""
    model.eval()
    with torch.no_grad():
        return model(torch.tensor(text).unsqueeze(1))[0][-1, 0].double().softmax(dim=0)


@given(prompt=st.lists(st.integers(0, V - 1), min_size=1, max_size=5))
@settings(max_examples=10)
def test_greedy_text_is_the_chain_of_the_likeliest(model, prompt):
    made = generate_tokens(model, prompt, 8, temperature=0)
    text = list(prompt)
    for _ in range(8):
        text.append(int(distribution(model, text).argmax()))
    assert made == text[len(prompt) :]
    assert generate_tokens(model, prompt, 8, temperature=1e-300, seed=1) == made
    assert generate_tokens(model, prompt, 8, temperature=1e-6, seed=1) == made
    assert generate_tokens(model, prompt, 8, top_k=1, seed=1) == made


@given(
    scores=st.lists(st.floats(-20, 20), min_size=1, max_size=12, unique=True),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(0.01, 1.0),
)
@settings(max_examples=60)
def test_truncation_against_brute_force(scores, top_k, top_p):
    ordered = sorted(scores, reverse=True)[:top_k]
    total = sum(math.exp(score - ordered[0]) for score in ordered)
    kept, reached, close = [], 0.0, False
    for score in ordered:
        close |= top_p is not None and abs(reached - top_p) < 1e-9
        if top_p is not None and reached >= top_p:
            break
        kept.append(score)
        reached += math.exp(score - ordered[0]) / total
    found = truncate(torch.tensor(scores, dtype=torch.float64), top_k, top_p)
    if not close:  # where the sum meets top_p to the last digit, rounding decides
        assert found.tolist() == [score if score in kept else -math.inf for score in scores]


def chi_square(sampled, expected):
    """Pearson's statistic of sampled tokens, and the number of tokens that can occur."""
    counts = Counter(sampled)
    possible = [token for token, p in enumerate(expected.tolist()) if p]
    assert set(counts) <= set(possible)
    total = len(sampled)
    return sum((counts[t] - total * expected[t]) ** 2 / (total * expected[t]) for t in possible), len(possible)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_k": 3}, {"top_p": 0.8}, {"banned": [0, 2]}]
)
def test_samples_follow_the_distribution(model, options):
    torch.manual_seed(4)
    sampled = [generate_tokens(model, [1, 3], 1, **options)[0] for _ in range(250)]
    scores = distribution(model, [1, 3]).log() / options.get("temperature", 1.0)
    scores[options.get("banned", [])] = -math.inf
    expected = truncate(scores, options.get("top_k"), options.get("top_p")).softmax(dim=0)
    statistic, possible = chi_square(sampled, expected)
    assert possible == {"top_k": 3, "banned": 4}.get(next(iter(options), ""), possible)
    assert possible > 1
    assert statistic < 20.5  # 99.9 % quantile with 5 degrees of freedom
    if options.keys() & {"temperature", "banned"}:
        assert chi_square(sampled, distribution(model, [1, 3]))[0] > 20.5


def test_the_seed_decides_alone(model):
    torch.manual_seed(1)
    first = generate_tokens(model, [1], 30, seed=5)
    following = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(following, torch.rand(3))
    assert generate_tokens(model, [1], 30, seed=5) == first
    assert generate_tokens(model, [1], 30, seed=6) != first
    assert generate_tokens(model, [1], 30) != generate_tokens(model, [1], 30)
    torch.manual_seed(2)
    second = generate_tokens(model, [1], 30)
    torch.manual_seed(2)
    assert generate_tokens(model, [1], 30) == second


@pytest.mark.parametrize("temperature", [0, 1.0, 1e6])
def test_banned_tokens_never_appear(model, temperature):
    banned = [0, 1, 4]
    made = generate_tokens(model, [0], 60, temperature=temperature, seed=0, banned=banned)
    assert not set(made) & set(banned)
    assert len(made) == 60


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(model, training):
    model.train(training)
    assert generate_tokens(model, [1], 9, temperature=0) == generate_tokens(model, [1], 9, temperature=0)
    assert model.training == training


def test_no_tokens(model):
    assert generate_tokens(model, [1], 0) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, r"prompt=\[\]: at least one token"),
        ({"prompt": [1, V]}, "prompt has the id 6: must be from 0 to 5"),
        ({"prompt": [-1]}, "prompt has the id -1: must be from 0 to 5"),
        ({"banned": [9]}, "banned has the id 9: must be from 0 to 5"),
        ({"banned": range(V)}, "banned: all 6 tokens are"),
        ({"tokens": -1}, "tokens=-1: must not be negative"),
        ({"temperature": -0.5}, "temperature=-0.5: must be finite and not negative"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0: must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p=1.1: must be above 0 and at most 1"),
    ],
)
def test_bad_arguments_are_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        generate_tokens(model, **{"prompt": [1], "tokens": 2, **options})


LINES = ["a rose is a rose is a rose", "it is"] * 9


@pytest.fixture(scope="module")
def runs(make_corpus, tmp_path_factory):
    """``runs(kind)`` is a run of one step with that kind of tokens."""
    corpus = make_corpus(LINES, LINES[:2], LINES[:2])

    @cache
    def make(kind):
        recipe = make_recipe(
            "small", tokenizer=kind, embedding_size=8, hidden_size=8, num_layers=1, batch_size=2, bptt=9
        )
        folder = tmp_path_factory.mktemp("runs") / kind
        train(recipe, corpus, folder, max_steps=1, quiet=True)
        return open_run(folder)

    return make


KINDS = pytest.mark.parametrize("kind", ["word", "char", "sentencepiece"])


@KINDS
def test_text_continues_its_prompt(runs, kind):
    run = runs(kind)
    tokenizer = run.tokenizer
    for prompt in ("", "a rose", "a rose\nit is", "\n", "a rose\n"):
        lines = [tokenizer.encode(line) for line in prompt.split("\n")]
        fed = [tokenizer.eos, *lines[0], *(i for line in lines[1:] for i in [tokenizer.eos, *line])]
        made = generate_tokens(run.load_model(), fed, 5, seed=2, banned=[tokenizer.unknown])
        text = generate(run, prompt, 5, seed=2)
        assert text == tokenizer.decode([*fed[1:], *made])
        assert text.startswith(prompt)


def test_a_run_is_given_as_itself_as_a_folder_or_by_name(runs):
    run = runs("word")
    path = run.folder.path
    expected = generate(run, "a", 5, seed=3)
    assert generate(path, "a", 5, seed=3) == generate(str(path), "a", 5, seed=3) == expected
    with pytest.raises(ValueError, match="no run in nowhere"):
        generate("nowhere", "a")


@KINDS
def test_what_is_unknown_is_never_made(runs, kind, tmp_path):
    run = open_run(shutil.copytree(runs(kind).folder.path, tmp_path / "run"))
    model = run.load_model()
    with torch.no_grad():
        model.softmax_bias[run.tokenizer.unknown] = 50.0  # by far the likeliest, as in text that is full of it
    run.folder.save_weights(model.state_dict())
    prompt = run.tokenizer.encode("a rose")
    assert set(generate_tokens(model, prompt, 5)) == {run.tokenizer.unknown}
    unknown = run.tokenizer.decode([run.tokenizer.unknown]).strip()
    for temperature in (0, 1.0, 100.0):
        assert unknown not in generate(run, "a rose", 60, temperature=temperature, seed=3)


def test_what_the_vocabulary_lacks_is_named_and_reads_as_the_tokenizer_writes_it(runs):
    text = generate(runs("word"), "a bee is a\nzebra bee", 9, seed=3)
    assert text.startswith("a <unk> is a\n<unk> <unk>")
    assert lacking(runs("word"), "a bee is a\nzebra bee <unk>") == ["bee", "zebra"]
    assert lacking(runs("char"), "a bee\n\tis") == ["b", "\t"]
    assert lacking(runs("sentencepiece"), "a bee\n\tis 你好") == []


@KINDS
@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_a_prompt_has_the_newlines_of_any_system(runs, kind, newline):
    plain, other = (newline.join(["a rose", "", "it"]) for newline in ("\n", newline))
    assert lacking(runs(kind), other) == []
    assert generate(runs(kind), other, 9, seed=1) == generate(runs(kind), plain, 9, seed=1)


@KINDS
@pytest.mark.parametrize("prompt", ["\udcff", "a \ud800 rose", "a\n\udfff"])
def test_a_prompt_that_is_no_utf8_is_refused(runs, kind, prompt):
    for ask in (generate, lacking):
        with pytest.raises(ValueError, match=re.escape(f"prompt={prompt!r}: is not UTF-8 text")):
            ask(runs(kind), prompt)


@pytest.mark.parametrize("prompt", [None, b"a rose", ["a", "rose"], 7])
def test_a_prompt_that_is_no_string_is_refused(runs, prompt):
    with pytest.raises(TypeError, match=re.escape(f"prompt={prompt!r}: must be a string")):
        generate(runs("word"), prompt)
