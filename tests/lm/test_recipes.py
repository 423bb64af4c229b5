import json
from dataclasses import FrozenInstanceError, asdict, fields

import pytest
import torch

from eru.lm.build import build_model
from eru.lm.recipes import RECIPES, Recipe, make_recipe, parse_field, read_recipe


def test_names():
    assert {name: make().name for name, make in RECIPES.items()} == {name: name for name in RECIPES}
    assert set(RECIPES) == {"small", "paper-7m", "paper-15m", "awd-7m", "awd-15m", "lstm-7m"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_frozen_and_survive_json(name):
    recipe = make_recipe(name)
    with pytest.raises(FrozenInstanceError):
        recipe.epochs = 3  # type: ignore[misc]
    assert Recipe(**json.loads(json.dumps(asdict(recipe)))) == recipe


def test_a_stored_recipe_of_another_version_is_read():
    stored = json.loads(json.dumps(asdict(make_recipe("awd-7m", hidden_size=12))))
    assert read_recipe(stored) == make_recipe("awd-7m", hidden_size=12)
    del stored["patience"]
    assert read_recipe({**stored, "conv_axis": "feature"}) == make_recipe("awd-7m", hidden_size=12)
    for wrong, message in (
        ({**stored, "conv_axis": "time"}, "conv_axis='time': this form of the ERU is no longer part of the library"),
        ({**stored, "colour": "red"}, "no recipe: .*'colour'"),
        ({}, "no recipe: .*'name'"),
        (3, "no recipe: 'int' object is not iterable"),
    ):
        with pytest.raises(ValueError, match=message):
            read_recipe(wrong)


def test_every_field_is_described():
    documented = {line.split(":")[0].strip() for line in (Recipe.__doc__ or "").splitlines() if line[8:9].isalpha()}
    assert {field.name for field in fields(Recipe)} <= documented


def test_changes_are_applied_to_the_named_recipe_only():
    before = make_recipe("awd-7m")
    changed = make_recipe("awd-7m", epochs=3, cell="lstm")
    assert asdict(changed) == {**asdict(make_recipe("awd-7m")), "epochs": 3, "cell": "lstm"}
    assert make_recipe("awd-7m") == before


def test_an_older_file_means_the_form_that_it_had():
    """Of a field that is younger than a config.json the default counts, not what the recipe of its name says today."""
    stored = asdict(make_recipe("awd-7m"))
    younger = {"shared_reduce": False, "branches": None, "groups": None, "recurrent_groups": 1}
    found = read_recipe({name: value for name, value in stored.items() if name not in younger})
    assert found == make_recipe("awd-7m", **younger)


def test_an_unknown_recipe_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"recipe='paper': must be one of small, paper-7m, .*awd-15m"):
        make_recipe("paper")


@pytest.mark.parametrize("name", ["hidden", "name"])
def test_an_unknown_field_is_named_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"unknown recipe field '{name}': must be one of .*hidden_size"):
        make_recipe("small", **{name: 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({name: 0}, f"{name}=0: must be at least 1") for name in ("epochs", "log_every", "checkpoint_every")),
        *(
            ({name: -1}, f"{name}=-1: must be finite and not negative")
            for name in (
                *("weight_decay", "nonmonotone_interval", "patience"),
                *("activation_regularization", "temporal_regularization"),
            )
        ),
        ({"learning_rate": 0}, "learning_rate=0: must be finite and above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: must be finite and above 0"),
        ({"learning_rate": float("inf")}, "learning_rate=inf: must be finite and above 0"),
        ({"clip": 0.0}, "clip=0.0: must be finite and above 0"),
        ({"tokenizer": "bytes"}, "tokenizer='bytes': must be one of word, sentencepiece, char"),
        ({"cell": "gru"}, "cell='gru': must be one of eru, lstm"),
        ({"optimizer": "lamb"}, "optimizer='lamb': must be one of adamw, adam, sgd"),
        ({"sampled_softmax": -1}, "sampled_softmax=-1: must be at least 0"),
        ({"softmax_head": 9}, "softmax_head=9, sampled_softmax=2500: one of the two must be 0"),
        ({"averaging_start": 1.5}, "averaging_start=1.5: must be from 0 to 1"),
        ({"schedule": "step"}, "schedule='step': must be one of constant, cosine, linear, drop"),
        ({"epochs": "3"}, "epochs='3': must be of type int"),
        ({"epochs": 2.5}, "epochs=2.5: must be of type int"),
        ({"hidden_size": True}, "hidden_size=True: must be of type int"),
        ({"locked": 1}, "locked=1: must be of type bool"),
        ({"learning_rate": None}, "learning_rate=None: must be of type float"),
        ({"vocab_size": 3.5}, r"vocab_size=3.5: must be of type int \| None"),
    ],
)
def test_values_that_cannot_train_are_named(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_recipe("small", **change)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs=3", 3),
        ("learning_rate=3e-4", 3e-4),
        ("learning_rate=30", 30.0),
        ("locked=True", True),
        ("averaging=false", False),
        ("cell=lstm", "lstm"),
        ("vocab_size=500", 500),
        ("vocab_size=None", None),
    ],
)
def test_fields_are_read_from_text(text, expected):
    name, value = parse_field(text)
    assert (name, value, type(value)) == (text.partition("=")[0], expected, type(expected))
    assert getattr(make_recipe("small", **{name: value}), name) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "'epochs': must be field=value with a recipe field, one of .*hidden_size"),
        ("layers=3", "'layers=3': did you mean .*num_layers.*must be field=value with a recipe field"),
        ("name=mine", "'name=mine': must be field=value with a recipe field"),
        ("epochs=many", "'epochs=many': the value must be a whole number"),
        ("epochs=2.5", "'epochs=2.5': the value must be a whole number"),
        ("clip=", "'clip=': the value must be a number"),
        ("locked=1", "'locked=1': the value must be true or false"),
        ("vocab_size=all", "'vocab_size=all': the value must be a whole number or none"),
    ],
)
def test_text_that_is_no_field_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_field(text)


def test_the_recipe_reaches_the_model():
    recipe = make_recipe(
        "small",
        embedding_size=16,
        hidden_size=24,
        num_layers=4,
        kernel_size=5,
        branches=1,
        groups=2,
        shared_reduce=True,
        input_dropout=0.1,
        layer_dropout=0.2,
        output_dropout=0.3,
        embedding_dropout=0.4,
        weight_dropout=0.6,
        hidden_dropout=0.7,
        locked=True,
    )
    model = build_model(recipe, 50)
    widths = [(layer.input_size, layer.hidden_size) for layer in model.layers]
    assert widths == [
        (16, 24),
        (24, 24),
        (24, 24),
        (24, 16),
    ]
    assert (model.input_dropout, model.layer_dropout, model.output_dropout) == (0.1, 0.2, 0.3)
    assert (model.embedding_dropout, model.locked, model.vocab_size) == (0.4, True, 50)
    for layer in model.layers:
        assert layer.weight_dropout == 0.6
        assert layer.hidden_dropout == 0.7
        gates = layer.cells["l0"].input_transform
        assert (gates.kernel_size, gates.branches, gates.expand_groups) == (5, 1, 2)
        assert layer.cells["l0"].input_transform.shared_reduce


def test_solving_for_the_control_draws_nothing():
    recipe = make_recipe("small", cell="lstm", embedding_size=16, hidden_size=24)
    torch.manual_seed(3)
    solved = build_model(recipe, 50)
    after = torch.rand(4)
    torch.manual_seed(3)
    size = solved.layers[0].hidden_size
    direct = type(solved)(50, 16, size, cell="lstm", recurrent_groups=4)
    for found, expected in zip(solved.parameters(), direct.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(after, torch.rand(4))
