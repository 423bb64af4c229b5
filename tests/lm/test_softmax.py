import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eru.lm.softmax import tied_cross_entropy


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
