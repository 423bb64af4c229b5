import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from eru import ERU, ERUCell
from eru.complexity import Stage, stages
from eru.lm.model import LanguageModel


def totals(found):
    return sum(stage.parameters for stage in found), sum(stage.multiply_adds for stage in found)


def eesp_cost(m, h, steps):
    """Parameters and multiply-adds of four 1-D EESPs over features, m -> h, in words of the design: K = groups = 4.

    Reduce m -> d = h / 4 in 4 groups, 4 branches of 3 taps a group, expand 4 d -> h in 4 groups.
    """
    d = h // 4
    reduce, branches, expand = d * m // 4, 4 * 4 * 3, h * 4 * d // 4
    return 4 * (reduce + branches + expand), 4 * steps * (reduce + 4 * 3 * d + expand)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 4, bias=False)
        self.twin = nn.Linear(6, 4)
        self.twin.weight = self.encoder.weight

    def forward(self, x):
        return self.encoder(x) + self.twin(x)


class Shared(nn.Module):
    """One module under two names, called from both places and once more from outside."""

    def __init__(self):
        super().__init__()
        head = nn.Linear(5, 5)
        self.left = nn.Sequential(nn.Linear(5, 5, bias=False), head)
        self.right = nn.Sequential(head)
        self.scale = nn.Parameter(torch.ones(5, 7))

    def forward(self, x):
        return (self.left(x) + self.right(x)) @ self.scale


def test_linear():
    assert stages(nn.Linear(3, 4), [(2, 3)]) == [Stage("", 3 * 4 + 4, 2 * 3 * 4)]


def test_convolution_with_groups_and_stride():
    # 9 x 8 pixels, padding 1, stride 2: 5 x 4 outputs; each of 12 output channels sees 6 / 3 input channels.
    model = nn.Conv2d(6, 12, (3, 5), stride=2, padding=(1, 2), groups=3)
    assert stages(model, [(2, 6, 9, 8)]) == [Stage("", 12 * 2 * 15 + 12, 2 * 5 * 4 * 12 * 2 * 15)]


def test_element_wise_work_is_free_and_parameters_are_optional():
    assert stages(nn.Sequential(nn.ReLU(), nn.AvgPool1d(2)), [(1, 4, 6)]) == []
    assert stages(nn.Sequential(nn.BatchNorm1d(4)), [(1, 4, 6)]) == [Stage("0", 8, 0)]


def test_a_tied_parameter_is_counted_where_it_comes_first():
    assert stages(Tied(), [(1, 6)]) == [Stage("encoder", 24, 24), Stage("twin", 4, 24)]


def test_a_shared_module_is_counted_under_its_first_name():
    assert stages(Shared(), [(1, 5)]) == [
        Stage("left.0", 25, 25),
        Stage("left.1", 30, 50),
        Stage("", 35, 35),
    ]


@pytest.mark.parametrize(
    ("depth", "names"),
    [(0, [""]), (1, ["0", "1", "2"]), (2, ["0.0", "0.1", "1", "2"]), (3, ["0.0", "0.1.0", "1", "2"])],
)
def test_depth_cuts_finer_and_keeps_the_sums(depth, names):
    inner = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4, bias=False)))
    model = nn.Sequential(inner, nn.Linear(4, 2), nn.PReLU())
    found = stages(model, [(5, 3)], depth=depth)
    assert [stage.name for stage in found] == names
    assert totals(found) == (16 + 16 + 10 + 1, 5 * (12 + 16 + 8))


@pytest.mark.parametrize(("inputs", "hidden"), [(16, 32), (48, 16)])
def test_an_eru_layer(inputs, hidden):
    size, work = eesp_cost(inputs, hidden, steps=7)
    found = stages(ERU(inputs, hidden), [(7, 1, inputs)])
    assert totals(found) == (size + 4 * hidden * hidden + 4 * hidden, work + 7 * 4 * hidden * hidden)
    size, work = eesp_cost(inputs, hidden, steps=1)
    found = stages(ERUCell(inputs, hidden), [(1, inputs)])
    assert totals(found) == (size + 4 * hidden * hidden + 4 * hidden, work + 4 * hidden * hidden)


@pytest.mark.parametrize("cell", ["eru", "lstm"])
def test_the_language_model_by_stage(cell):
    words, narrow, wide = 50, 16, 32
    expected = [Stage("embedding", words * narrow, 0)]
    for index, (m, h) in enumerate([(narrow, wide), (wide, wide), (wide, narrow)]):
        size, work = eesp_cost(m, h, steps=1) if cell == "eru" else (4 * h * m, 4 * h * m)
        expected.append(Stage(f"layers.{index}", size + 4 * h * h + 4 * h, work + 4 * h * h))
    expected.append(Stage("", words, words * narrow))
    assert stages(LanguageModel(words, narrow, wide, cell=cell), [(1, 1)], integer=True) == expected


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), nn.Flatten(), nn.Linear(36, 3)), (2, 4, 8)),
        (nn.LSTM(5, 6, num_layers=2), (4, 3, 5)),
        (nn.TransformerEncoderLayer(8, 2, 16), (4, 3, 8)),
        (ERU(10, 13, num_layers=2, bidirectional=True, proj_size=3), (4, 3, 10)),
        (ERU(12, 16, kernel_size=5), (4, 3, 12)),
        (ERU(12, 16, recurrent_groups=4), (4, 3, 12)),
        (ERU(12, 16, shared_reduce=True), (4, 3, 12)),
        (Tied(), (2, 6)),
        (Shared(), (2, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_sums_are_those_of_torch(model, shape):
    parameters, multiply_adds = totals(stages(model, [shape]))
    assert parameters == sum(p.numel() for p in model.parameters())
    # On the CPU an LSTM is one operator that torch does not count, on the meta device it is its products.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.to("meta").eval()(torch.empty(shape, device="meta"))
    assert multiply_adds == counter.get_total_flops() / 2


def test_the_model_stays_as_it_is():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)).train()
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight = model[0].weight
    assert stages(model, [(4, 3)]) == stages(model, [(4, 3)])
    assert model[0].weight is weight
    assert [part.training for part in model] == [False, True, True, True]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    for name, value in model.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])


class Twice(nn.Module):
    """A child's product, and one of its own after it."""

    def __init__(self):
        super().__init__()
        self.child = nn.Linear(3, 4)
        self.weight = nn.Parameter(torch.zeros(4, 5))

    def raw(self, x):
        return self.child(x) @ self.weight

    def forward(self, x):
        return self.raw(self.raw(x)[:, :3])


@pytest.mark.parametrize(("method", "times"), [("raw", 1), ("forward", 2)])
def test_any_method_is_counted_to_its_end(method, times):
    found = {stage.name: stage.multiply_adds for stage in stages(Twice(), [(1, 3)], depth=1, method=method)}
    assert found == {"child": times * 12, "": times * 20}
