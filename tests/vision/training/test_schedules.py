"""The learning rates against the numbers that the paper prints."""

import math

import pytest

from vision.training.recipes import RECIPES, make_recipe
from vision.training.schedules import rate_factor
from vision.training.steps import learning_rate


def printed(epoch, highest, lowest, cycle, halvings):
    """Eq. 1 of the paper, as printed, with the halvings of its text."""
    return (highest - epoch % cycle * lowest) * 0.5 ** sum(epoch >= at for at in halvings)


@pytest.mark.parametrize(
    ("task", "epochs", "highest", "lowest", "halvings"),
    [
        ("classify", 300, 0.5, 0.1, (50, 100, 130, 160, 190, 220, 250, 280)),
        ("multilabel", 100, 0.005, 0.001, (50, 80)),
    ],
)
def test_the_paper_s_cycles_are_as_printed(task, epochs, highest, lowest, halvings):
    recipe = make_recipe("paper", task)
    assert recipe.epochs == epochs
    for epoch in range(epochs):
        for batch in (0, 6):
            rate = learning_rate(recipe, epoch, batch, batches=7)
            assert rate == pytest.approx(printed(epoch, highest, lowest, 5, halvings), rel=1e-12)


def test_the_fixed_schedule_of_table_6_falls_to_a_tenth_every_thirty_epochs():
    recipe = make_recipe("paper-fixed", "classify")
    rates = [learning_rate(recipe, epoch, 0, 1) for epoch in range(recipe.all_epochs)]
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)


@pytest.mark.parametrize("name", ["paper", "paper-cityscapes"])
def test_segmentation_has_two_stages_each_with_short_cycles_and_then_a_long_one(name):
    recipe = make_recipe(name, "segment")
    assert (recipe.all_epochs, len(recipe.sizes)) == (200, 2)
    for first, highest in ((0, 0.007), (100, 0.003)):
        for epoch in range(50):
            expected = highest * (1 - epoch % 5 / 5)
            assert learning_rate(recipe, first + epoch, 3, 9) == pytest.approx(expected)
            assert learning_rate(recipe, first + 50 + epoch, 3, 9) == pytest.approx(highest * (1 - epoch / 50))
    assert [recipe.stage(epoch) for epoch in (0, 99, 100, 199, 200)] == [(0, 0), (0, 99), (1, 0), (1, 99), (1, 100)]


def test_a_cosine_rises_batch_by_batch_and_falls_to_nothing():
    options = {"epochs": 4, "batches": 10, "warmup_epochs": 1}
    factors = [rate_factor("cosine", epoch, batch, **options) for epoch in range(4) for batch in range(10)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    expected = [(1 + math.cos(math.pi * (step - 10) / 30)) / 2 for step in range(10, 40)]
    assert factors[10:] == pytest.approx(expected)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_rate_above_zero_for_each_batch(name):
    for recipe in RECIPES[name].values():
        assert recipe.name == name
        assert all(
            learning_rate(recipe, epoch, batch, 2) > 0 for epoch in range(recipe.all_epochs) for batch in (0, 1)
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [({"name": "step"}, "schedule='step'"), ({"cycle": 0}, "cycle=0")],
)
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        rate_factor(**{"name": "cycles", "epoch": 0, "batch": 0, "epochs": 1, "batches": 1, **options})
