"""The compiled kernels against torch's own functions, and what happens where they cannot be built."""

import math
import platform
import subprocess
from itertools import cycle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from eru import kernels
from eru.recurrence import cpu_steps, lstm_scan, resolve_backend

needs_kernels = pytest.mark.skipif(kernels.refusal() is not None, reason=f"eru.kernels: {kernels.refusal()}")

# Gates at which exp and tanh are hard: near 0, large, and what is no number.
HARD = [0.0, -0.0, 1e-30, 1e-4, -1e-3, 0.2499, 0.2501, 5.0, -8.9, 30.0, -88.0, 200.0, -1e4, 1e4]


@pytest.fixture
def rebuilt():
    """The kernels looked for anew inside the test, and again after it."""

    def forget() -> None:
        kernels._load.cache_clear()
        kernels.call.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def built_quickly(rebuilt, monkeypatch, tmp_path):
    """A cache of the test's own, whose libraries are built in a moment and need not be fast."""
    monkeypatch.setenv("ERU_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_FLAGS", ["-O0" if flag == "-O3" else flag for flag in kernels._FLAGS])


def step(functions, values: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """One step forward and backward, with every gate and cell at every one of the values."""
    grid = torch.cartesian_prod(values, values)  # (B, 2)
    rows = len(grid)
    gates = torch.stack([grid[:, 0], grid[:, 1], grid[:, 0], grid[:, 1]], dim=1).to(dtype)  # (B, 4), H = 1
    recurrent = torch.zeros_like(gates)
    before = grid[:, 1:].contiguous()
    activated, cells, hidden = torch.empty(rows, 4, 1), torch.empty(rows, 1), torch.empty(rows, 1, dtype=dtype)
    functions.lstm_forward(gates, recurrent, before, activated, cells, hidden)
    dh, dc, draw = torch.ones(rows, 1, dtype=dtype), torch.ones(rows, 1), torch.empty(rows, 4, 1, dtype=dtype)
    functions.lstm_backward(dh, dc, activated, before, cells, draw)
    return [activated, cells, hidden, dc, draw]


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)])
def test_a_step_at_hard_values_equals_torchs(dtype, tolerance):
    values = torch.tensor(HARD)
    pairs = list(zip(step(kernels, values, dtype), step(cpu_steps, values, dtype), strict=True))
    torch.testing.assert_close(*pairs[0], rtol=2e-6, atol=1e-34)  # activated gates; below that exp is clamped
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=1e-7)  # 1 - tanh^2 has no more digits


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_none(dtype):
    values = torch.tensor([float("nan")])
    assert all(x.isnan().all() for x in step(kernels, values, dtype))


@needs_kernels
@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_cross_entropy_equals_torchs(rows, types, dtype, threads):
    generator = torch.Generator().manual_seed(rows + 100 * types)
    products = (4 * torch.randn(rows, types, generator=generator)).to(dtype)
    bias = torch.randn(types, generator=generator, requires_grad=True)
    targets = torch.randint(0, types, (rows,), generator=generator)
    logits = products.float().requires_grad_()
    expected = F.cross_entropy(logits + bias, targets)
    expected.backward()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loss, grad_bias = kernels.cross_entropy_(products, bias.detach(), targets)
    finally:
        torch.set_num_threads(before)
    assert loss == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(grad_bias, bias.grad, rtol=1e-5, atol=1e-7)
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(products.float(), logits.grad, rtol=rounding, atol=1e-8)


@needs_kernels
@pytest.mark.parametrize("wrong", [-1, 5, -100])
def test_a_target_outside_of_the_vocabulary_is_refused(wrong):
    with pytest.raises(IndexError, match=rf"targets from .*{wrong}.*: must be from 0 to 4"):
        kernels.cross_entropy_(torch.zeros(2, 5), torch.zeros(5), torch.tensor([wrong, wrong]))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ERU_NATIVE", "0", "ERU_NATIVE=0 switches them off"),
        ("CC", "no-such-compiler", "there is no C compiler 'no-such-compiler'"),
        ("CC", "false", "they cannot be built with the compiler 'false'"),
        ("CC", 'gcc "-O2', "they cannot be built with the compiler 'gcc \"-O2': No closing quotation"),
        ("CC", " ", "there is no C compiler ' '"),
    ],
)
def test_without_kernels_torchs_operators_do_the_same(monkeypatch, rebuilt, tmp_path, name, value, reason):
    arguments = torch.randn(6, 2, 16), torch.randn(16, 4), torch.zeros(2, 4), torch.zeros(2, 4)
    monkeypatch.setenv("ERU_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("ERU_NATIVE", raising=False)
    monkeypatch.setenv(name, value)
    assert reason in kernels.refusal()
    assert resolve_backend("auto", arguments[0]) == "cpu"
    torch.testing.assert_close(lstm_scan(*arguments), lstm_scan(*arguments, backend="naive"), rtol=1e-5, atol=1e-5)


# Tiles of every number of rows, and more rows than one thread takes at a time; panels that are full and half.
BATCHES, UNITS = [*range(1, 14), 16, 25, 73], cycle([1, 5, 9, 17, 40])
PRODUCTS = [(b, next(UNITS), groups, share) for b in BATCHES for groups in (1, 4) for share in (0, 1 / 2)]
REGISTERS = {"this processor's": [], "without AVX-512": ["-mno-avx512f"], "without AVX": ["-mno-avx"]}


@needs_kernels
@pytest.mark.parametrize("name", REGISTERS)
def test_products_of_every_size_equal_the_oracles_with_registers_of_every_width(built_quickly, monkeypatch, name):
    if REGISTERS[name] and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("registers of other processors have one width")
    monkeypatch.setattr(kernels, "_FLAGS", [*kernels._FLAGS, *REGISTERS[name]])
    assert kernels.refusal() is None
    for batch, units, groups, share in PRODUCTS:
        size, proj = groups * units, groups * math.ceil(share * units) if units > 1 else 0
        shapes = [(3, batch, 4 * size), (4 * size, (proj or size) // groups), (batch, proj or size), (batch, size)]
        shapes += [(proj, size)] if proj else []
        tensors = [(torch.randn(shape) / shape[-1] ** 0.5).requires_grad_() for shape in shapes]
        found = []
        for backend in ("cpu", "naive"):
            hidden, (h, c) = lstm_scan(*tensors[:4], weight_hr=tensors[4] if proj else None, backend=backend)
            total = hidden.square().sum() + h.sum() + c.square().sum()
            found.append([hidden, c, *torch.autograd.grad(total, tensors)])
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@needs_kernels
def test_they_are_built_once_and_kept(built_quickly, monkeypatch, tmp_path):
    assert kernels.refusal() is None
    (built,) = (tmp_path / "native").iterdir()
    kernels._load.cache_clear()
    monkeypatch.setattr(subprocess, "run", None)  # a second build would fail
    assert kernels.refusal() is None
    assert [built] == list((tmp_path / "native").iterdir())


@needs_kernels
@pytest.mark.parametrize("damage", [lambda old: b"", lambda old: old[: len(old) // 2], lambda old: old[:-1] + b"x"])
def test_a_damaged_library_is_built_anew(built_quickly, damage):
    built = kernels._build(["cc"])
    whole = built.read_bytes()
    built.unlink()  # a library that is mapped must not be written to
    built.write_bytes(damage(whole))
    assert kernels.refusal() is None
    assert built.read_bytes() == whole


@needs_kernels
def test_a_compiled_graph_holds_the_operator():
    torch._dynamo.reset()
    arguments = torch.randn(6, 2, 16), torch.randn(16, 4), torch.zeros(2, 4), torch.zeros(2, 4)
    compiled = torch.compile(lstm_scan, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*arguments)[0], lstm_scan(*arguments)[0])


@needs_kernels
@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o1777, True), (0o775, False), (0o700, False)])
def test_libraries_in_a_folder_that_everyone_can_write_into_are_not_run(built_quickly, tmp_path, mode, refused):
    kernels._build(["cc"])
    (tmp_path / "native").chmod(mode)
    said = kernels.refusal()
    assert (said is not None) == refused
    assert not refused or f"others than you can write into {tmp_path / 'native'}" in said
    assert (
        lstm_scan(torch.randn(6, 2, 16), torch.randn(16, 4), torch.zeros(2, 4), torch.zeros(2, 4))[0].isfinite().all()
    )
