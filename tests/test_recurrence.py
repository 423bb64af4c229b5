import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from eru import kernels
from eru.recurrence import cpu, lstm_scan, naive, resolve_backend

NAMES = ("gates", "weight_hh", "h0", "c0", "weight_hr")

# Before torch 2.7 its scan has no gradient, and exports keep the operator of the CPU path.
needs_scan = pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="needs the scan of torch 2.7")
needs_kernels = pytest.mark.skipif(kernels.refusal() is not None, reason=f"eru.kernels: {kernels.refusal()}")


def quiet_scan(test):
    """Let pass what torch itself warns of inside its scan and forward mode."""
    for warning in ("The .grad attribute of a Tensor", "`torch.jit.script"):
        test = pytest.mark.filterwarnings(f"ignore:{warning}")(test)
    return test


# The fast ways: backend, type and how close to the oracle. With compiled kernels or without is the fixture's matter.
FAST = [
    ("cpu", torch.float64, 1e-10),
    ("cpu", torch.float32, 1e-4),
    ("fused", torch.float64, 1e-10),
    ("fused", torch.float32, 1e-4),
]


@pytest.fixture(params=[pytest.param(True, marks=needs_kernels), False], ids=["compiled", "torch's operators"])
def compiled(request, monkeypatch):
    """The CPU's way with its compiled kernels, and without."""
    if not request.param:
        monkeypatch.setattr(kernels, "_reason", lambda: "switched off by a test")
    return request.param


def make_inputs(steps=5, batch=3, size=4, proj=0, groups=1, *, dtype=torch.float64, seed=0, grad=NAMES):
    """Random gates, W, h0, c0 and W_hr (without a projection ``None``); those named in ``grad`` require it."""
    generator = torch.Generator().manual_seed(seed)
    out = proj or size
    shapes = {
        "gates": (steps, batch, 4 * size),
        "weight_hh": (4 * size, out // groups),
        "h0": (batch, out),
        "c0": (batch, size),
        "weight_hr": (out, size),
    }
    tensors = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.startswith("weight"):
            drawn /= shape[1] ** 0.5  # else wide states grow without bound
        tensors[name] = drawn.to(dtype).requires_grad_(name in grad)
    return tensors if proj else tensors | {"weight_hr": None}


def make_mask(inputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(inputs["h0"].shape, generator=generator, dtype=torch.float64) > 0.4
    return kept.to(inputs["h0"].dtype) / 0.6


def run(backend, inputs, *, mask=None, lengths=None):
    """Outputs and final state, and the gradients of all that require one."""
    hidden, (h, c) = lstm_scan(**inputs, hidden_mask=mask, lengths=lengths, backend=backend)
    wanted = [x for x in inputs.values() if x is not None and x.requires_grad]
    generator = torch.Generator().manual_seed(1)
    tops = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (hidden, h, c)]
    grads = torch.autograd.grad((hidden, h, c), wanted, tops) if wanted else ()
    return hidden, h, c, *grads


def check_equal(got, expected, tolerance):
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=lambda m, i=index: f"part {i}: {m}")


# --- the oracle


@pytest.mark.parametrize("proj", [0, 3])
def test_oracle_equals_torchs_lstm(proj):
    lstm = nn.LSTM(5, 4, proj_size=proj, dtype=torch.float64)
    x, inputs = torch.randn(6, 3, 5, dtype=torch.float64), make_inputs(6, 3, 4, proj)
    gates = x @ lstm.weight_ih_l0.t() + lstm.bias_ih_l0 + lstm.bias_hh_l0
    hr = lstm.weight_hr_l0 if proj else None
    hidden, c = naive.lstm_scan(gates, lstm.weight_hh_l0, inputs["h0"], inputs["c0"], hr)
    output, (h_n, c_n) = lstm(x, (inputs["h0"].unsqueeze(0), inputs["c0"].unsqueeze(0)))
    check_equal((hidden, hidden[-1], c), (output, h_n[0], c_n[0]), 1e-12)


def test_oracle_multiplies_the_mask_into_what_recurs_and_nothing_else():
    inputs = make_inputs(1)
    mask = make_mask(inputs)
    masked = naive.lstm_scan(**inputs, hidden_mask=mask)
    plain = naive.lstm_scan(**inputs | {"h0": inputs["h0"] * mask})
    check_equal(masked, plain, 1e-12)


# --- the fast path against the oracle


@st.composite
def problems(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3, 4]))
    units = draw(st.integers(1, 9 if groups == 1 else 4))
    size, proj = groups * units, groups * draw(st.integers(0, units - 1))
    steps, batch = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    lengths = draw(st.none() | st.lists(st.integers(1, steps), min_size=batch, max_size=batch).map(torch.tensor))
    return (steps, batch, size, proj, groups), draw(st.booleans()), lengths, draw(st.integers(0, 99))


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), FAST)
@given(problem=problems())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fast_path_equals_oracle_in_outputs_state_and_all_gradients(compiled, backend, dtype, tolerance, problem):
    shape, masked, lengths, seed = problem
    inputs = make_inputs(*shape, dtype=dtype, seed=seed)
    mask = make_mask(inputs, seed) if masked and backend == "cpu" else None
    options = {"mask": mask, "lengths": lengths}
    check_equal(run(backend, inputs, **options), run("naive", inputs, **options), tolerance)


@pytest.mark.parametrize("backend", ["naive", "cpu", "fused"])
def test_lengths_equal_each_sequence_alone(backend):
    inputs, lengths = make_inputs(7, 4, 5, 3), torch.tensor([3, 7, 1, 5])
    found = run(backend, inputs, lengths=lengths)
    alone = [
        lstm_scan(
            inputs["gates"][:length, b : b + 1],
            inputs["weight_hh"],
            inputs["h0"][b : b + 1],
            inputs["c0"][b : b + 1],
            weight_hr=inputs["weight_hr"],
            backend="naive",
        )
        for b, length in enumerate(lengths.tolist())
    ]
    hidden = torch.cat([nn.functional.pad(y, (0, 0, 0, 0, 0, 7 - len(y))) for y, _ in alone], dim=1)
    h, c = (torch.cat(parts) for parts in zip(*(state for _, state in alone), strict=True))
    generator = torch.Generator().manual_seed(1)
    tops = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (hidden, h, c)]
    grads = torch.autograd.grad((hidden, h, c), list(inputs.values()), tops)
    check_equal(found, (hidden, h, c, *grads), 1e-10)


@pytest.mark.parametrize("backend", ["naive", "cpu", "fused"])
def test_lengths_hold_whatever_the_recurrent_weights(backend):
    """What freezes a cell must not be outweighed: no gate is large enough to shut every other one out."""
    inputs, lengths = make_inputs(6, 2, 4, dtype=torch.float32), torch.tensor([2, 6])
    inputs["weight_hh"] = (3e4 * inputs["weight_hh"].detach()).requires_grad_()
    _, (h, c) = lstm_scan(**inputs, lengths=lengths, backend=backend)
    short = {k: None if x is None else x.detach() for k, x in inputs.items()} | {"gates": inputs["gates"].detach()[:2]}
    _, (h_short, c_short) = lstm_scan(**short, backend="naive")
    torch.testing.assert_close((h[0], c[0]), (h_short[0], c_short[0]), rtol=1e-5, atol=1e-5)


@needs_scan
@quiet_scan
@pytest.mark.parametrize(("proj", "masked"), [(0, False), (2, True)])
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 4])], ids=["whole", "lengths"])
def test_exportable_scan_equals_oracle_in_outputs_state_and_all_gradients(proj, masked, lengths):
    inputs = make_inputs(4, 2, 3, proj)
    options = {"mask": make_mask(inputs) if masked else None, "lengths": lengths}
    check_equal(run("export", inputs, **options), run("naive", inputs, **options), 1e-10)


@pytest.mark.parametrize("backend", ["cpu", "fused"])
@pytest.mark.parametrize(("batch", "size"), [(7, 17), (7, 64), (101, 33)])
def test_fast_path_equals_oracle_at_vector_widths_over_70_steps(compiled, backend, batch, size):
    inputs = make_inputs(70, batch, size, size // 2, dtype=torch.float32)
    check_equal(run(backend, inputs), run("naive", inputs), 1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("backend", "dtype", "tolerance"), FAST)
def test_inputs_need_not_be_contiguous(compiled, name, backend, dtype, tolerance):
    inputs = make_inputs(6, 3, 4, 2, dtype=dtype)
    expected = run("naive", inputs)
    flipped = inputs[name].detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_()
    assert not flipped.is_contiguous()
    check_equal(run(backend, inputs | {name: flipped}), expected, tolerance)


@pytest.mark.parametrize(("backend", "dtype", "tolerance"), FAST)
def test_gradients_need_not_be_contiguous(compiled, backend, dtype, tolerance):
    inputs = make_inputs(6, 3, 4, dtype=dtype)
    grads = []
    for path in (backend, "naive"):
        hidden, (_, c) = lstm_scan(**inputs, backend=path)
        weights = torch.randn(4, 3, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))
        loss = (hidden.permute(2, 1, 0) * weights).sum() + (c.t() * weights[..., 0]).sum()
        grads.append(torch.autograd.grad(loss, [x for x in inputs.values() if x is not None]))
    check_equal(*grads, tolerance)


def test_one_initial_state_may_be_expanded_over_the_batch():
    inputs = make_inputs(6, 3, 4)
    start = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    grads = []
    for backend in ("cpu", "naive"):
        expanded = inputs | {"h0": start.expand(3, 4), "c0": start.expand(3, 4)}
        hidden, _ = lstm_scan(**expanded, backend=backend)
        grads.append(torch.autograd.grad(hidden.sum(), start)[0])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("names", [*[(name,) for name in NAMES], ("gates", "weight_hh"), ("h0", "weight_hr")])
def test_only_what_requires_a_gradient_gets_one(names):
    inputs = make_inputs(6, 3, 4, 2, grad=names)
    check_equal(run("cpu", inputs), run("naive", inputs), 1e-10)


@pytest.mark.parametrize("part", ["hidden", "h", "c"])
def test_gradient_through_one_output_alone(part):
    inputs = make_inputs(6, 3, 4, 2)
    grads = []
    for backend in ("cpu", "naive"):
        hidden, (h, c) = lstm_scan(**inputs, backend=backend)
        grads.append(torch.autograd.grad({"hidden": hidden, "h": h, "c": c}[part].sum(), list(inputs.values())))
    check_equal(*grads, 1e-10)


@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_mask_gets_no_gradient(backend):
    inputs = make_inputs()
    mask = make_mask(inputs).requires_grad_()
    hidden, _ = lstm_scan(**inputs, hidden_mask=mask, backend=backend)
    hidden.sum().backward()
    assert mask.grad is None


@pytest.mark.parametrize("lengths", [None, torch.tensor([1, 3])], ids=["whole", "lengths"])
@pytest.mark.parametrize(("size", "proj", "groups", "masked"), [(2, 0, 1, False), (2, 1, 1, True), (4, 2, 2, True)])
def test_gradients_and_second_derivatives_against_finite_differences(size, proj, groups, masked, lengths):
    inputs = make_inputs(3, 2, size, proj, groups)
    options = {"hidden_mask": make_mask(inputs) if masked else None, "lengths": lengths, "backend": "cpu"}
    tensors = [x for x in inputs.values() if x is not None]

    def scan(*values):
        hidden, (_, c) = lstm_scan(**dict(zip(NAMES, values, strict=False)), **options)
        return hidden, c

    assert torch.autograd.gradcheck(scan, tensors)
    assert torch.autograd.gradgradcheck(scan, tensors)


def test_bfloat16_is_no_less_exact_than_the_plain_loop(compiled):
    errors = {"cpu": 0.0, "naive": 0.0}
    for seed in range(5):
        rounded = make_inputs(20, 4, 16, dtype=torch.bfloat16, seed=seed)
        exact = run("naive", {k: x if x is None else x.detach().double().requires_grad_() for k, x in rounded.items()})
        for backend in errors:
            got = run(backend, rounded)
            pairs = list(zip(got, exact, strict=True))
            errors[backend] += sum(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)
    assert 0 < errors["cpu"] <= 1.05 * errors["naive"]
    assert errors["naive"] < 5 * len(pairs) * 0.05


@pytest.mark.parametrize("backend", ["cpu", "naive", "auto"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cells_are_kept_in_float32_inside(backend, dtype):
    # 1 + 512 steps of 2^-10 each: in half precision or less the sum would never leave 1.
    steps = 512
    gates = torch.tensor([100.0, 100.0, 2.0**-10, 100.0], dtype=dtype).expand(steps, 1, 4)
    start, one = torch.zeros(1, 1, dtype=dtype), torch.ones(1, 1)
    _, (h, c) = lstm_scan(gates, torch.zeros(4, 1, dtype=dtype), start, one, backend=backend)
    assert c.dtype == torch.float32
    assert h.dtype == dtype
    assert abs(c.item() - 1.5) < 1e-3


@needs_kernels
@pytest.mark.parametrize("batch", [1, 6, 7, 100])
def test_a_row_does_not_depend_on_who_computes_it(batch, monkeypatch):
    """However many threads there are, and whatever rows beside it, down to the last bit."""
    inputs = {k: x.detach() for k, x in make_inputs(5, batch, 24, 12, 2, dtype=torch.float32).items()}
    alone = {k: x if k.startswith("weight") else x.narrow(x.dim() - 2, batch - 1, 1) for k, x in inputs.items()}
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        hidden, (h, c) = lstm_scan(**inputs, backend="cpu")
        assert torch.equal(hidden[:, -1:], lstm_scan(**alone, backend="cpu")[0])
        found.append((hidden, h, c))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needs_kernels
def test_large_weights_of_few_rows_take_the_steps_one_by_one(monkeypatch):
    inputs = make_inputs(6, 3, 8, 4, dtype=torch.float32)
    expected = run("naive", inputs)
    monkeypatch.setattr(cpu, "_MANY_WEIGHTS", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for name in ("sequence_forward", "sequence_backward"):
        monkeypatch.setattr(kernels, name, None)  # it must not be called
    check_equal(run("cpu", inputs), expected, 1e-4)


def test_repeated_runs_are_equal_bit_for_bit(compiled):
    inputs = make_inputs(9, 5, 16, 7, dtype=torch.float32)
    first, second = run("cpu", inputs), run("cpu", inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_gradients_the_result_is_the_same_and_no_step_is_kept(monkeypatch):
    inputs = make_inputs(9, 5, 16, 7, dtype=torch.float32)
    kept = []

    def spied(run):
        def spy(*arguments):
            outputs = run(*arguments)
            kept.append([x.shape[0] for x in outputs[2:]])
            return outputs

        return spy

    for name in ("_forward", "_run_forward"):
        monkeypatch.setattr(cpu, name, spied(getattr(cpu, name)))
    with_grad = lstm_scan(**inputs, backend="cpu")
    with torch.no_grad():
        without = lstm_scan(**inputs, backend="cpu")
    detached = lstm_scan(**{k: x.detach() for k, x in inputs.items()}, backend="cpu")
    assert kept == [[9, 9], [1, 1], [1, 1]]
    for other in (without, detached):
        assert torch.equal(with_grad[0], other[0])
        assert torch.equal(with_grad[1][1], other[1][1])
        assert not other[0].requires_grad


@pytest.mark.parametrize("steps", [1, 6])
def test_an_empty_batch_passes(compiled, steps):
    inputs = make_inputs(steps, 0, 4, 2, dtype=torch.float32)
    check_equal(run("cpu", inputs), run("naive", inputs), 0)


def test_inputs_stay_as_they_are():
    inputs = make_inputs(6, 3, 4, 2)
    before = {name: x.detach().clone() for name, x in inputs.items()}
    run("cpu", inputs)
    assert all(torch.equal(inputs[name], before[name]) for name in NAMES)


# --- choice of the path, and what is refused


@pytest.mark.parametrize(
    ("backend", "steps", "device", "has_mask", "expected"),
    [
        ("auto", 1, "cpu", False, "naive"),
        ("auto", 2, "cpu", False, "cpu"),
        ("auto", 70, "cpu", True, "cpu"),
        ("auto", 70, "meta", False, "naive"),
        ("naive", 70, "cpu", False, "naive"),
        ("cpu", 1, "cpu", False, "cpu"),
        ("fused", 70, "cpu", False, "fused"),
        ("export", 70, "cpu", False, "export"),
    ],
)
def test_choice_of_backend(backend, steps, device, has_mask, expected):
    assert resolve_backend(backend, torch.zeros(steps, 2, 8, device=device), has_mask=has_mask) == expected


class Elsewhere:
    """As much of a tensor as the choice looks at, on a device that this machine lacks."""

    def __init__(self, steps, device):
        self.shape, self.dtype, self.device = (steps, 2, 8), torch.float32, torch.device(device)


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_other_devices_take_torchs_fused_lstm_where_it_knows_the_way(device):
    assert resolve_backend("auto", Elsewhere(70, device)) == "fused"
    assert resolve_backend("auto", Elsewhere(1, device)) == "naive"
    assert resolve_backend("auto", Elsewhere(70, device), has_mask=True) == "naive"


def test_the_environment_chooses_where_nobody_else_does(monkeypatch):
    gates = torch.zeros(70, 2, 8)
    monkeypatch.setenv("ERU_BACKEND", "naive")
    assert resolve_backend("auto", gates) == "naive"
    assert resolve_backend("cpu", gates) == "cpu"
    monkeypatch.setenv("ERU_BACKEND", "")
    assert resolve_backend("auto", gates) == "cpu"
    monkeypatch.setenv("ERU_BACKEND", "fast")
    with pytest.raises(ValueError, match="ERU_BACKEND='fast': must be one of auto, naive"):
        resolve_backend("auto", gates)
    inputs = make_inputs(6, 3, 4)
    monkeypatch.setenv("ERU_BACKEND", "naive")
    assert lstm_scan(**inputs)[0].grad_fn.name() != "_ScanBackward"
    monkeypatch.delenv("ERU_BACKEND")
    assert lstm_scan(**inputs)[0].grad_fn.name() == "_ScanBackward"


@pytest.mark.parametrize(
    ("backend", "gates", "has_mask", "reason", "instead"),
    [
        ("fused", torch.zeros(70, 2, 8), True, "torch's fused LSTM knows no mask on the hidden state", "cpu"),
        ("cpu", Elsewhere(70, "cuda"), False, "the gates are on cuda", "fused"),
        ("fused", torch.zeros(70, 2, 8, device="meta"), False, "the gates are on meta", "naive"),
    ],
)
def test_a_way_that_cannot_run_gives_way_with_one_warning(monkeypatch, backend, gates, has_mask, reason, instead):
    monkeypatch.setattr("eru.warn._said", set())
    with pytest.warns(UserWarning, match=f"backend='{backend}' cannot run: {reason}.*; another way is taken"):
        assert resolve_backend(backend, gates, has_mask=has_mask) == instead
    assert resolve_backend(backend, gates, has_mask=has_mask) == instead  # a second warning would be an error


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend='cudnn': must be one of auto, naive, cpu, fused, export"):
        lstm_scan(**make_inputs(), backend="cudnn")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("gates", (5, 3), r"gates of shape \(5, 3\): expected \(T, B, 4H\)"),
        ("gates", (0, 3, 16), "T >= 1"),
        ("gates", (5, 3, 18), "4H"),
        ("weight_hh", (16, 4), r"weight_hh of shape \(16, 4\): expected \(16, 2\)"),
        ("h0", (3, 4), r"h0 of shape \(3, 4\): expected \(3, 2\)"),
        ("c0", (1, 4), r"c0 of shape \(1, 4\): expected \(3, 4\)"),
        ("weight_hr", (2, 5), r"weight_hr of shape \(2, 5\): expected \(2, 4\)"),
        ("hidden_mask", (3, 4), r"hidden_mask of shape \(3, 4\): expected \(3, 2\)"),
        ("lengths", (2,), r"lengths of shape \(2,\): expected \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit(name, shape, message):
    with pytest.raises(ValueError, match=message):
        lstm_scan(**make_inputs(5, 3, 4, 2) | {name: torch.zeros(shape)})


# --- autocast, compilation, transforms


def test_under_autocast_products_run_in_its_type_and_cells_do_not():
    inputs = make_inputs(6, 3, 8, dtype=torch.float32)
    low = {k: x if x is None else x.detach().bfloat16() for k, x in inputs.items()}
    expected = lstm_scan(**low | {"c0": inputs["c0"]})
    with torch.autocast("cpu", torch.bfloat16):
        hidden, (h, c) = lstm_scan(**inputs)
    assert (hidden.dtype, h.dtype, c.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert torch.equal(hidden, expected[0])
    assert torch.equal(c, expected[1][1])
    hidden.float().sum().backward()
    assert inputs["weight_hh"].grad.dtype == torch.float32


def test_autocast_leaves_float64_alone():
    inputs = make_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        hidden, _ = lstm_scan(**inputs)
    assert torch.equal(hidden, lstm_scan(**inputs)[0])


def test_the_fused_way_compiles_without_a_break():
    torch._dynamo.reset()
    inputs = make_inputs(6, 3, 4, 2)
    compiled = torch.compile(lstm_scan, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(**inputs, backend="fused"), lstm_scan(**inputs))


def test_compiled_it_is_one_node_and_equal():
    graphs = []

    def record(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    torch._dynamo.reset()
    inputs = make_inputs(6, 3, 4, 2)
    hidden, _ = torch.compile(lstm_scan, backend=record, fullgraph=True)(**inputs)
    assert torch.equal(hidden, lstm_scan(**inputs, backend="cpu")[0])
    assert [target for target in graphs[0] if "eru" in target] == ["eru.lstm_scan.default"]


def test_compiled_gradients_equal():
    torch._dynamo.reset()
    inputs = make_inputs(6, 3, 4, 2)
    compiled = torch.compile(lstm_scan, backend="aot_eager", fullgraph=True)
    grads = []
    for function in (compiled, lstm_scan):
        hidden, (_, c) = function(**inputs)
        grads.append(torch.autograd.grad(hidden.sum() + c.square().sum(), list(inputs.values())))
    check_equal(*grads, 1e-12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("proj", "masked", "ends"), [(0, False, None), (2, True, torch.tensor([5, 0, 2]))])
@pytest.mark.parametrize("keep", [True, False])
def test_operator_obeys_torchs_rules(proj, groups, masked, ends, keep, compiled):
    inputs = make_inputs(6, 3, 4, proj, groups, dtype=torch.float32, grad=NAMES if keep else ())
    inputs["h0"] = inputs["h0"].detach().t().contiguous().t().requires_grad_(keep)
    mask = make_mask(inputs) if masked else None
    torch.library.opcheck(cpu._run_forward, (*inputs.values(), mask, ends, keep, compiled))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ends", [None, torch.tensor([5, 0, 2])])
def test_backward_operator_obeys_torchs_rules(ends, groups, compiled):
    inputs = {k: x.detach() for k, x in make_inputs(6, 3, 4, 2, groups, dtype=torch.float32).items()}
    gates, weight, h0, c0, weight_hr = inputs.values()
    mask = make_mask(inputs)
    hidden, c, activated, cells = cpu._run_forward(gates, weight, h0, c0, weight_hr, mask, ends, True, compiled)
    turned = [x.t().contiguous().t() for x in (torch.ones_like(c), weight, h0, c0, weight_hr)]
    arguments = (torch.ones_like(hidden), *turned, mask, ends, hidden, activated, cells, compiled)
    torch.library.opcheck(cpu._run_backward, arguments)


def test_transforms_of_torch_func_fall_back_to_the_loop():
    inputs = make_inputs(6, 3, 4)
    weight = inputs["weight_hh"].detach()
    batch = torch.randn(2, 6, 3, 16, dtype=torch.float64)

    def loss(weight, gates, backend="auto"):
        hidden, _ = lstm_scan(gates, weight, inputs["h0"].detach(), inputs["c0"].detach(), backend=backend)
        return hidden.square().sum()

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, batch)
    for grad, gates in zip(grads, batch, strict=True):
        leaf = weight.clone().requires_grad_()
        torch.testing.assert_close(grad, torch.autograd.grad(loss(leaf, gates, "cpu"), leaf)[0])


@quiet_scan
def test_forward_mode_falls_back_to_the_loop():
    inputs = {k: x if x is None else x.detach() for k, x in make_inputs(6, 3, 4).items()}
    direction = torch.randn_like(inputs["gates"])

    def hidden(gates):
        return lstm_scan(**inputs | {"gates": gates})[0]

    step = 1e-6
    slope = (hidden(inputs["gates"] + step * direction) - hidden(inputs["gates"] - step * direction)) / (2 * step)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(inputs["gates"], direction)
        tangent = torch.autograd.forward_ad.unpack_dual(hidden(dual)).tangent
    torch.testing.assert_close(tangent, slope, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.func.jvp(hidden, (inputs["gates"],), (direction,))[1], tangent)


@quiet_scan
@pytest.mark.parametrize("backend", ["cpu", "fused"])
def test_a_way_that_forward_mode_cannot_see_through_gives_way_to_the_loop(monkeypatch, backend):
    monkeypatch.setattr("eru.warn._said", set())
    inputs = {k: x if x is None else x.detach() for k, x in make_inputs(6, 3, 4).items()}
    direction = torch.randn_like(inputs["gates"])

    def tangent(way):
        return torch.func.jvp(
            lambda gates: lstm_scan(**inputs | {"gates": gates}, backend=way)[0], (inputs["gates"],), (direction,)
        )[1]

    with pytest.warns(UserWarning, match=f"backend='{backend}' cannot run: torch.func and forward mode"):
        found = tangent(backend)
    torch.testing.assert_close(found, tangent("naive"))
