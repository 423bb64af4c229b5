import copy
import itertools
import math
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from eru.lm.adapt.dynamic import gradient_rms, predict_dynamically
from eru.lm.adapt.search import AdaptationGrid, choose_adaptation, default_grid, grid_losses, parse_values
from eru.lm.evaluation import evaluate, evaluate_tokens
from eru.lm.loop import train
from eru.lm.model import LanguageModel
from eru.lm.recipes import make_recipe
from eru.lm.run import open_run

V = 7
EVERYTHING = AdaptationGrid(
    learning_rate=[0.0, 0.002],
    decay=[0.01],
    temperature=[0.7, 1.0, 1.5],
    cache_window=[3, 20],
    cache_theta=[0.0, 0.4],
    cache_weight=[0.0, 0.3, 1.0],
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = LanguageModel(V, 6, 9, num_layers=2, input_dropout=0.5, output_dropout=0.5).double()
    with torch.no_grad():
        model.softmax_bias.normal_()
    return model


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).choice(V, 90, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02])


@pytest.fixture(scope="module")
def rms(model, ids):
    return gradient_rms(model, ids, batch_size=3)


def mixed(hidden, logits, words, temperature, window, theta, weight):
    """Mean loss of one combination, token by token and word by word, from the two papers' equations."""
    total = 0.0
    for t, word in enumerate(words):
        scores = [math.exp(score / temperature) for score in logits[t].tolist()]
        p = scores[word] / sum(scores)
        past = range(max(t - window, 0), t)
        if past:
            shares = [math.exp(theta * float(hidden[t] @ hidden[i])) for i in past]
            cached = sum(share for share, i in zip(shares, past, strict=True) if words[i] == word) / sum(shares)
            p = (1 - weight) * p + weight * cached
        total -= math.log(p) if p else -math.inf
    return total / len(words)


def test_every_combination_against_the_equations(model, ids, rms):
    table = grid_losses(model, ids, EVERYTHING, rms)
    assert table.shape == (2, 1, 3, 2, 2, 3)
    assert EVERYTHING.combinations == table.numel()
    for i, learning_rate in enumerate(EVERYTHING.learning_rate):
        parts = list(predict_dynamically(model, ids, rms, learning_rate=learning_rate, decay=0.01))
        hidden, logits = (torch.cat([part[k] for part in parts]) for k in (0, 1))
        for index in itertools.product(range(3), range(2), range(2), range(3)):
            values = [axis[k] for axis, k in zip(EVERYTHING.axes[2:], index, strict=True)]
            expected = mixed(hidden, logits, ids[1:].tolist(), *values)
            assert math.isclose(table[(i, 0, *index)].item(), expected, rel_tol=1e-9)


def test_what_changes_nothing_is_the_plain_evaluation(model, ids, rms):
    for kind in (torch.float64, torch.float32):
        same = copy.deepcopy(model).to(kind)
        exact = evaluate_tokens(same, ids).loss
        assert grid_losses(same, ids, AdaptationGrid()).item() == exact
        without = grid_losses(
            same, ids, AdaptationGrid(cache_window=[5], cache_theta=[0.1], cache_weight=[0.0, 0.5])
        ).flatten()
        assert without[0] == exact
        assert without[1] != exact
    for window in (1, 7, 1000):
        assert (
            grid_losses(model, ids[: window + 1], AdaptationGrid()).item()
            == evaluate_tokens(model, ids[: window + 1]).loss
        )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(model, ids, rms, training):
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    assert torch.equal(grid_losses(model, ids, EVERYTHING, rms), grid_losses(model, ids, EVERYTHING, rms))
    with pytest.raises(IndexError):
        grid_losses(model, ids + 1, EVERYTHING, rms)
    assert model.training == training
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


def test_the_best_is_chosen(model, ids, rms):
    table = grid_losses(model, ids, EVERYTHING, rms)
    best, loss = choose_adaptation(model, ids, EVERYTHING, rms)
    assert best.combinations == 1
    assert loss == table.min() == grid_losses(model, ids, best, rms).item()
    assert loss < table.median()


def test_what_diverges_is_not_chosen(model, ids, rms):
    grid = AdaptationGrid(learning_rate=[1e300, 1e-5])
    assert grid_losses(model, ids, grid, rms)[0].isnan().all()
    assert choose_adaptation(model, ids, grid, rms)[0].learning_rate == [1e-5]
    assert choose_adaptation(model, ids, AdaptationGrid(learning_rate=[1e300]), rms)[1] == math.inf


def test_the_default_grids():
    assert default_grid() == AdaptationGrid()
    assert default_grid().combinations == 1
    assert not default_grid("cache", "temperature").learns
    assert default_grid("dynamic").learns
    grid = default_grid("dynamic", "cache", decay=[0.5], cache_window=[7])
    assert (grid.decay, grid.cache_window, grid.temperature) == ([0.5], [7], (1.0,))
    assert len(grid.learning_rate) > 1
    assert len(grid.cache_theta) > 1


@pytest.mark.parametrize(
    ("parts", "values", "message"),
    [
        (["speed"], {}, "unknown adaptation 'speed': must be one of dynamic, cache, temperature"),
        ([], {"decay": [0.1]}, "decay is of no adaptation that was asked for: dynamic has learning_rate, decay"),
        (["cache"], {"decay": [0.1]}, "decay is of no adaptation"),
        (["cache"], {"size": [0.1]}, "size is of no adaptation"),
        (["dynamic"], {"decay": []}, r"decay=\[\]: at least one value"),
        (["dynamic"], {"decay": [-0.1]}, r"decay=-0\.1: must be finite and not negative"),
        (["dynamic"], {"learning_rate": [math.nan]}, "learning_rate=nan: must be finite"),
        (["temperature"], {"temperature": [1.0, 0.0]}, r"temperature=0\.0: must be finite and above 0"),
        (["cache"], {"cache_weight": [1.5]}, r"cache_weight=1\.5: must be from 0 to 1"),
        (["cache"], {"cache_window": [-1]}, "cache_window=-1: must be finite and not negative"),
        (["cache"], {"cache_theta": [math.inf]}, "cache_theta=inf: must be finite"),
    ],
)
def test_bad_grids_are_named(parts, values, message):
    with pytest.raises(ValueError, match=message):
        default_grid(*parts, **values)


@pytest.mark.parametrize("text", ["", "decay", "decay=", "decay=fast", "decay=0.1,", "cache_window=1.5", "size=3"])
def test_bad_values_are_named(text):
    with pytest.raises(ValueError, match=f"^{text!r}: "):
        parse_values(text)


def test_dynamic_evaluation_needs_its_statistics(model, ids):
    with pytest.raises(ValueError, match=r"learning_rate=\[0\.0, 0\.1\]: without rms, so only 0 is possible"):
        grid_losses(model, ids, AdaptationGrid(learning_rate=[0.0, 0.1]))
    with pytest.raises(ValueError, match="1 tokens are too few"):
        grid_losses(model, ids[:1], AdaptationGrid())


TEXTS = (["a rose is a rose", "is it ?"] * 9, ["a rose is it", "a rose ?"] * 4, ["is it a bee ?", "", "it is"])


@pytest.fixture(scope="module")
def trained(make_corpus, tmp_path_factory):
    corpus = make_corpus(*TEXTS)
    recipe = make_recipe("small", embedding_size=8, hidden_size=8, num_layers=1, batch_size=2, bptt=9)
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(recipe, corpus, folder, max_steps=4, quiet=True)
    return open_run(folder), corpus


def ids_of(run, lines):
    return np.array([i for line in lines for i in [*run.tokenizer.encode(line), run.tokenizer.eos]])


GRID = AdaptationGrid(
    learning_rate=[1e-4, 1e-3],
    decay=[0.01],
    temperature=[0.8, 1.0],
    cache_window=[9],
    cache_theta=[0.5],
    cache_weight=[0.1, 0.5],
)


@pytest.mark.parametrize("choose_tokens", [None, 10])
def test_a_run_is_measured_with_what_was_best_on_validation(trained, choose_tokens):
    run, corpus = trained
    report = evaluate(run, data=corpus, grid=GRID, choose_tokens=choose_tokens)
    model, (training, validation, test) = run.load_model(), [ids_of(run, lines) for lines in TEXTS]
    rms = gradient_rms(model, training, batch_size=len(training) // 2)
    chosen_on = choose_tokens or len(validation) - 1
    best, loss = choose_adaptation(model, validation[: chosen_on + 1], GRID, rms)
    assert report.adaptation == {name: getattr(best, name)[0] for name in report.adaptation}
    assert len(report.adaptation) == len(GRID.axes)
    assert (report.chosen_on, report.tokens) == (chosen_on, len(test) - 1)
    assert math.isclose(report.valid_perplexity, math.exp(loss), rel_tol=1e-6)
    assert math.isclose(report.perplexity, math.exp(grid_losses(model, test, best, rms).item()), rel_tol=1e-6)


def test_all_that_takes_long_is_counted(trained, monkeypatch):
    """So that a bar says how far it is, and how long it takes."""
    run, corpus = trained
    shown = []

    @contextmanager
    def counted(total, what, *, unit, quiet):
        done = []
        yield done.append
        shown.append((what, unit, quiet, total, sum(done)))

    monkeypatch.setattr(sys.modules["eru.lm.evaluation"], "counted", counted)
    evaluate(run, data=corpus, grid=GRID, quiet=True)
    training, validation, test = (len(ids_of(run, lines)) for lines in TEXTS)
    streams = training // 2
    assert shown == [
        ("gradients of the training text", "tokens", True, training, (training - 1) // streams * streams),
        ("choosing on the validation text", "tokens", True, *[2 * (validation - 1)] * 2),
        ("reading the test text", "tokens", True, *[test - 1] * 2),
    ]


def test_the_choice_never_sees_the_test_text(trained, make_corpus):
    run, corpus = trained
    other = make_corpus(*TEXTS[:2], ["rose rose rose"] * 5)
    first, second = (evaluate(run, data=text, grid=GRID) for text in (corpus, other))
    assert first.perplexity != second.perplexity
    for name in ("adaptation", "chosen_on", "valid_perplexity"):
        assert getattr(first, name) == getattr(second, name)


def test_a_named_adaptation_is_not_chosen(trained):
    run, corpus = trained
    report = evaluate(run, data=corpus, grid=AdaptationGrid(temperature=[0.5]))
    assert (report.chosen_on, report.valid_perplexity, report.adaptation["temperature"]) == (0, None, 0.5)
    assert report.perplexity != evaluate(run, data=corpus).perplexity
    for choose_tokens, message in ((5, "choose_tokens=5: there is nothing to choose"), (0, "must be at least 1")):
        with pytest.raises(ValueError, match=message):
            evaluate(run, data=corpus, grid=AdaptationGrid(temperature=[0.5]), choose_tokens=choose_tokens)
