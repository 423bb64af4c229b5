from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eru.lm.build import build_model
from eru.lm.model import LanguageModel
from eru.lm.recipes import make_recipe
from eru.lm.sampled_softmax import sampled_cross_entropy, sampling_chances
from eru.lm.step_form import SequenceForm


def operands(rows: int, width: int, types: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(rows + 100 * width + 10_000 * types)
    shapes = ((rows, width), (types, width), (types,))
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]


def by_definition(features, weight, bias, targets, chances, sample):
    """The loss as its docstring writes it, one prediction and one word at a time."""
    losses = []
    for row, wanted in zip(features, targets.tolist(), strict=True):
        total = own = (row @ weight[wanted] + bias[wanted]).exp()
        for word in sample:
            if word != wanted:
                total = total + (row @ weight[word] + bias[word]).exp() / chances[word]
        losses.append(total.log() - own.log())
    return torch.stack(losses).mean()


def draw(monkeypatch: pytest.MonkeyPatch, sample: tuple[int, ...]) -> None:
    """Make the next samples hold just these words."""

    def rand_like(chances: torch.Tensor) -> torch.Tensor:
        drawn = torch.ones_like(chances)  # at least every chance, so that no word is in the sample
        drawn[list(sample)] = 0.0
        return drawn

    monkeypatch.setattr(torch, "rand_like", rand_like)


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 30), st.floats(-3, 3))
def test_a_sample_of_all_words_is_torchs_own_loss(rows: int, width: int, types: int, factor: float) -> None:
    inputs = operands(rows, width, types)
    targets = torch.randint(0, types, (rows,))
    features, weight, bias = inputs
    ours = sampled_cross_entropy(*inputs, targets, torch.ones(types))
    theirs = F.cross_entropy(F.linear(features, weight, bias), targets)
    torch.testing.assert_close(ours, theirs)
    found, expected = (torch.autograd.grad(factor * loss, inputs) for loss in (ours, theirs))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("sample", [(), (0,), (3,), (0, 1, 2, 3, 4, 5), (1, 2, 5)])
def test_loss_and_gradients_are_those_of_the_definition(monkeypatch, sample):
    inputs, targets = operands(7, 3, 6), torch.tensor([0, 1, 2, 3, 4, 5, 0])
    chances = torch.tensor([0.9, 0.8, 0.5, 0.4, 0.3, 0.2])
    draw(monkeypatch, sample)
    ours = sampled_cross_entropy(*inputs, targets, chances)
    theirs = by_definition(*inputs, targets, chances.double(), sample)
    torch.testing.assert_close(ours, theirs)
    found, expected = (torch.autograd.grad(loss, inputs, allow_unused=True) for loss in (ours, theirs))
    torch.testing.assert_close(found, expected)


def test_the_estimated_sum_is_right_on_average(monkeypatch):
    features, weight, bias = operands(1, 3, 5)
    targets, chances = torch.tensor([3]), torch.tensor([1.0, 0.9, 0.6, 0.5, 0.2], dtype=torch.float64)
    scores = F.linear(features, weight, bias)[0]
    mean = scores.new_zeros(())
    for chosen in product([False, True], repeat=5):  # every sample that there is, by its probability
        inside = torch.tensor(chosen)
        draw(monkeypatch, tuple(inside.nonzero().squeeze(1).tolist()))
        loss = sampled_cross_entropy(features, weight, bias, targets, chances)
        mean += torch.where(inside, chances, 1 - chances).prod() * (loss + scores[3]).exp()
    torch.testing.assert_close(mean, scores.exp().sum())


def test_gradcheck() -> None:
    targets, chances = torch.tensor([0, 2, 2, 4, 1]), torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5])

    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return sampled_cross_entropy(*inputs, targets, chances)

    assert torch.autograd.gradcheck(loss, operands(5, 3, 5))


def test_large_logits_stay_finite() -> None:
    features, weight = torch.full((2, 1), 1e4, requires_grad=True), torch.tensor([[1.0], [-1.0], [0.0]])
    loss = sampled_cross_entropy(features, weight, torch.zeros(3), torch.tensor([0, 1]), torch.ones(3))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert torch.isfinite(features.grad).all()


def test_under_autocast_the_products_are_bfloat16_and_the_loss_float32() -> None:
    inputs, targets, chances = operands(130, 16, 50, torch.float32), torch.arange(130) % 50, sampling_chances(50, 30)
    torch.manual_seed(1)
    exact = sampled_cross_entropy(*inputs, targets, chances)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = sampled_cross_entropy(*inputs, targets, chances)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    for found, expected in zip(torch.autograd.grad(rounded, inputs), torch.autograd.grad(exact, inputs), strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.03 * expected.norm()


@given(st.integers(1, 3000), st.data())
def test_chances_add_up_to_the_size_and_frequent_words_have_the_higher_ones(vocab_size, data):
    size = data.draw(st.integers(1, vocab_size))
    chances = sampling_chances(vocab_size, size)
    assert chances.double().sum().item() == pytest.approx(size, abs=1)
    assert ((chances > 0) & (chances <= 1)).all()
    assert (chances.diff() <= 0).all()
    constants = (chances * torch.arange(1, vocab_size + 1).sqrt())[chances < 1]
    torch.testing.assert_close(constants, constants[:1].expand(len(constants)))


@pytest.mark.parametrize("size", [0, 12])
def test_a_sample_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match=rf"size={size}: must be from 1 to the vocabulary's 11 tokens"):
        sampling_chances(11, size)


def model_and_text(**options) -> tuple[LanguageModel, torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    model = LanguageModel(11, 8, 12, branches=1, groups=1, **options)
    return model, torch.randint(11, (5, 2)), torch.randint(11, (5, 2))


def test_a_model_samples_in_training_and_sees_every_word_in_evaluation():
    model, tokens, targets = model_and_text(sampled_softmax=4)
    exact = F.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten())
    assert len({model.loss(model.features(tokens), targets).item() for _ in range(4)}) == 4
    assert model.eval().loss(model.features(tokens), targets).item() == pytest.approx(exact.item())


@pytest.mark.parametrize("size", [6, 11, 5000])
def test_all_words_are_quicker_than_a_sample_of_most_of_them(size):
    model, tokens, targets = model_and_text(sampled_softmax=size)
    plain, _, _ = model_and_text()
    torch.testing.assert_close(
        model.loss(model.features(tokens), targets), plain.loss(plain.features(tokens), targets)
    )


def test_the_sample_is_no_part_of_the_weights():
    sampling, _, _ = model_and_text(sampled_softmax=4)
    plain, _, _ = model_and_text()
    plain.load_state_dict(sampling.state_dict())
    sampling.load_state_dict(plain.state_dict())


def test_a_model_in_bfloat16_draws_as_many_words(monkeypatch):
    drawn = []
    monkeypatch.setattr(torch, "rand_like", lambda chances: drawn.append(chances.dtype) or torch.zeros_like(chances))
    model, tokens, targets = model_and_text(sampled_softmax=4)
    model.bfloat16()
    model.loss(model.features(tokens), targets)
    assert drawn == [torch.float32]


def test_a_recipe_hands_it_to_its_model():
    sizes = {"embedding_size": 8, "hidden_size": 8}
    sampling, plain = (build_model(make_recipe("small", **sizes, sampled_softmax=n), 100) for n in (20, 0))
    assert sampling.chances.sum().item() == pytest.approx(20, abs=1)
    assert plain.chances is None


def test_an_exported_sequence_does_not_hold_the_chances():
    model, _, _ = model_and_text(sampled_softmax=4)
    assert dict(SequenceForm(model.eval()).named_buffers()).keys() == {"table"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampled_softmax": -1}, r"sampled_softmax=-1: must be 0 or a number of tokens"),
        ({"sampled_softmax": 4, "softmax_head": 3}, r"softmax_head=3, sampled_softmax=4: one of the two must be 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model_and_text(**options)
