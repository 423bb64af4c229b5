import copy
import itertools
import math
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from eru import ERU, ERUCell

both_directions = pytest.mark.parametrize("bidirectional", [False, True])
DOUBLE = {"dtype": torch.float64}

# Before torch 2.7 its scan has no gradient, and exports keep the operator of the CPU path.
needs_scan = pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="needs the scan of torch 2.7")


def quiet_scan(test):
    """Let pass what torch itself warns of inside its scan."""
    for warning in ("The .grad attribute of a Tensor", "`torch.jit.script"):
        test = pytest.mark.filterwarnings(f"ignore:{warning}")(test)
    return test


def random_state(rnn, batch, like):
    return tuple(torch.randn_like(part) for part in rnn._start(like.new_zeros(1, batch, rnn.input_size), None, True))


def gradients(output, tensors):
    """Gradients of the output and the whole state, each weighted by fixed random numbers."""
    generator = torch.Generator().manual_seed(0)
    parts = [part for part in (output[0], *output[1]) if part.requires_grad]
    tops = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in parts]
    return torch.autograd.grad(parts, tensors, tops, retain_graph=True)  # two modules may share one packed input


# --- a sequence is its steps, one after the other


def unroll(rnn, x, state):
    """The layers as cells, called step by step."""
    layers = [tuple(part[layer] for part in state) for layer in range(rnn.num_layers)]
    outputs = []
    for step in x:
        for layer, cell in enumerate(rnn.cells.values()):
            layers[layer] = cell(step, layers[layer])
            step = layers[layer][0]
        outputs.append(step)
    return torch.stack(outputs), tuple(torch.stack(parts) for parts in zip(*layers, strict=True))


def check_sequence_equals_steps(rnn, steps, batch):
    x = torch.randn(steps, batch, rnn.input_size, dtype=torch.float64, requires_grad=True)
    state = random_state(rnn, batch, x)
    whole, stepped = rnn(x, state), unroll(rnn, x, state)
    torch.testing.assert_close(whole, stepped, rtol=1e-9, atol=1e-9)
    tensors = [x, *rnn.parameters()]
    torch.testing.assert_close(gradients(whole, tensors), gradients(stepped, tensors), rtol=1e-8, atol=1e-9)


OPTIONS = [
    {},
    {"kernel_size": 1},
    {"kernel_size": 5},
    {"bias": False},
    {"layer_norm": True},
    {"proj_size": 3},
    {"num_layers": 3},
    {"branches": 2, "groups": 2},
    {"num_layers": 2, "proj_size": 5, "layer_norm": True, "bias": False, "kernel_size": 5},
    {"input_transform": nn.Linear, "num_layers": 2, "proj_size": 3},
    {"input_transform": partial(nn.Linear, bias=False), "layer_norm": True},
    {"recurrent_groups": 4},
    {"shared_reduce": True, "recurrent_groups": 4},
    {"recurrent_groups": 2, "proj_size": 6, "num_layers": 2, "layer_norm": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sequence_equals_steps(options):
    rnn = ERU(6, 8, **options, **DOUBLE)
    with torch.no_grad():
        for p in rnn.parameters():
            p.normal_(std=0.5)
    check_sequence_equals_steps(rnn, steps=11, batch=3)


@given(
    m=st.integers(1, 9),
    h=st.integers(1, 60),
    steps=st.integers(1, 12),
    batch=st.integers(1, 4),
    layers=st.integers(1, 2),
)
@settings(max_examples=25, deadline=None)
def test_sequence_equals_steps_for_random_sizes(m, h, steps, batch, layers):
    check_sequence_equals_steps(ERU(m, h, layers, **DOUBLE), steps, batch)


@quiet_scan
@pytest.mark.parametrize("backend", ["naive", "cpu", "fused", pytest.param("export", marks=needs_scan)])
def test_every_backend_gives_the_same(backend):
    rnn = ERU(6, 8, backend=backend, **DOUBLE)
    check_sequence_equals_steps(rnn, steps=5, batch=2)


def test_one_layer_of_one_step_is_the_cell():
    rnn, cell = ERU(6, 8, **DOUBLE), ERUCell(6, 8, **DOUBLE)
    cell.load_state_dict(rnn.cells["l0"].state_dict())
    x = torch.randn(1, 3, 6, **DOUBLE)
    output, (h_n, c_n) = rnn(x)
    h, c = cell(x[0])
    torch.testing.assert_close((output[0], h_n[0], c_n[0]), (h, h, c))


def test_state_carries_over_pieces():
    rnn = ERU(6, 8, 2, **DOUBLE)
    x = torch.randn(13, 3, 6, **DOUBLE)
    state, outputs = None, []
    for piece in x.split([5, 1, 2, 5]):
        output, state = rnn(piece, state)
        outputs.append(output)
    torch.testing.assert_close((torch.cat(outputs), state), rnn(x))


@given(at=st.integers(0, 8))
@settings(max_examples=15, deadline=None)
def test_the_future_never_alters_the_past(at):
    rnn = ERU(6, 8, 2, **DOUBLE)
    x = torch.randn(9, 2, 6, **DOUBLE)
    other = x.clone()
    other[at] += 1
    moved = (rnn(x)[0] != rnn(other)[0]).flatten(1).any(1)
    assert not moved[:at].any()
    assert moved[at]


# --- against nn.LSTM


def make_pair(layers, bidirectional, batch_first, proj, bias):
    theirs = nn.LSTM(5, 4, layers, bias, batch_first, bidirectional=bidirectional, proj_size=proj, dtype=torch.float64)
    return theirs, ERU.from_lstm(theirs)


def matching_parameters(theirs, ours):
    """Pairs of the same parameter in both."""
    for name, cell in ours.cells.items():
        yield cell.weight_hh, getattr(theirs, f"weight_hh_{name}")
        yield cell.input_transform.weight, getattr(theirs, f"weight_ih_{name}")
        if theirs.bias:
            yield cell.bias, getattr(theirs, f"bias_hh_{name}")
            yield cell.input_transform.bias, getattr(theirs, f"bias_ih_{name}")
        if theirs.proj_size:
            yield cell.weight_hr, getattr(theirs, f"weight_hr_{name}")


def check_like_torchs(theirs, ours, input, state, x):
    mine, other = ours(input, state), theirs(input, state)
    if isinstance(other[0], torch.Tensor):
        torch.testing.assert_close(mine, other)
    else:
        for field in ("data", "batch_sizes", "sorted_indices", "unsorted_indices"):
            torch.testing.assert_close(getattr(mine[0], field), getattr(other[0], field))
        torch.testing.assert_close(mine[1], other[1])
        mine, other = ((output.data, end) for output, end in (mine, other))
    our, their = zip(*matching_parameters(theirs, ours), strict=True)
    torch.testing.assert_close(gradients(mine, [x, *our]), gradients(other, [x, *their]))


COMBINATIONS = list(
    itertools.product([1, 2], [False, True], [False, True], [0, 3], [False, True])
)  # layers, bidirectional, batch_first, proj_size, bias


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
def test_from_lstm_gives_values_states_and_gradients_of_the_lstm(combination):
    theirs, ours = make_pair(*combination)
    layers, bidirectional, batch_first, proj, _ = combination
    shape = (3, 7, 5) if batch_first else (7, 3, 5)
    x = torch.randn(shape, **DOUBLE, requires_grad=True)
    rows = layers * (1 + bidirectional)
    for state in (None, (torch.randn(rows, 3, proj or 4, **DOUBLE), torch.randn(rows, 3, 4, **DOUBLE))):
        check_like_torchs(theirs, ours, x, state, x)
    single = torch.randn(7, 5, **DOUBLE, requires_grad=True)
    for state in (None, (torch.randn(rows, proj or 4, **DOUBLE), torch.randn(rows, 4, **DOUBLE))):
        check_like_torchs(theirs, ours, single, state, single)


@pytest.mark.parametrize("lengths", [(7, 4, 4, 1), (1, 7, 3, 5), (2, 2, 2, 2)])
@pytest.mark.parametrize("combination", COMBINATIONS[1::3], ids=str)
def test_packed_sequences_give_what_the_lstm_gives(combination, lengths):
    theirs, ours = make_pair(*combination)
    layers, bidirectional, batch_first, proj, _ = combination
    x = torch.randn((4, 7, 5) if batch_first else (7, 4, 5), **DOUBLE, requires_grad=True)
    rows = layers * (1 + bidirectional)
    state = torch.randn(rows, 4, proj or 4, **DOUBLE), torch.randn(rows, 4, 4, **DOUBLE)
    cases = [(state, False), (None, False)]
    if list(lengths) == sorted(lengths, reverse=True):
        cases.append((state, True))
    for start, ordered in cases:
        packed = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=ordered)
        check_like_torchs(theirs, ours, packed, start, x)


def test_from_lstm_takes_over_mode_type_and_options():
    lstm = nn.LSTM(5, 4, 2, batch_first=True, dropout=0.5, dtype=torch.float64).eval()
    rnn = ERU.from_lstm(lstm)
    assert (rnn.training, rnn.batch_first, rnn.dropout) == (False, True, 0.5)
    assert {p.dtype for p in rnn.parameters()} == {torch.float64}
    assert not {p.data_ptr() for p in rnn.parameters()} & {p.data_ptr() for p in lstm.parameters()}


def test_packed_input_equals_lengths():
    rnn = ERU(6, 8, 2, bidirectional=True, **DOUBLE)
    x, lengths = torch.randn(7, 4, 6, **DOUBLE), [3, 7, 1, 4]
    padded, state = rnn(x, lengths=lengths)
    packed, same = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))
    torch.testing.assert_close((pad_packed_sequence(packed)[0], same), (padded, state))


# --- recurrent groups are recurrences beside one another


def lstms_of_blocks(rnn, cell_name):
    """One nn.LSTM for every block of a cell with a linear input map, holding the cell's own numbers."""
    cell, groups = rnn.cells[cell_name], rnn.cells[cell_name].recurrent_groups
    units = cell.hidden_size // groups

    def rows(tensor, block):
        return tensor.unflatten(0, (4, groups, units))[:, block].flatten(0, 1)

    lstms = []
    for block in range(groups):
        lstm = nn.LSTM(cell.input_size, units, **DOUBLE)
        names = {"weight_ih_l0": cell.input_transform.weight, "weight_hh_l0": cell.weight_hh}
        names |= {"bias_ih_l0": cell.input_transform.bias, "bias_hh_l0": cell.bias}
        with torch.no_grad():
            for name, value in names.items():
                getattr(lstm, name).copy_(rows(value, block))
        lstms.append(lstm)
    return lstms, rows


@pytest.mark.parametrize("backend", ["naive", "cpu", "fused"])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_recurrent_groups_are_as_many_lstms_that_read_the_same_input(groups, backend):
    rnn = ERU(5, 12, input_transform=nn.Linear, recurrent_groups=groups, backend=backend, **DOUBLE)
    assert rnn.weight_hh_l0.shape == (48, 12 // groups)
    lstms, rows = lstms_of_blocks(rnn, "l0")
    x = torch.randn(7, 3, 5, **DOUBLE, requires_grad=True)
    start = torch.randn(1, 3, 12, **DOUBLE), torch.randn(1, 3, 12, **DOUBLE)
    ours = rnn(x, start)
    slices = zip(*(part.chunk(groups, dim=2) for part in start), strict=True)
    theirs = [lstm(x, tuple(part.contiguous() for part in state)) for lstm, state in zip(lstms, slices, strict=True)]
    output = torch.cat([y for y, _ in theirs], dim=2)
    state = tuple(torch.cat(parts, dim=2) for parts in zip(*(end for _, end in theirs), strict=True))
    torch.testing.assert_close(ours, (output, state))
    grad_x, *mine = gradients(ours, [x, rnn.weight_hh_l0, rnn.weight_ih_l0, rnn.bias_hh_l0])
    wanted = [getattr(lstm, name) for lstm in lstms for name in ("weight_hh_l0", "weight_ih_l0", "bias_hh_l0")]
    other_x, *other = gradients((output, state), [x, *wanted])
    torch.testing.assert_close(grad_x, other_x)
    for block in range(groups):
        torch.testing.assert_close([rows(grad, block) for grad in mine], list(other[3 * block : 3 * block + 3]))


@both_directions
def test_recurrent_groups_know_lengths_packed_input_and_dropouts(bidirectional):
    rnn = ERU(6, 12, 2, recurrent_groups=3, proj_size=6, bidirectional=bidirectional, **DOUBLE)
    x, lengths = torch.randn(7, 4, 6, **DOUBLE), [3, 7, 1, 4]
    padded, state = rnn(x, lengths=lengths)
    packed, same = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))
    torch.testing.assert_close((pad_packed_sequence(packed)[0], same), (padded, state))
    for b, length in enumerate(lengths):
        torch.testing.assert_close(rnn(x[:length, b : b + 1])[0][:, 0], padded[:length, b])
    results = []
    for backend in ("naive", "cpu"):
        dropping = ERU(6, 12, recurrent_groups=3, weight_dropout=0.4, hidden_dropout=0.4, backend=backend, **DOUBLE)
        torch.manual_seed(1)
        for p in dropping.parameters():
            nn.init.normal_(p, std=0.5)
        results.append((dropping(x), list(dropping.parameters())))
    (one, ours), (other, theirs) = results
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(gradients(one, ours), gradients(other, theirs))


@given(units=st.integers(1, 9), groups=st.integers(1, 5), proj=st.integers(0, 8), m=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_parameters_of_recurrent_groups(units, groups, proj, m):
    h, p = groups * units, groups * min(proj, units - 1)
    cell, dense = (ERUCell(m, h, proj_size=p, recurrent_groups=r, device="meta") for r in (groups, 1))
    count = {name: sum(q.numel() for q in c.parameters()) for name, c in (("cell", cell), ("dense", dense))}
    recurrent = 4 * h * (p or h)
    assert count["dense"] - count["cell"] == recurrent - recurrent // groups


def test_recurrent_groups_start_as_recurrences_of_their_own_size():
    weight = ERUCell(8, 64, recurrent_groups=4).weight_hh
    assert weight.shape == (256, 16)
    assert weight.abs().max() <= 1 / 4
    assert abs(weight.std().item() - 1 / 4 / math.sqrt(3)) < 0.01


@quiet_scan
def test_recurrent_groups_compile_and_export():
    torch._dynamo.reset()
    rnn, x = ERU(6, 8, recurrent_groups=2), torch.randn(5, 3, 6)
    torch.testing.assert_close(torch.compile(rnn, backend="aot_eager", fullgraph=True)(x), rnn(x))
    steps = torch.export.Dim("steps", min=2, max=1024)
    exported = torch.export.export(rnn.eval(), (x,), dynamic_shapes=({0: steps},)).module()
    longer = torch.randn(9, 3, 6)
    torch.testing.assert_close(exported(longer), rnn(longer))


# --- lengths


@pytest.mark.parametrize("options", [{}, {"proj_size": 3}, {"num_layers": 2}, {"layer_norm": True}], ids=str)
@both_directions
def test_lengths_equal_each_sequence_alone(bidirectional, options):
    rnn = ERU(6, 8, bidirectional=bidirectional, **options, **DOUBLE)
    lengths = [4, 9, 1, 6]
    x = torch.randn(9, 4, 6, **DOUBLE)
    for b, length in enumerate(lengths):
        x[length:, b] = math.nan  # must reach neither an output nor a gradient
    x.requires_grad_()
    state = random_state(rnn, 4, x.detach())
    output, end = rnn(x, state, lengths=torch.tensor(lengths))
    tensors = [x, *rnn.parameters()]
    found = gradients((output, end), tensors)
    alone = [
        rnn(x[:length, b : b + 1], tuple(part.narrow(part.dim() - 2, b, 1) for part in state))
        for b, length in enumerate(lengths)
    ]
    padded = [nn.functional.pad(y, (0, 0, 0, 0, 0, 9 - len(y))) for y, _ in alone]
    expected = torch.cat(padded, 1), tuple(torch.cat(parts, -2) for parts in zip(*(s for _, s in alone), strict=True))
    torch.testing.assert_close((output, end), expected)
    torch.testing.assert_close(found, gradients(expected, tensors))
    assert all(g.isfinite().all() for g in found)


def test_full_lengths_change_nothing():
    rnn = ERU(6, 8, 2, batch_first=True, **DOUBLE)
    x = torch.randn(3, 5, 6, **DOUBLE)
    torch.testing.assert_close(rnn(x, lengths=[5, 5, 5]), rnn(x))
    torch.testing.assert_close(rnn(x[0], lengths=[4])[0][:4], rnn(x[0, :4])[0])


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 3], r"lengths of shape \(2,\): expected \(3,\)"),
        ([3, 0, 2], r"lengths=\[3, 0, 2\]: each must be from 1 to the number of steps, 5"),
        ([3, 6, 2], r"lengths=\[3, 6, 2\]"),
        ([3, 2.9, 2], r"lengths of type torch.float32: must be whole numbers"),
        ([True, True, True], r"lengths of type torch.bool: must be whole numbers"),
    ],
)
def test_lengths_that_do_not_fit(lengths, message):
    with pytest.raises(ValueError, match=message):
        ERU(6, 8)(torch.zeros(5, 3, 6), lengths=lengths)


def test_a_packed_sequence_takes_no_lengths():
    packed = pack_padded_sequence(torch.zeros(5, 2, 6), [5, 3])
    with pytest.raises(ValueError, match="lengths: a PackedSequence brings its own"):
        ERU(6, 8)(packed, lengths=[5, 3])


# --- shapes and sizes


@pytest.mark.parametrize("proj", [0, 3])
@both_directions
def test_shapes(bidirectional, proj):
    rnn = ERU(6, 8, 3, bidirectional=bidirectional, proj_size=proj)
    output, state = rnn(torch.randn(5, 2, 6))
    directions, out = 1 + bidirectional, proj or 8
    assert output.shape == (5, 2, directions * out)
    assert [tuple(part.shape) for part in state] == [(3 * directions, 2, out), (3 * directions, 2, 8)]


@pytest.mark.parametrize(("m", "h"), [(1, 1), (1, 51), (650, 51), (51, 650), (3, 2)])
def test_every_size_builds_and_runs_by_default(m, h):
    rnn = ERU(m, h, num_layers=2)
    output, state = rnn(torch.randn(3, 2, m))
    output, _ = rnn(torch.randn(3, 2, m), state)
    assert output.shape == (3, 2, h)
    assert output.isfinite().all()


@pytest.mark.parametrize(("hidden", "total"), [(448, 6_962_576), (976, 14_779_088)])
def test_parameters_of_the_papers_language_models(hidden, total):
    layers = [ERU(a, b, device="meta") for a, b in ((400, hidden), (hidden, hidden), (hidden, 400))]
    tied_embedding = 10_000 * 400 + 10_000
    found = tied_embedding + sum(p.numel() for layer in layers for p in layer.parameters())
    assert found == 10.25 * hidden**2 + 208 * hidden + 4_812_176 == total


@both_directions
def test_parameter_count_of_layers_and_directions(bidirectional):
    rnn = ERU(6, 8, 3, bidirectional=bidirectional, proj_size=4, device="meta")
    directions = 1 + bidirectional
    widths = [6, 4 * directions, 4 * directions]
    cells = [ERUCell(width, 8, proj_size=4, device="meta") for width in widths for _ in range(directions)]
    assert sum(p.numel() for p in rnn.parameters()) == sum(p.numel() for cell in cells for p in cell.parameters())


def test_an_empty_batch_passes_as_in_torch():
    assert ERU(6, 8)(torch.zeros(7, 0, 6))[0].shape == nn.LSTM(6, 8)(torch.zeros(7, 0, 6))[0].shape == (7, 0, 8)


# --- dropout


def test_dropout_acts_between_layers_in_training_only():
    rnn = ERU(6, 8, 2, dropout=0.5, **DOUBLE)
    plain = ERU(6, 8, 2, **DOUBLE)
    plain.load_state_dict(rnn.state_dict())
    x = torch.randn(7, 3, 6, **DOUBLE)
    assert not torch.equal(rnn(x)[0], plain(x)[0])
    torch.testing.assert_close(rnn(x)[1][0][0], plain(x)[1][0][0])  # the first layer's own state is not dropped
    torch.testing.assert_close(rnn.eval()(x), plain(x))


def test_dropout_over_one_layer_warns_as_torchs_does():
    with pytest.warns(UserWarning, match="there is only one"):
        ERU(6, 8, dropout=0.5)


@pytest.mark.parametrize("name", ["weight_dropout", "hidden_dropout"])
def test_no_dropout_is_the_identity_in_training_and_any_is_in_evaluation(name):
    x = torch.randn(7, 3, 6, **DOUBLE)
    plain = ERU(6, 8, **DOUBLE)
    for p, training in ((0.0, True), (0.7, False), (1.0, False)):
        rnn = ERU(6, 8, **{name: p}, **DOUBLE).train(training)
        rnn.load_state_dict(plain.state_dict())
        torch.testing.assert_close(rnn(x), plain(x), rtol=0, atol=0)


def spy_on_scan(monkeypatch):
    """Record the keyword and positional arguments of every call of the recurrence."""
    from eru import layer

    calls, scan = [], layer.lstm_scan

    def spy(gates, weight_hh, *state, **options):
        calls.append({"weight_hh": weight_hh.detach(), **options})
        return scan(gates, weight_hh, *state, **options)

    monkeypatch.setattr(layer, "lstm_scan", spy)
    return calls


def test_hidden_dropout_is_one_mask_over_time_that_differs_over_the_batch(monkeypatch):
    calls = spy_on_scan(monkeypatch)
    rnn = ERU(6, 64, hidden_dropout=0.3)
    x = torch.randn(3, 40, 6)
    rnn(x)
    rnn(x)
    first, second = (call["hidden_mask"] for call in calls)
    assert first.shape == (40, 64)
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert abs(first.mean().item() - 1) < 0.1  # the expectation is kept
    assert len({tuple(row.tolist()) for row in first}) == 40
    assert not torch.equal(first, second)


def test_hidden_dropout_drops_the_same_units_at_every_step():
    rnn = ERU(6, 8, hidden_dropout=0.5, bias=False, **DOUBLE)
    x = torch.randn(7, 3, 6, **DOUBLE)
    torch.manual_seed(5)
    output, (h_n, c_n) = rnn(x)
    torch.manual_seed(5)
    mask = nn.functional.dropout(torch.ones(3, 8, **DOUBLE), 0.5)
    cell, gates = rnn.cells["l0"], rnn.cells["l0"].project(x)
    state, outputs = cell.initial_state(3, x), []
    for gate in gates:
        state = cell.step(gate, (state[0] * mask, state[1]))
        outputs.append(state[0])
    torch.testing.assert_close((output, (h_n[0], c_n[0])), (torch.stack(outputs), state))


def test_weight_dropout_leaves_the_raw_weight_which_still_learns(monkeypatch):
    calls = spy_on_scan(monkeypatch)
    rnn = ERU(6, 32, weight_dropout=0.25)
    raw = rnn.cells["l0"].weight_hh
    before = raw.detach().clone()
    x = torch.randn(5, 3, 6)
    output, _ = rnn(x)
    dropped = calls[0]["weight_hh"]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], before[kept] / 0.75)
    assert abs(kept.float().mean().item() - 0.75) < 0.05
    assert torch.equal(raw, before)
    output.square().sum().backward()
    assert raw.grad[kept].abs().sum() > 0
    assert not raw.grad[~kept].any()
    torch.manual_seed(9)
    expected = rnn(x)[0]
    torch.optim.SGD(rnn.parameters(), lr=0).step()  # nothing moves, so only the draw decides
    torch.manual_seed(9)
    assert torch.equal(rnn(x)[0], expected)
    torch.optim.SGD([raw], lr=0.5).step()
    torch.manual_seed(9)
    assert not torch.equal(rnn(x)[0], expected)
    assert not torch.equal(calls[0]["weight_hh"], calls[1]["weight_hh"])


def test_weight_dropout_keeps_the_expectation(monkeypatch):
    calls = spy_on_scan(monkeypatch)
    rnn = ERU(6, 16, weight_dropout=0.5)
    with torch.no_grad():
        for _ in range(400):
            rnn(torch.zeros(1, 1, 6))
    mean = torch.stack([call["weight_hh"] for call in calls]).mean(0)
    # A weight's mean scatters by |w| / sqrt(400), and |w| is at most 1/4.
    assert (mean - rnn.cells["l0"].weight_hh).abs().max() < 6 * 0.25 / 20


# --- torch's manners


@both_directions
def test_device_and_type(bidirectional):
    rnn = ERU(6, 8, 2, bidirectional=bidirectional, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in rnn.parameters()} == {("meta", torch.bfloat16)}
    output, (_, c_n) = rnn(torch.zeros(5, 2, 6, device="meta", dtype=torch.bfloat16))
    assert (output.device.type, output.dtype, c_n.dtype) == ("meta", torch.bfloat16, torch.bfloat16)


def test_copies_pickles_and_state_dicts_give_the_same_outputs():
    options = {"bidirectional": True, "proj_size": 3, "layer_norm": True}
    rnn, loaded = ERU(6, 8, 2, **options), ERU(6, 8, 2, **options)
    loaded.load_state_dict(rnn.state_dict())
    x = torch.randn(5, 2, 6)
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), loaded):
        torch.testing.assert_close(other(x), rnn(x), rtol=0, atol=0)


def test_nothing_is_to_be_flattened():
    assert ERU(6, 8).flatten_parameters() is None


def test_reset_draws_what_the_constructor_draws():
    torch.manual_seed(3)
    fresh, used = ERU(6, 8, 2), ERU(6, 8, 2)
    torch.manual_seed(3)
    used.reset_parameters()
    for name, value in fresh.state_dict().items():
        assert torch.equal(used.state_dict()[name], value), name


def test_under_autocast_cells_stay_in_float32():
    rnn = ERU(6, 8, 2)
    x = torch.randn(9, 3, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output, state = rnn(x)
        output, state = rnn(x, state)
    exact, exact_state = rnn(x, rnn(x)[1])
    assert (output.dtype, state[1].dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(output.float(), exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(state[1], exact_state[1], rtol=0.05, atol=0.05)
    output.float().sum().backward()
    assert {p.grad.dtype for p in rnn.parameters()} == {x.grad.dtype} == {torch.float32}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": True, "proj_size": 3, "num_layers": 2},
        {"layer_norm": True, "weight_dropout": 0.3, "hidden_dropout": 0.3},
    ],
    ids=str,
)
def test_it_compiles_without_a_break(options):
    torch._dynamo.reset()
    rnn = ERU(6, 8, **options)
    x = torch.randn(5, 3, 6)
    results = []
    for run in (torch.compile(rnn, backend="aot_eager", fullgraph=True), rnn):
        torch.manual_seed(4)
        output, state = run(x)
        results.append((output, state, gradients((output, state), list(rnn.parameters()))))
    torch.testing.assert_close(*results)


@quiet_scan
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "proj_size": 3, "num_layers": 2}], ids=str)
def test_it_exports_with_any_length(options):
    rnn = ERU(6, 8, **options).eval()
    steps = torch.export.Dim("steps", min=2, max=1024)
    exported = torch.export.export(rnn, (torch.randn(5, 3, 6),), dynamic_shapes=({0: steps},)).module()
    for length in (2, 9, 23):
        x = torch.randn(length, 3, 6)
        torch.testing.assert_close(exported(x), rnn(x))


def test_transforms_of_torch_func_give_gradients_by_sample():
    rnn = ERU(6, 8)
    parameters = dict(rnn.named_parameters())
    x = torch.randn(5, 3, 6)

    def loss(parameters, x):
        return torch.func.functional_call(rnn, parameters, (x,))[0].square().sum()

    by_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, x)
    whole = torch.autograd.grad(rnn(x)[0].square().sum(), list(parameters.values()))
    for grads, total in zip(by_sample.values(), whole, strict=True):
        torch.testing.assert_close(grads.sum(0), total, rtol=1e-4, atol=1e-4)


# --- what hangs on a cell's call is at work in the layer


def test_spectral_norm_of_a_cell_holds_in_the_layer():
    rnn = ERU(6, 32)
    cell = rnn.cells["l0"]
    with torch.no_grad():
        cell.weight_hh.mul_(100)
    nn.utils.spectral_norm(cell, "weight_hh", n_power_iterations=50)
    rnn(torch.randn(5, 2, 6))[0].sum().backward()
    assert torch.linalg.matrix_norm(cell.weight_hh, 2).item() == pytest.approx(1, rel=1e-3)
    assert cell.weight_hh_orig.grad.abs().sum() > 0


def test_pruning_of_a_cell_changes_the_layer_and_backward_runs_twice():
    rnn, x = ERU(6, 32), torch.randn(5, 2, 6)
    before = rnn(x)[0]
    prune.l1_unstructured(rnn.cells["l0"], "weight_hh", 0.9)
    for _ in range(2):
        rnn(x)[0].sum().backward()
    pruned = ERU(6, 32)
    pruned.load_state_dict(
        {name.replace("_orig", ""): value for name, value in rnn.state_dict().items() if "mask" not in name}
    )
    with torch.no_grad():
        pruned.cells["l0"].weight_hh.mul_(rnn.cells["l0"].weight_hh_mask)
    assert not torch.equal(rnn(x)[0], before)
    torch.testing.assert_close(rnn(x)[0], pruned(x)[0])


def test_parametrizations_of_a_cell_hold_in_the_layer():
    rnn, x = ERU(6, 32), torch.randn(5, 2, 6)
    nn.utils.parametrizations.orthogonal(rnn.cells["l0"], "weight_hh")
    weight = rnn.cells["l0"].weight_hh
    plain = ERU(6, 32)
    state = {n: p for n, p in rnn.state_dict().items() if "parametrizations" not in n}
    plain.load_state_dict(state | {"cells.l0.weight_hh": weight.detach()})
    torch.testing.assert_close(rnn(x)[0], plain(x)[0])


def test_hooks_of_cells_are_called_once_a_sequence_and_direction():
    rnn, calls = ERU(6, 8, 2, bidirectional=True), []
    for name, cell in rnn.cells.items():
        cell.register_forward_hook(lambda *_, name=name: calls.append(name))
    rnn(torch.randn(5, 2, 6))
    assert calls == ["l0", "l0_reverse", "l1", "l1_reverse"]


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_sharded_cells_give_the_same_outputs_and_gradients():
    fsdp = pytest.importorskip("torch.distributed.fsdp", reason="needs torch.distributed")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("needs the fully_shard of torch 2.6")
    rnn, x = ERU(6, 16, 2), torch.randn(5, 3, 6)
    output = rnn(x)[0]
    output.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in rnn.named_parameters()}
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        for module in (*rnn.cells.values(), rnn):
            fsdp.fully_shard(module, mesh=mesh)
        rnn.zero_grad()
        sharded = rnn(x)[0]
        sharded.square().sum().backward()
        torch.testing.assert_close(sharded, output)
        torch.testing.assert_close({name: p.grad.to_local() for name, p in rnn.named_parameters()}, grads)
    finally:
        torch.distributed.destroy_process_group()


# --- what programs written for nn.LSTM read


@pytest.mark.parametrize("combination", COMBINATIONS[::5], ids=str)
def test_after_from_lstm_every_name_of_torchs_is_there_with_its_value(combination):
    theirs, ours = make_pair(*combination)
    assert [[w.shape for w in weights] for weights in ours.all_weights] == [
        [w.shape for w in weights] for weights in theirs.all_weights
    ]
    assert ours._all_weights == theirs._all_weights
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(getattr(ours, name), value)


def test_names_with_a_true_counterpart_are_found_and_others_say_what_to_read():
    rnn = ERU(6, 8, 2, bidirectional=True, proj_size=3)
    cell = rnn.cells["l1_reverse"]
    assert rnn.weight_hh_l1_reverse is cell.weight_hh
    assert rnn.weight_hr_l1_reverse is cell.weight_hr
    assert rnn.bias_ih_l1_reverse is cell.bias
    assert rnn._all_weights[0] == ["weight_hh_l0", "bias_ih_l0", "weight_hr_l0"]
    for name in ("weight_ih_l0", "bias_hh_l1"):
        with pytest.raises(AttributeError, match=rf"{name}: this ERU has no such parameter.*from_lstm"):
            getattr(rnn, name)
    with pytest.raises(AttributeError, match="all_weights: an EESP has no weight_ih"):
        _ = rnn.all_weights
    with pytest.raises(AttributeError, match="weight_hh_l7"):
        _ = rnn.weight_hh_l7
    assert not any("weight_hh_l0" in name for name, _ in rnn.named_parameters())


def test_from_lstm_leaves_frozen_what_was_frozen():
    lstm = nn.LSTM(5, 4, 2)
    frozen = {"weight_ih_l0", "bias_hh_l1"}
    for name, parameter in lstm.named_parameters():
        parameter.requires_grad_(name not in frozen)
    ours = ERU.from_lstm(lstm)
    assert {name for name, _ in lstm.named_parameters() if not getattr(ours, name).requires_grad} == frozen


def test_the_state_of_an_lstm_points_to_from_lstm():
    lstm = nn.LSTM(6, 8)
    model, theirs = nn.ModuleDict({"rnn": ERU(6, 8)}), nn.ModuleDict({"rnn": lstm})
    with pytest.raises(RuntimeError, match=r"rnn.weight_ih_l0 is of an nn.LSTM, .* ERU.from_lstm"):
        model.load_state_dict(theirs.state_dict())


def test_a_whole_model_loads_without_running_code(tmp_path):
    rnn, x = ERU(6, 8, 2, bidirectional=True, layer_norm=False), torch.randn(5, 2, 6)
    torch.save(rnn, tmp_path / "rnn.pt")
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "rnn.pt") == []
    torch.testing.assert_close(torch.load(tmp_path / "rnn.pt", weights_only=True)(x), rnn(x))


class Tagger(nn.Module):
    """A model around recurrent modules, as other people's."""

    def __init__(self):
        super().__init__()
        self.rnn, self.cell, self.head = ERU(6, 8), ERUCell(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        y, (h, _) = self.rnn(x)
        return self.head(self.cell(h[-1])[0]), y


def test_fx_takes_layer_and_cell_as_leaves():
    model, x = Tagger(), torch.randn(5, 3, 6)
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["rnn", "cell", "head"]
    torch.testing.assert_close(traced(x), model(x))


def test_gradient_checkpointing_from_the_first_step_on():
    rnn, x = ERU(4, 16), torch.randn(5, 2, 4, requires_grad=True)
    output = torch.utils.checkpoint.checkpoint(lambda x: rnn(x)[0], x, use_reentrant=False)
    (found,) = torch.autograd.grad(output.square().sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(rnn(x)[0].square().sum(), x)[0])
    output = torch.utils.checkpoint.checkpoint(lambda x: rnn(x)[0], x, use_reentrant=False)
    (again,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    torch.testing.assert_close(again, found)


def test_an_ensemble_in_training_under_vmap():
    rnns, x = [ERU(4, 16), ERU(4, 16)], torch.randn(5, 2, 4)
    parameters, _ = torch.func.stack_module_state(rnns)
    found = torch.func.vmap(lambda p: torch.func.functional_call(rnns[0], p, (x,))[0])(parameters)
    torch.testing.assert_close(found, torch.stack([rnn(x)[0] for rnn in rnns]))


def test_gradients_to_be_differentiated_again_equal_the_plain_ones_where_the_state_has_a_history():
    rnn = ERU(4, 16, **DOUBLE)
    x = torch.randn(6, 2, 4, **DOUBLE, requires_grad=True)
    _, state = rnn(x[:3])
    loss = rnn(x[3:], state)[0].square().sum()
    wanted = [x, *rnn.parameters()]
    plain = torch.autograd.grad(loss, wanted, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, wanted, create_graph=True), plain)


@pytest.mark.parametrize("groups", [1, 2])
def test_an_empty_batch_with_gradients(groups):
    x = torch.zeros(3, 0, 4, requires_grad=True)
    output, _ = ERU(4, 16, recurrent_groups=groups)(x)
    output.sum().backward()
    assert (output.shape, x.grad.shape) == ((3, 0, 16), (3, 0, 4))


def test_vmap_over_lengths():
    rnn, x, lengths = ERU(6, 8, **DOUBLE), torch.randn(3, 5, 2, 6, **DOUBLE), torch.tensor([[5, 2], [1, 4], [3, 3]])
    found = torch.func.vmap(lambda x, lengths: rnn(x, lengths=lengths)[1])(x, lengths)
    expected = [rnn(one, lengths=ends)[1] for one, ends in zip(x, lengths, strict=True)]
    torch.testing.assert_close(found, tuple(torch.stack(parts) for parts in zip(*expected, strict=True)))


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 8), {}, "input_size=0: must be at least 1"),
        ((6, 0), {}, "hidden_size=0: must be at least 1"),
        ((6, 8, 0), {}, "num_layers=0: must be at least 1"),
        ((6, 8, 2), {"dropout": 1.5}, "dropout=1.5: must be a probability"),
        ((6, 8), {"weight_dropout": -0.1}, "weight_dropout=-0.1"),
        ((6, 8), {"hidden_dropout": 2}, "hidden_dropout=2"),
        ((6, 8), {"proj_size": 8}, "proj_size=8: must be at least 0 and below hidden_size=8"),
        ((6, 8), {"branches": 3}, "branches=3 does not divide hidden_size=8"),
        ((6, 8), {"groups": 4}, "groups=4 does not divide input_size=6"),
        ((6, 8), {"recurrent_groups": 3}, "recurrent_groups=3: must divide hidden_size=8"),
        ((6, 8), {"recurrent_groups": 0}, "recurrent_groups=0: must divide hidden_size=8"),
        ((6, 8), {"recurrent_groups": 2, "proj_size": 3}, "recurrent_groups=2: must divide proj_size=3"),
    ],
)
def test_options_that_do_not_fit(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ERU(*arguments, **options)


@pytest.mark.parametrize("shape", [(5, 2, 7), (6,), (5, 2, 1, 6)])
def test_input_of_the_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"expected 2-D or 3-D with input_size=6 last"):
        ERU(6, 8)(torch.zeros(shape))


def test_a_packed_input_of_the_wrong_width():
    with pytest.raises(ValueError, match="input_size=6"):
        ERU(6, 8)(pack_padded_sequence(torch.zeros(5, 2, 7), [5, 3]))


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="backend='cudnn': must be one of"):
        ERU(6, 8, backend="cudnn")


def test_a_sequence_without_steps():
    with pytest.raises(ValueError, match=r"input of shape \(0, 2, 6\): at least one step is needed"):
        ERU(6, 8)(torch.zeros(0, 2, 6))


@pytest.mark.parametrize(
    ("options", "shapes", "message"),
    [
        ({}, [(2, 3, 8), (1, 3, 8)], r"state h of shape \(2, 3, 8\): expected \(1, 3, 8\)"),
        ({}, [(1, 3, 8), (1, 2, 8)], r"state c of shape \(1, 2, 8\)"),
        ({}, [(1, 3, 8)], r"state of 1 tensors: expected \(h, c\)"),
        ({"bidirectional": True}, [(2, 3, 8), (2, 3, 8), (2, 8, 3, 16)], r"state of 3 tensors: expected \(h, c\)"),
    ],
    ids=str,
)
def test_state_of_the_wrong_shape(options, shapes, message):
    with pytest.raises(ValueError, match=message):
        ERU(6, 8, **options)(torch.zeros(5, 3, 6), [torch.zeros(shape) for shape in shapes])


@pytest.mark.parametrize(
    ("dtype", "state", "message"),
    [
        (torch.float32, (None, None), "state h is None: expected a tensor of shape"),
        (torch.float32, (torch.zeros(1, 3, 8), None), "state c is None"),
        (torch.float32, torch.zeros(1, 3, 8), r"state of type Tensor: expected \(h, c\)"),
        (torch.float32, (torch.zeros(1, 3, 8).double(),) * 2, "state h of type torch.float64: expected torch.float32"),
        (torch.bfloat16, (torch.zeros(1, 3, 8),) * 2, "state h of type torch.float32: expected torch.bfloat16"),
    ],
    ids=str,
)
def test_a_state_that_is_none_or_of_another_kind(dtype, state, message):
    with pytest.raises(ValueError, match=message):
        ERU(6, 8, dtype=dtype)(torch.zeros(5, 3, 6, dtype=dtype), state)
    single = tuple(part if part is None else part[:, 0] for part in state) if isinstance(state, tuple) else state
    with pytest.raises(ValueError, match=message):
        ERU(6, 8, dtype=dtype)(torch.zeros(5, 6, dtype=dtype), single)


def test_an_input_of_another_type():
    with pytest.raises(ValueError, match=r"input of type torch.float64: expected torch.float32, the type"):
        ERU(6, 8)(torch.zeros(5, 3, 6, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_low_precision_the_state_has_the_type_of_the_module_as_in_torch(dtype):
    rnn = ERU(6, 8, dtype=dtype)
    x = torch.randn(5, 3, 6, dtype=dtype)
    state = rnn(x, rnn(x)[1])[1]
    assert [part.dtype for part in state] == [dtype, dtype]
    assert nn.Linear(16, 2, dtype=dtype)(torch.cat(state, dim=-1)).dtype == dtype


def test_options_of_the_eesp_are_refused_where_another_map_replaces_it():
    with pytest.raises(ValueError, match="branches=2: is an option of the EESP, which input_transform replaces"):
        ERU(6, 8, input_transform=nn.Linear, branches=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ERU(6, "16"), "hidden_size='16': must be a whole number"),
        (lambda: ERU(6, 16.0), r"hidden_size=16\.0: must be a whole number"),
        (lambda: ERU(None, 16), "input_size=None: must be a whole number"),
        (lambda: ERUCell(6, 16, proj_size=2.5), r"proj_size=2\.5: must be a whole number"),
        (lambda: ERU(6, 16)([1.0, 2.0]), "input of type list: must be a tensor"),
        (lambda: ERUCell(6, 16)([1.0, 2.0]), "input of type list: must be a tensor"),
        (lambda: ERU.from_lstm(nn.GRU(6, 16)), "lstm of type GRU: must be an nn.LSTM"),
    ],
)
def test_what_is_of_another_type_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()
