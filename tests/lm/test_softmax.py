import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eru.lm.softmax import tied_cross_entropy, two_step_cross_entropy, two_step_log_probabilities


def operands(rows: int, width: int, types: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    torch.manual_seed(rows + 100 * width + 10_000 * types)
    shapes = ((rows, width), (types, width), (types,))
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 30), st.floats(-3, 3))
def test_loss_and_gradients_equal_torchs_own(rows: int, width: int, types: int, factor: float) -> None:
    inputs = operands(rows, width, types)
    targets = torch.randint(0, types, (rows,))
    ours = tied_cross_entropy(*inputs, targets)
    features, weight, bias = inputs
    theirs = F.cross_entropy(F.linear(features, weight, bias), targets)
    torch.testing.assert_close(ours, theirs)
    found = torch.autograd.grad(factor * ours, inputs)
    expected = torch.autograd.grad(factor * theirs, inputs)
    torch.testing.assert_close(found, expected)


def test_gradcheck() -> None:
    targets = torch.tensor([0, 2, 2, 4, 1])
    assert torch.autograd.gradcheck(lambda *x: tied_cross_entropy(*x, targets), operands(5, 3, 5))


def test_without_gradients_the_loss_is_the_same() -> None:
    inputs = operands(70, 4, 11)
    targets = torch.arange(70) % 11
    with torch.no_grad():
        plain = tied_cross_entropy(*inputs, targets)
    torch.testing.assert_close(plain, tied_cross_entropy(*inputs, targets).detach())


def test_large_logits_stay_finite() -> None:
    features, weight = torch.full((2, 1), 1e4, requires_grad=True), torch.tensor([[1.0], [-1.0], [0.0]])
    loss = tied_cross_entropy(features, weight, torch.zeros(3), torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert torch.isfinite(features.grad).all()


def test_under_autocast_the_products_are_bfloat16_and_the_loss_float32() -> None:
    inputs = operands(130, 16, 50, torch.float32)
    targets = torch.arange(130) % 50
    exact = tied_cross_entropy(*inputs, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = tied_cross_entropy(*inputs, targets)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    for found, expected in zip(torch.autograd.grad(rounded, inputs), torch.autograd.grad(exact, inputs), strict=True):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.03 * expected.norm()


def test_second_derivatives_are_refused() -> None:
    inputs = operands(3, 2, 4)
    factor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    loss = factor * tied_cross_entropy(*inputs, torch.tensor([0, 1, 2]))
    (gradient,) = torch.autograd.grad(loss, inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing
def test_compiled_it_is_the_same() -> None:
    torch._dynamo.reset()
    inputs, targets = operands(9, 4, 11, torch.float32), torch.arange(9)
    compiled = torch.compile(tied_cross_entropy, backend="eager", fullgraph=True)
    ours, theirs = compiled(*inputs, targets), tied_cross_entropy(*inputs, targets)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs))


@given(st.integers(1, 40), st.integers(1, 9), st.integers(2, 30), st.data())
def test_two_steps_are_torchs_adaptive_softmax(rows: int, width: int, types: int, data: st.DataObject) -> None:
    head = data.draw(st.integers(1, types - 1))
    features, weight, bias = operands(rows, width, types)
    targets, rare = torch.randint(0, types, (rows,)), nn.Linear(width, 1, dtype=torch.float64)
    inputs = [features, weight, bias, rare.weight, rare.bias]
    theirs = nn.AdaptiveLogSoftmaxWithLoss(
        width + 1, types, [head], div_value=1.0, head_bias=True, dtype=torch.float64
    )
    with torch.no_grad():  # Its tail has no bias and maps the features first: one more feature, of ones, is the bias.
        theirs.head.weight.copy_(F.pad(torch.cat([weight[:head], rare.weight]), (0, 1)))
        theirs.head.bias.copy_(torch.cat([bias[:head], rare.bias]))
        theirs.tail[0][0].weight.copy_(torch.eye(width + 1))
        theirs.tail[0][1].weight.copy_(torch.cat([weight[head:], bias[head:, None]], dim=1))
    with_ones = F.pad(features, (0, 1), value=1.0)
    ours = two_step_cross_entropy(features, weight, bias, rare, targets, head)
    torch.testing.assert_close(ours, theirs(with_ones, targets).loss)
    log = two_step_log_probabilities(F.linear(features, weight, bias), rare(features), head)
    torch.testing.assert_close(log, theirs.log_prob(with_ones))
    found = torch.autograd.grad(3 * ours, inputs)
    torch.testing.assert_close(found, torch.autograd.grad(3 * F.nll_loss(log, targets), inputs))
