import json
from dataclasses import asdict, replace

import pytest

from vision.training.recipes import RECIPES, make_recipe, parse_field, read_recipe

ALL = [recipe for by_task in RECIPES.values() for recipe in by_task.values()]


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: f"{recipe.name}-{recipe.task}")
def test_a_recipe_comes_back_from_json(recipe):
    assert read_recipe(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_there_is_a_recipe_of_every_kind_for_every_task():
    tasks = {"classify", "multilabel", "segment", "detect"}
    assert all(set(RECIPES[name]) == tasks for name in ("paper", "modern", "shapes"))


@pytest.mark.parametrize(
    ("name", "task", "changes", "said"),
    [
        ("papr", "classify", {}, "recipe='papr': must be one of paper"),
        ("paper-fixed", "detect", {}, "is for classify, not for task='detect'"),
        ("paper", "classify", {"epoch": 3}, "unknown recipe field 'epoch'"),
        ("paper", "classify", {"task": "detect"}, "unknown recipe field 'task'"),
        ("paper", "classify", {"epochs": 0}, "epochs=0: must be at least 1"),
        ("paper", "classify", {"rates": ()}, "one of each for every stage"),
        ("paper", "classify", {"rates": (0.1, 0.2)}, "one of each for every stage"),
        ("paper", "classify", {"rates": (float("nan"),)}, "rates=.*finite and above 0"),
        ("paper", "classify", {"sizes": ((224, 16),)}, "sizes=.*at least 32"),
        ("paper", "classify", {"smallest_crop": 0.0}, "smallest_crop=0.0"),
        ("paper", "segment", {"scales": (2.0, 0.5)}, "scales=.*a smaller number and a larger one"),
        ("paper", "segment", {"scales": (0.5,)}, "scales=.*a smaller number and a larger one"),
        ("paper", "classify", {"ema": 1.0}, "ema=1.0: must be from 0 to below 1"),
        ("paper", "classify", {"freeze": "all"}, "freeze='all': must be one of nothing, batch-norm, backbone"),
        ("paper", "segment", {"mixup": 0.2}, "mixup=0.2: is for the task classify"),
        ("paper", "detect", {"smoothing": 0.2}, "smoothing=0.2: is for the task classify"),
    ],
)
def test_what_does_not_fit_is_refused(name, task, changes, said):
    with pytest.raises(ValueError, match=said):
        make_recipe(name, task, **changes)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("epochs=3", ("epochs", 3)),
        ("momentum=0.8", ("momentum", 0.8)),
        ("milestones=30,60", ("milestones", (30, 60))),
        ("milestones=", ("milestones", ())),
        ("sizes=64x96", ("sizes", ((64, 96),))),
        ("scales=0.5,2", ("scales", (0.5, 2.0))),
        ("freeze=backbone", ("freeze", "backbone")),
    ],
)
def test_fields_are_read_from_the_command_line(text, field):
    assert parse_field(text) == field
    replace(make_recipe("paper", "classify"), **dict([field]))


@pytest.mark.parametrize("text", ["epochs", "epoch=1", "task=detect", "epochs=1.5", "sizes=64", "rates=a,b"])
def test_fields_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match=text.partition("=")[0]):
        parse_field(text)


@pytest.mark.parametrize("saved", [None, {}, {"name": "x"}, {**asdict(ALL[0]), "new": 1}])
def test_what_is_no_recipe_is_refused(saved):
    with pytest.raises(ValueError, match="no recipe"):
        read_recipe(saved)
