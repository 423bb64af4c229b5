# type: ignore -- Triton's Python has types of its own
"""What the kernels of both directions are made of: the barrier of the grid, gates, and the table of a captured step.

A program owns a tile of hidden units, all four gates of them, for a tile of the batch. It needs the whole h of the
step before (going back: all gate gradients of the step after), and only its own part of W. Steps must follow one
another over the whole grid, and nothing else must: the same loop over time runs either one step a launch, or all
steps in one launch with a BARRIER of the whole grid a step. The program's part of W is loaded once where it fits on
the chip (RESIDENT), and else read from the L2 cache at every step.

Sizes come padded: SIZE is a multiple of UNITS; units beyond H have zero weights, gates and states, and stay zero, so
that only the batch is masked. No exchanged element is written twice in a launch: one barrier a step is enough.
"""
# ruff: noqa: ANN001, ANN201 -- parameters are Triton's and have no Python type

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """With an absolute error of a float32's; a relative one not."""
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def arrive(arrived):
    """Say that this program has stored what others wait for."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release")


@triton.jit
def wait(arrived, target):
    """Wait for ``target`` arrivals: what a program stored before its own can be read after."""
    while tl.atomic_add(arrived, 0, sem="acquire") < target:
        pass
    tl.debug_barrier()


@triton.jit
def load_gates(gates, mask, SIZE: tl.constexpr):
    """The program's tile of each gate, in float32."""
    i = tl.load(gates, mask=mask, other=0).to(tl.float32)
    f = tl.load(gates + SIZE, mask=mask, other=0).to(tl.float32)
    g = tl.load(gates + 2 * SIZE, mask=mask, other=0).to(tl.float32)
    o = tl.load(gates + 3 * SIZE, mask=mask, other=0).to(tl.float32)
    return i, f, g, o


@triton.jit
def store_gates(gates, i, f, g, o, mask, SIZE: tl.constexpr):
    """The same tiles, in the tensor's type."""
    dtype = gates.dtype.element_ty
    tl.store(gates, i.to(dtype), mask=mask)
    tl.store(gates + SIZE, f.to(dtype), mask=mask)
    tl.store(gates + 2 * SIZE, g.to(dtype), mask=mask)
    tl.store(gates + 3 * SIZE, o.to(dtype), mask=mask)


@triton.jit(do_not_specialize=["first"])
def write_table(table, tensors, first):
    """Store the addresses of ``tensors``, then ``first``."""
    for k in tl.static_range(len(tensors)):
        tl.store(table + k, tl.cast(tensors[k], tl.int64))
    tl.store(table + len(tensors), first)


@triton.jit
def from_table(table, k, DTYPE: tl.constexpr):
    """The pointer in slot ``k``."""
    # Torch's allocations, and rows of a multiple of 16 elements, are aligned so.
    return tl.multiple_of(tl.load(table + k).to(tl.pointer_type(DTYPE)), 16)
