"""The Triton path against the oracle: compiled on a GPU, or else in Triton's interpreter, in a process of its own.

The interpreter replaces Triton's language when that is imported, so no other test may share its process; and it runs
the programs of a launch one after another, so that a persistent launch there has only one.
"""

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eru.recurrence import naive
from eru.recurrence import triton as path

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HAS_TRITON = importlib.util.find_spec("triton") is not None

runs_kernels = pytest.mark.skipif(
    not INTERPRETED and not (HAS_TRITON and torch.cuda.is_available()),
    reason="needs a GPU; without one, test_in_the_interpreter runs it",
)
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")

NAMES = ("gates", "weight_hh", "h0", "c0")
SHAPES = [(1, 1, 1), (5, 3, 13), (3, 33, 29), (2, 3, 250)]  # steps, batch, hidden size
WAYS = ["steps", "persistent", "streamed"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """``persistent=`` of lstm_scan; "streamed" is a persistent launch that must read W anew at every step."""
    if request.param == "streamed":
        from eru.recurrence.triton import launch

        limits = launch.device_limits
        monkeypatch.setattr(launch, "device_limits", lambda device: dataclasses.replace(limits(device), shared=0))
        launch.plan.cache_clear()
        yield True
        launch.plan.cache_clear()
    else:
        yield request.param == "persistent"


def make_inputs(steps, batch, size, dtype=torch.float32, seed=0):
    """Random gates, W, h0, c0 on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (steps, batch, 4 * size), (4 * size, size), (batch, size), (batch, size)
    gates, weight, h0, c0 = (torch.randn(shape, generator=generator) for shape in shapes)
    return gates.to(dtype), (weight / size**0.5).to(dtype), h0.to(dtype), c0


def run(scan, inputs):
    """Outputs, final state and all gradients, on the CPU."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    outputs = scan(*inputs)
    generator = torch.Generator().manual_seed(1)
    tops = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in outputs]
    return [x.detach().cpu() for x in (*outputs, *torch.autograd.grad(outputs, inputs, tops))]


def run_kernels(inputs, persistent):
    return run(lambda *x: path.lstm_scan(*x, persistent=persistent), [x.to(DEVICE) for x in inputs])


def check_equal(got, expected):
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        tolerance = 1e-4 if index < 2 else 1e-3
        scale = other.abs().max().item() if other.numel() else 1.0
        assert one.dtype == other.dtype
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance * scale, msg=lambda m, i=index: f"part {i}: {m}"
        )


# --- the kernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the kernels run compiled")
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter(run_interpreted):
    run_interpreted(__file__)


@runs_kernels
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_oracle_in_outputs_state_and_all_gradients(shape, way):
    inputs = make_inputs(*shape)
    assert path.supports(*[x.to(DEVICE) for x in inputs[:2]]) is None
    check_equal(run_kernels(inputs, way), run(naive.lstm_scan, inputs))


@runs_kernels
def test_equals_oracle_over_seventy_steps():
    inputs = make_inputs(70, 3, 16)
    check_equal(run_kernels(inputs, persistent=True), run(naive.lstm_scan, inputs))


@runs_kernels
@pytest.mark.parametrize("shape", [(5, 3, 13), (2, 3, 250)])
def test_a_persistent_launch_is_one_and_keeps_its_weights(shape):
    from eru.recurrence.triton import launch

    _, batch, size = shape
    tiles = launch.plan(-(-size // 16) * 16, batch, torch.float32, torch.zeros(0, device=DEVICE).device, True, "tf32")
    assert tiles.persistent
    assert tiles.forward["RESIDENT"]
    assert tiles.backward["RESIDENT"]


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_less_exact_than_the_plain_loop(dtype, way):
    errors = {"kernels": 0.0, "naive": 0.0}
    for seed in range(2):
        inputs = make_inputs(6, 5, 13, dtype, seed)
        exact = run(naive.lstm_scan, [x.double() for x in inputs])
        for name, got in (("kernels", run_kernels(inputs, way)), ("naive", run(naive.lstm_scan, inputs))):
            errors[name] += sum(((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, exact, strict=True))
    assert 0 < errors["kernels"] <= errors["naive"]
    assert errors["naive"] < 2 * len(exact) * 0.05


@runs_kernels
def test_cells_are_kept_in_float32_inside(way):
    # 1 + 32 steps of 2^-9 each: in bfloat16 the sum would never leave 1.
    gates = torch.tensor([60.0, 60.0, 2.0**-9, 60.0], dtype=torch.bfloat16, device=DEVICE).expand(32, 1, 4)
    weight, start = gates.new_zeros(4, 1), gates.new_zeros(1, 1)
    hidden, c = path.lstm_scan(gates, weight, start, start.float() + 1, persistent=way)
    assert hidden.dtype == torch.bfloat16
    assert c.dtype == torch.float32
    assert abs(c.item() - 1.0625) < 1e-3


@runs_kernels
def test_repeated_runs_are_equal_bit_for_bit(way):
    inputs = make_inputs(7, 5, 29)
    first, second = run_kernels(inputs, way), run_kernels(inputs, way)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@runs_kernels
def test_changing_lengths_and_tensors_keep_few_graphs():
    from eru.recurrence.triton import launch

    launch._kept.clear()
    for seed, steps in enumerate([5, 3, 8, 5, 13, 1]):
        inputs = make_inputs(steps, 2, 16, seed=seed)
        check_equal(run_kernels(inputs, False), run(naive.lstm_scan, inputs))
    assert len(launch._kept) == 2  # forward, backward
    for graphs in launch._kept.values():
        assert set(graphs._graphs) == ({1, 2, 4, 8} if DEVICE == "cuda" else set())


@runs_kernels
@pytest.mark.parametrize("name", NAMES)
def test_inputs_need_not_be_contiguous_nor_aligned(name):
    inputs = dict(zip(NAMES, make_inputs(6, 3, 16), strict=True))
    expected = run(naive.lstm_scan, inputs.values())
    flipped = inputs[name].transpose(0, -1).contiguous().transpose(0, -1)
    shifted = torch.empty(flipped.numel() + 1)[1:].view(flipped.shape).copy_(flipped)
    for other in (flipped, shifted):
        check_equal(run_kernels((inputs | {name: other}).values(), persistent=True), expected)


@runs_kernels
@pytest.mark.parametrize("part", [0, 1])
def test_gradient_through_one_output_alone(part):
    grads = []
    for scan in (path.lstm_scan, naive.lstm_scan):
        inputs = [x.to(DEVICE).requires_grad_() for x in make_inputs(4, 3, 5)]
        grads.append(torch.autograd.grad(scan(*inputs)[part].sum(), inputs, materialize_grads=True))
    check_equal(*([x.cpu() for x in one] for one in grads))


@runs_kernels
def test_without_gradients_the_result_is_the_same_and_no_step_is_kept(monkeypatch, way):
    inputs = [x.to(DEVICE) for x in make_inputs(9, 5, 16)]
    kept, scan = [], path._scan

    def spy(*arguments):
        outputs = scan(*arguments)
        kept.append([x.shape[0] for x in outputs[2:]])
        return outputs

    monkeypatch.setattr(path, "_scan", spy)
    without = path.lstm_scan(*inputs, persistent=way)
    with_grad = path.lstm_scan(inputs[0].requires_grad_(), *inputs[1:], persistent=way)
    assert kept == [[0, 1], [9, 10]]
    assert all(torch.equal(a, b) for a, b in zip(without, with_grad, strict=True))


@runs_kernels
def test_an_empty_batch_passes(way):
    inputs = make_inputs(3, 0, 4)
    check_equal(run_kernels(inputs, way), run(naive.lstm_scan, inputs))


@runs_kernels
def test_second_derivatives_equal_the_oracles():
    found = []
    for scan in (path.lstm_scan, naive.lstm_scan):
        inputs = [x.to(DEVICE).requires_grad_() for x in make_inputs(4, 2, 3)]
        outputs = scan(*inputs)
        loss = outputs[0].square().sum() + outputs[1].square().sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        found.append(torch.autograd.grad(sum(x.square().sum() for x in first), inputs))
    check_equal(*([x.cpu() for x in one] for one in found))


@runs_kernels
def test_compiled_it_is_one_node_and_equal():
    def scan(*inputs):
        return path.lstm_scan(*inputs) if path.supports(*inputs[:2]) is None else None

    torch._dynamo.reset()
    inputs = make_inputs(5, 3, 13)
    compiled = torch.compile(scan, backend="aot_eager", fullgraph=True)
    got = run(compiled, [x.to(DEVICE) for x in inputs])
    assert all(torch.equal(a, b) for a, b in zip(got, run_kernels(inputs, False), strict=True))


@runs_kernels
@pytest.mark.parametrize(("size", "keep"), [(5, True), (16, True), (16, False)])
def test_operator_obeys_torchs_rules(size, keep):
    inputs = [x.to(DEVICE).requires_grad_(keep) for x in make_inputs(2, 2, size)]
    torch.library.opcheck(path._scan, (*inputs, keep, False))


@runs_kernels
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
def test_a_callers_own_graph_may_take_it_in(way):
    inputs = [x.to(DEVICE) for x in make_inputs(5, 3, 13)]
    with torch.no_grad():
        expected = path.lstm_scan(*inputs, persistent=way)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = path.lstm_scan(*inputs, persistent=way)
        path.lstm_scan(*[x + 1 for x in inputs], persistent=way)
        graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


# --- what needs no kernel to run


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="compiles without a GPU")
@pytest.mark.parametrize("persistent", [False, True])
def test_compiles_for_an_h200_within_its_shared_memory(monkeypatch, h200_target, persistent):
    from eru.recurrence.triton import launch

    shared = {}

    class Compiled:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            def compile_only(*arguments, **options):
                compiled = self.kernel.warmup(*arguments, grid=grid, **options)
                shared[self.kernel.fn.__name__] = compiled.metadata.shared

            return compile_only

    kernels = {kind: tuple(map(Compiled, pair)) for kind, pair in launch._kernels.items()}
    monkeypatch.setattr(launch, "_kernels", kernels)
    monkeypatch.setattr(launch, "_kept", {})
    monkeypatch.setattr(launch, "write_table", Compiled(launch.write_table))
    monkeypatch.setattr(launch, "device_limits", lambda device: launch.Device(132, 232448 - 8192))
    launch.plan.cache_clear()
    run(lambda *x: path.lstm_scan(*x, persistent=persistent), make_inputs(1, 20, 1152, torch.bfloat16))
    launch.plan.cache_clear()
    expected = {"forward", "backward"} if persistent else {"forward_step", "backward_step", "write_table"}
    assert set(shared) == expected
    assert max(shared.values()) <= 232448


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_hr": torch.zeros(2, 3)}, "there is a projection"),
        ({"hidden_mask": torch.zeros(2, 3)}, "there is a hidden_mask"),
        ({"gates": torch.zeros(5, 2, 12, dtype=torch.float64)}, "gates are torch.float64"),
        ({"weight_hh": torch.zeros(1, device="meta").expand(2**17, 2**14)}, "2147483648 elements"),
        ({"gates": torch.zeros(5, 2, 12, device="meta")}, "meta is no NVIDIA GPU" if HAS_TRITON else "not installed"),
    ],
)
def test_says_why_it_cannot_run(options, message):
    arguments = {"gates": torch.zeros(5, 2, 12), "weight_hh": torch.zeros(12, 3)} | options
    assert message in path.supports(**arguments)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs on the CPU")
def test_the_cpu_is_refused():
    message = "cpu is no NVIDIA GPU" if HAS_TRITON else "Triton is not installed"
    assert path.supports(torch.zeros(5, 2, 12), torch.zeros(12, 3)) == message


@pytest.mark.parametrize("name", ["weight_hr", "hidden_mask"])
def test_refuses_a_projection_and_a_mask(name):
    with pytest.raises(ValueError, match="weight_hr and hidden_mask: must be None"):
        path.lstm_scan(*make_inputs(2, 2, 3), **{name: torch.zeros(2, 3)})


def test_importing_it_does_not_import_triton():
    code = "import sys, eru.recurrence.triton; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@needs_triton
@pytest.mark.parametrize(
    ("size", "batch", "dtype", "precision", "persistent", "resident"),
    [
        (1152, 20, torch.bfloat16, "tf32", True, True),
        (1152, 32, torch.float16, "tf32", True, True),
        (1152, 20, torch.float32, "tf32", True, False),  # W has twice the bytes
        (512, 20, torch.float32, "tf32", True, True),
        (512, 20, torch.float32, "tf32x3", True, False),
        (1152, 64, torch.bfloat16, "tf32", False, False),  # 144 programs
        (2128, 20, torch.bfloat16, "tf32", False, False),  # 133 programs
        (16, 1, torch.bfloat16, "tf32", True, True),
    ],
)
def test_plans_fit_an_h200(monkeypatch, size, batch, dtype, precision, persistent, resident):
    from eru.recurrence.triton import launch

    limits = launch.Device(132, 232448 - 8192)
    monkeypatch.setattr(launch, "device_limits", lambda device: limits)
    launch.plan.cache_clear()
    tiles = launch.plan(size, batch, dtype, torch.device("cuda", 0), True, precision)
    launch.plan.cache_clear()
    assert tiles.persistent == persistent
    assert tiles.grid[0] * tiles.units == size
    assert tiles.grid[1] * tiles.batch >= batch
    for rows, length, options in ((4 * tiles.units, size, tiles.forward), (tiles.units, 4 * size, tiles.backward)):
        assert options["RESIDENT"] == resident
        chunk = options.get("SPLIT", 1) * options["INNER"]
        held = -(-length // chunk) if resident else options["num_stages"]
        ahead = options["AHEAD"] + 1 if resident else options["num_stages"]
        assert chunk * dtype.itemsize * (held * rows + ahead * tiles.batch) <= limits.shared


@needs_triton
def test_any_length_is_a_sum_of_few_graphs():
    from eru.recurrence.triton import launch

    lengths = set()
    for steps in range(1, 300):
        runs = list(launch.powers_of_two(steps))
        assert [t for start, count in runs for t in range(start, start + count)] == list(range(steps))
        lengths |= {count for _, count in runs}
    assert lengths == {1, 2, 4, 8, 16, 32, 64}
