"""Models without numbers, built for their shapes."""

import subprocess
import sys

import torch
from torch import nn

from eru.lm.build import build_model
from eru.lm.recipes import make_recipe
from eru.undrawn import Undrawn
from vision import create_model


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def test_the_shapes_are_those_of_models_with_numbers():
    torch.manual_seed(0)
    with Undrawn():
        undrawn = build_model(make_recipe("small"), 100), create_model("espnetv2_050")
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
    drawn = build_model(make_recipe("small"), 100), create_model("espnetv2_050")
    for one, other in zip(undrawn, drawn, strict=True):
        assert shapes(one) == shapes(other)
        assert {value.device.type for value in one.state_dict().values()} == {"meta"}
        assert {value.device.type for value in other.state_dict().values()} == {"cpu"}


def test_it_does_not_load_a_compiler():
    program = "import sys, torch, eru.lm.build as b, eru.lm.recipes as r; b.count_parameters(r.small(), 100)"
    command = [sys.executable, "-c", f"{program}; print('torch._dynamo' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "False"
