"""The optimisers against their formulas, written out."""

import pytest
import torch
from torch import nn

from eru.training import Ranks, make_optimizer, update
from eru.training.numerics import first_broken

RATE, DECAY, EPSILON = 0.01, 0.3, 1e-8
RANKS = Ranks(0, 1, torch.device("cpu"))


def trained(name, steps, **options):
    """A weight after some steps on the loss w^2 a, with another a at each."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = make_optimizer(name, [weight], learning_rate=1.0, weight_decay=DECAY, **options)
    for step in range(steps):
        update(optimizer, [((step + 1) * weight**2).sum()], learning_rate=RATE, clip=1e9, ranks=RANKS)
    return weight.detach()


def expected(name, steps, beta1=0.9, beta2=0.999):
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(1, steps + 1):
        gradient = 2 * step * w
        if name == "adamw":
            w = w - RATE * DECAY * w
        else:
            gradient = gradient + DECAY * w
        if name == "sgd":
            w = w - RATE * gradient
            continue
        mean, square = beta1 * mean + (1 - beta1) * gradient, beta2 * square + (1 - beta2) * gradient**2
        w = w - RATE * (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)).sqrt() + EPSILON)
    return w.float()


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("steps", [1, 5])
def test_an_optimizer_is_its_formula(name, steps):
    torch.testing.assert_close(trained(name, steps), expected(name, steps))


@pytest.mark.parametrize("name", ["adamw", "adam"])
@pytest.mark.parametrize("beta1", [0.0, 0.5])
def test_beta1_is_what_is_kept_of_the_mean_gradient(name, beta1):
    torch.testing.assert_close(trained(name, 5, beta1=beta1), expected(name, 5, beta1))
    assert not torch.allclose(trained(name, 5, beta1=beta1), trained(name, 5))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(name, value):
    weight, other = nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([3.0]))
    optimizer = make_optimizer(name, [weight, other], learning_rate=1.0, weight_decay=DECAY)
    options = {"learning_rate": RATE, "clip": 0.1, "ranks": RANKS}
    before = weight.detach().clone(), other.detach().clone()
    norm = update(optimizer, [(weight * torch.tensor([1.0, value])).sum() + other.sum()], **options)
    assert not norm.isfinite()
    assert (torch.equal(weight, before[0]), torch.equal(other, before[1])) == (True, True)
    assert first_broken(nn.ParameterDict({"other": other, "weight": weight})) == "weight"
    norm = update(optimizer, [weight.sum() + other.sum()], **options)
    assert norm.isfinite()
    assert weight.isfinite().all()
    assert not torch.equal(weight, before[0])
    assert first_broken(nn.ParameterDict({"weight": weight})) is None


def test_the_parts_of_a_batch_are_computed_one_after_the_other_and_make_its_mean():
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for parts in (1, 2, 3):
        weight, asked = nn.Parameter(torch.tensor([1.0, -2.0, 0.5])), []

        def losses(parts=parts, weight=weight, asked=asked):
            for part in inputs.chunk(parts):
                asked.append(None if weight.grad is None else weight.grad.clone())
                yield (part @ weight).square().mean()

        optimizer = make_optimizer("sgd", [weight], learning_rate=1.0, weight_decay=0.0)
        norm = update(optimizer, losses(), parts=parts, learning_rate=RATE, clip=1e9, ranks=RANKS)
        assert [gradient is None for gradient in asked] == [True] + [False] * (parts - 1)
        results.append((weight.detach(), norm))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lamb", {}, "optimizer='lamb': must be one of adamw, adam, sgd"),
        ("adam", {"beta1": 1.0}, r"beta1=1\.0: must be from 0 to below 1"),
        ("adamw", {"beta1": -0.1}, r"beta1=-0\.1: must be from 0 to below 1"),
    ],
)
def test_bad_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, [nn.Parameter(torch.ones(1))], learning_rate=1.0, weight_decay=0.0, **options)
