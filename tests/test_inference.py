"""The inference form against the module that it is made of."""

import copy

import pytest
import torch
from torch import nn

from eru import ERU, EESPGates, ERUCell, kernels, optimize
from eru.lm.model import LanguageModel


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 3, "layer_norm": True}]
)
@pytest.mark.parametrize("steps", [1, 7])
def test_a_layer_gives_the_same_outputs_and_state(options, steps):
    torch.manual_seed(0)
    rnn, x = ERU(10, 16, **options, dtype=torch.float64), torch.randn(steps, 3, 10, dtype=torch.float64)
    expected, state = rnn(x)
    found, ends = optimize(rnn)(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ends, state)


def test_a_cell_and_a_bare_unit_too():
    torch.manual_seed(0)
    cell, unit = ERUCell(10, 16, dtype=torch.float64), EESPGates(10, 64, dtype=torch.float64)
    x = torch.randn(3, 10, dtype=torch.float64)
    torch.testing.assert_close(optimize(cell)(x), cell(x))
    assert isinstance(optimize(unit), nn.Linear)
    torch.testing.assert_close(optimize(unit)(x.unsqueeze(0)), unit(x.unsqueeze(0)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_language_model_shares_all_but_its_dense_maps_and_stays_as_it_is(dtype):
    """A map that the compiled kernels run, in float32, stays a unit, whose weights are shared too."""
    torch.manual_seed(0)
    model = LanguageModel(30, 16, 20, weight_dropout=0.5, output_dropout=0.5).to(dtype).train()
    made = optimize(model)
    assert (model.training, made.training) == (True, False)
    ours = dict(model.named_parameters())
    stays = dtype == torch.float32 and kernels.refusal() is None
    for name, parameter in made.named_parameters():
        assert (stays or "input_transform" not in name) == (parameter is ours.get(name))
    assert any(isinstance(module, EESPGates) for module in made.modules()) == stays
    tokens = torch.randint(30, (5, 2))
    torch.testing.assert_close(made(tokens)[0], model.eval()(tokens)[0])


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model='x': must be a module"):
        optimize("x")


@pytest.mark.skipif(kernels.refusal() is not None, reason="needs a C compiler")
def test_in_bfloat16_single_steps_are_taken_as_they_are_and_many_rows_by_one_matrix():
    model = ERU(24, 32).bfloat16().eval()
    made = optimize(model)
    unit = made.cells["l0"].input_transform
    assert unit.kept_dense is not None
    assert model.cells["l0"].input_transform.kept_dense is None
    # Weights that were loaded into the copy would be those of single steps alone.
    with pytest.raises(RuntimeError, match="kept_dense"):
        made.load_state_dict(model.state_dict())
    precise = copy.deepcopy(model).double()
    for steps in (1, 90):
        x = torch.randn(steps, 2, 24, dtype=torch.bfloat16)
        with torch.no_grad():
            torch.testing.assert_close(made(x)[0].double(), precise(x.double())[0], rtol=0, atol=0.02)
    unit.kept_dense.zero_()  # is what many rows are multiplied by
    with torch.no_grad():
        assert not unit(x).any()
        assert unit(x[:1]).all()
    made.train().eval()  # may have changed the weights
    with torch.no_grad():
        assert unit(x).any()
