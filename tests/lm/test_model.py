import math
from dataclasses import replace
from itertools import pairwise
from pydoc_data.topics import topics

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from eru.lm.build import build_model, count_parameters
from eru.lm.model import LanguageModel, dense_gates, detach, evaluating, locked_dropout, nearest_hidden_size
from eru.lm.recipes import RECIPES, make_recipe
from eru.lm.text.prose import prose_lines
from eru.lm.text.tokenizer import build_tokenizer

VOCABULARY = 10_000


def count(model):
    return sum(p.numel() for p in model.parameters())


def eru_layer(m, h):
    """One EESP of one branch, as wide as the cell, for all gates; the recurrent matrix in four blocks; the bias."""
    taps, groups = 3, 4
    return m * h + groups * taps + 4 * h * h // groups + 4 * h * h // 4 + 4 * h


def lstm_layer(m, h):
    return 4 * h * m + 4 * h * h // 4 + 4 * h


def whole(layer, v, e, h):
    return v * e + v + layer(e, h) + layer(h, h) + layer(h, e)


def tiny(**options):
    torch.manual_seed(0)
    return LanguageModel(11, 8, 12, **options)


@pytest.mark.parametrize("name", RECIPES)
def test_parameter_counts_follow_the_closed_formula(name):
    recipe = make_recipe(name)
    with torch.device("meta"):
        model = build_model(recipe, VOCABULARY)
    e, h = recipe.embedding_size, model.layers[0].hidden_size
    assert count(model) == whole(eru_layer if recipe.cell == "eru" else lstm_layer, VOCABULARY, e, h)
    assert recipe.cell == "lstm" or h == recipe.hidden_size
    if e == 400:
        assert model.embedding.weight.numel() + model.softmax_bias.numel() == 4_010_000
        assert count(model) <= (7_000_000 if "7m" in name else 15_000_000)


@pytest.mark.parametrize("name", ["small", "paper-7m", "paper-15m"])
def test_the_control_has_the_parameters_of_the_eru(name):
    recipe = make_recipe(name)
    with torch.device("meta"):
        control = build_model(make_recipe(name, cell="lstm"), VOCABULARY)
    sizes = [layer.hidden_size for layer in control.layers]
    assert sizes[-1] == recipe.embedding_size
    assert count(control) == whole(lstm_layer, VOCABULARY, recipe.embedding_size, sizes[0])
    wanted = whole(eru_layer, VOCABULARY, recipe.embedding_size, recipe.hidden_size)
    assert abs(count(control) - wanted) / wanted < 4e-3
    others = (whole(lstm_layer, VOCABULARY, recipe.embedding_size, sizes[0] + step) for step in (-4, 4))
    assert all(abs(other - wanted) >= abs(count(control) - wanted) for other in others)


@pytest.mark.parametrize(("name", "parameters"), [("paper-7m", 6_954_740), ("paper-15m", 14_910_324)])
def test_the_recipes_forms_change_the_size_as_the_formulas_say(name, parameters):
    recipe = make_recipe(name)
    h = recipe.hidden_size
    assert count_parameters(recipe, VOCABULARY) == parameters
    # A gate for itself has its own taps, in each of the three layers; its reduce is grouped, so all four have as many.
    assert count_parameters(replace(recipe, shared_reduce=False), VOCABULARY) == parameters + 3 * 3 * 4 * 3
    # Without groups there are the other three quarters of 4 H^2, twice, and of 4 E^2.
    dense = count_parameters(replace(recipe, recurrent_groups=1), VOCABULARY)
    assert dense == parameters + 3 * (2 * h**2 + 400**2)


@given(wanted=st.integers(0, 3000), inputs=st.integers(1, 9), square=st.booleans())
@settings(max_examples=25)
def test_nearest_hidden_size_against_trying_all(wanted, inputs, square):
    counts = {size: (size if square else inputs) * size + size for size in range(1, 6001)}
    found = nearest_hidden_size(wanted, counts.__getitem__)
    assert abs(counts[found] - wanted) == min(abs(n - wanted) for n in counts.values())


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("cell", ["eru", "lstm"])
def test_parameters_are_counted_without_building(num_layers, cell):
    recipe = make_recipe("small", num_layers=num_layers, hidden_size=36, kernel_size=5)
    assert count_parameters(recipe, 50) == count(build_model(recipe, 50))
    control = build_model(replace(recipe, cell="lstm"), 50)
    sizes = (whole_lstm(num_layers, control.layers[0].hidden_size + step) for step in (-4, 0, 4))
    below, found, above = (abs(size - count_parameters(recipe, 50)) for size in sizes)
    assert num_layers == 1 or found <= min(below, above)


def whole_lstm(num_layers, h):
    widths = [200, *[h] * (num_layers - 1), 200]
    return 50 * 201 + sum(lstm_layer(m, n) for m, n in pairwise(widths))


def test_nearest_hidden_size_ends_where_the_count_does_not_grow():
    with pytest.raises(ValueError, match="no more parameters at size 2 than at 1, so none has 1000"):
        nearest_hidden_size(1000, lambda size: 12)


def test_the_embedding_is_one_parameter_with_gradients_from_both_uses():
    model = tiny().double()
    assert [name for name, p in model.named_parameters() if p.shape == (11, 8)] == ["embedding.weight"]
    tokens, targets = torch.randint(11, (5, 2)), torch.randint(11, (5, 2))
    weight, bias = model.embedding.weight, model.softmax_bias
    features = model.features(tokens)

    def gradient(features, weight):
        loss = F.cross_entropy(F.linear(features, weight, bias).flatten(0, 1), targets.flatten())
        return torch.autograd.grad(loss, model.embedding.weight, retain_graph=True)[0]

    as_input = gradient(features.dropped, weight.detach())
    as_output = gradient(features.dropped.detach(), weight)
    assert as_input.abs().sum() > 0
    assert as_output.abs().sum() > 0
    model.loss(features, targets).backward()
    torch.testing.assert_close(weight.grad, as_input + as_output)


@pytest.mark.parametrize("head", [0, 4])
def test_the_loss_is_the_cross_entropy_of_the_logits(head):
    model = tiny(softmax_head=head)
    tokens, targets = torch.randint(11, (5, 2)), torch.randint(11, (5, 2))
    logits, _ = model(tokens)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model.loss(model.features(tokens), targets), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 5},
        {"kernel_size": 1},
        {"cell": "lstm"},
        {"num_layers": 1},
        {"recurrent_groups": 4},
        {"recurrent_groups": 2, "cell": "lstm"},
        {"shared_reduce": True},
    ],
)
def test_a_sequence_equals_its_steps_with_carried_state(options):
    model = tiny(**options).double().eval()
    tokens = torch.randint(11, (7, 3))
    with torch.no_grad():
        whole, end = model(tokens)
        state, parts = None, []
        for part in tokens.split([1, 1, 3, 2]):
            logits, state = model(part, state)
            parts.append(logits)
    torch.testing.assert_close(torch.cat(parts), whole)
    torch.testing.assert_close(state, end)


def test_detached_state_ends_the_gradient():
    model = tiny()
    tokens = torch.randint(11, (3, 2))
    _, state = model(tokens)
    assert all(part.requires_grad for layer in state for part in layer)
    cut = detach(state)
    assert all(torch.equal(a, b) for x, y in zip(cut, state, strict=True) for a, b in zip(x, y, strict=True))
    assert not any(part.requires_grad for layer in cut for part in layer)


@given(p=st.floats(0.05, 0.9), seed=st.integers(0, 2**31))
@settings(max_examples=15)
def test_locked_dropout(p, seed):
    torch.manual_seed(seed)
    x = 1 + torch.rand(6, 3, 4000)  # a normal number may be exactly zero, and would hide its mask
    kept = x.clone()
    y = locked_dropout(x, p, training=True)
    mask = y / x
    torch.testing.assert_close(mask, mask[:1].expand_as(mask))
    assert not torch.equal(mask[0, 0] == 0, mask[0, 1] == 0)
    values = mask[0]
    torch.testing.assert_close(values[values != 0], torch.full_like(values[values != 0], 1 / (1 - p)))
    deviation = math.sqrt(p / (1 - p) / values.numel())
    assert abs(values.mean().item() - 1) < 6 * deviation
    assert torch.equal(x, kept)
    assert locked_dropout(x, p, training=False) is x
    assert locked_dropout(x, 0.0, training=True) is x


@pytest.mark.parametrize("locked", [True, False])
def test_dropout_acts_in_training_only(locked):
    options = dict.fromkeys(("input_dropout", "layer_dropout", "output_dropout", "embedding_dropout"), 0.5)
    dropping, plain = tiny(**options, weight_dropout=0.5, locked=locked), tiny()
    tokens = torch.randint(11, (5, 2))
    assert not torch.equal(dropping(tokens)[0], dropping(tokens)[0])
    dropping.eval()
    assert torch.equal(dropping(tokens)[0], plain(tokens)[0])


@pytest.mark.parametrize("place", ["input_dropout", "layer_dropout", "output_dropout"])
@pytest.mark.parametrize("locked", [True, False])
def test_every_dropout_has_its_place_and_its_mask(place, locked):
    model = tiny(locked=locked, **{place: 0.5})
    inputs = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    features = model.features(torch.randint(11, (9, 2)))
    dropped = [(x == 0).any().item() for x in [*inputs, features.dropped]]
    assert (
        dropped
        == {
            "input_dropout": [True, False, False, False],
            "layer_dropout": [False, True, True, False],
            "output_dropout": [False, False, False, True],
        }[place]
    )
    assert not (features.raw == 0).any()
    for x, is_dropped in zip([*inputs, features.dropped], dropped, strict=True):
        zero = x == 0
        assert not is_dropped or torch.equal(zero, zero[:1].expand_as(zero)) == locked


def test_embedding_dropout_drops_whole_words():
    p = 0.4
    model = LanguageModel(2000, 8, 8, embedding_dropout=p)
    before = model.embedding.weight.detach().clone()
    inputs = []
    model.layers[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    tokens = torch.arange(2000).repeat(2).view(-1, 4)
    model.features(tokens)
    twice = inputs[0].view(2, 2000, 8)
    torch.testing.assert_close(twice[0], twice[1])
    gone = (twice[0] == 0).all(dim=1)
    assert abs(gone.float().mean().item() - p) < 6 * math.sqrt(p * (1 - p) / 2000)
    expected = before * math.sqrt(8) / (1 - p)
    torch.testing.assert_close(twice[0][~gone], expected[~gone])
    assert torch.equal(model.embedding.weight, before)
    model.features(tokens)
    assert not torch.equal((inputs[1].view(2, 2000, 8)[0] == 0).all(dim=1), gone)


def real_tokens(steps, batch):
    """Words of the standard library's own manual, with their natural frequencies."""
    lines = [line for name in sorted(topics) for line in prose_lines(topics[name])]
    tokenizer = build_tokenizer("word", lines)
    ids = [i for line in lines for i in [*tokenizer.encode(line), tokenizer.eos]]
    assert len(ids) > 10 * steps * batch
    return torch.tensor(ids[: steps * batch]).view(batch, steps).t(), tokenizer.vocab_size


@pytest.mark.parametrize(("name", "cell"), [*((name, "eru") for name in RECIPES), ("small", "lstm")])
def test_unit_variance_at_the_start_on_real_tokens(name, cell):
    tokens, vocab_size = real_tokens(40, 20)
    torch.manual_seed(1)
    model = build_model(make_recipe(name, cell=cell), vocab_size)
    gates, signals = [], []

    def watch(layer, args):
        cell = layer.cells["l0"]
        gates.append(cell.project(args[0]))
        signals.append(gates[-1] - cell.bias)

    for layer in model.layers:
        layer.register_forward_pre_hook(watch)
    with torch.no_grad():
        logits, _ = model(tokens)
    assert len(gates) == 3
    for found, signal in zip(gates, signals, strict=True):
        assert 0.3 < found.std() < 3
        assert 0.15 < signal.std() < 3  # without the bias, whose forget gates alone make 0.43
    assert logits.std() < 1  # so that the first loss is about that of a uniform guess


def test_dense_gates_keep_unit_variance():
    torch.manual_seed(0)
    linear = dense_gates(300, 400)
    assert linear.bias is None
    assert 0.95 < linear(torch.randn(500, 300)).std() < 1.05


@pytest.mark.parametrize("error", [None, KeyError])
@pytest.mark.parametrize("training", [True, False])
def test_evaluating_gives_the_mode_back(training, error):
    model = tiny().train(training)
    try:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            if error:
                raise error
    except KeyError:
        assert error
    assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0: must be at least 1"),
        ({"embedding_size": -1}, "embedding_size=-1: must be at least 1"),
        ({"hidden_size": 0}, "hidden_size=0: must be at least 1"),
        ({"num_layers": 0}, "num_layers=0: must be at least 1"),
        ({"cell": "gru"}, "cell='gru': must be 'eru', 'lstm' or a callable"),
        ({"kernel_size": 2}, "kernel_size=2"),
        *(
            ({name: value, "cell": cell}, f"{name}={value}: only cell='eru' has an EESP")
            for name, value in (("kernel_size", 3), ("branches", 1), ("groups", 4), ("shared_reduce", True))
            for cell in ("lstm", dense_gates)
        ),
        ({"branches": 5}, "branches=5 does not divide"),
        ({"groups": 3}, "groups=3 does not divide"),
        *(
            ({name: p}, f"{name}={p}: must be a probability from 0 to 1")
            for name in ("input_dropout", "layer_dropout", "output_dropout", "embedding_dropout", "weight_dropout")
            for p in (-0.1, 1.1, math.nan)
        ),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LanguageModel(**{"vocab_size": 9, "embedding_size": 8, "hidden_size": 8, **options})
