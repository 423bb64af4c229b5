# type: ignore -- Triton's Python has types of its own
"""The backward kernel: the gradient of h from the later step's gates, and through the cell to this step's, in one."""
# ruff: noqa: ANN001, ANN201, ANN202, RUF005 -- parameters are Triton's and have no Python type, tuples its own too

import triton
import triton.language as tl

from eru.recurrence.triton.shared import arrive, from_table, load_gates, store_gates, tanh, wait


@triton.jit
def _split_weight(weight_t, units, inner, LENGTH: tl.constexpr):
    """Tile (SPLIT, units, inner) of W transposed, (SIZE, LENGTH)."""
    mask = (inner < LENGTH)[:, None, :]
    return tl.load(weight_t + units[None, :, None] * LENGTH + inner[:, None, :], mask=mask, other=0)


@triton.jit
def _split_columns(state, inner, streams, batch, LENGTH: tl.constexpr):
    """Tile (SPLIT, inner, streams) of the gates' gradients (batch, LENGTH) transposed."""
    mask = (inner < LENGTH)[:, :, None] & (streams < batch)[None, None, :]
    pointers = state + streams[None, None, :] * LENGTH + inner[:, :, None]
    return tl.load(pointers, mask=mask, other=0, cache_modifier=".cg")


@triton.jit
def _resident_split(weight_t, units, inner, LENGTH: tl.constexpr, CHUNK: tl.constexpr):
    """All tiles of the units, as a tuple that stays on the chip."""
    tiles = ()
    for k in tl.static_range(0, LENGTH, CHUNK):
        tiles = tiles + (_split_weight(weight_t, units, k + inner, LENGTH),)
    return tiles


@triton.jit
def _backward_product(
    weight_t,  # its tiles if RESIDENT
    later,
    units,
    inner,
    streams,
    batch,
    LENGTH: tl.constexpr,
    UNITS: tl.constexpr,
    BATCH: tl.constexpr,
    SPLIT: tl.constexpr,
    CHUNK: tl.constexpr,
    AHEAD: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(units of W transposed) x (the later step's gradients of the gates, transposed).

    A product of so few rows leaves most warps idle; so its long inner dimension is split over SPLIT of them.
    """
    product = tl.zeros((SPLIT, UNITS, BATCH), tl.float32)
    if RESIDENT:
        TILES: tl.constexpr = (LENGTH + CHUNK - 1) // CHUNK
        loaded = ()
        for k in tl.static_range(TILES + AHEAD):
            if k < TILES:
                loaded = loaded + (_split_columns(later, k * CHUNK + inner, streams, batch, LENGTH),)
            if k >= AHEAD:
                product = tl.dot(weight_t[k - AHEAD], loaded[k - AHEAD], product, input_precision=PRECISION)
    else:
        for k in range(0, LENGTH, CHUNK):
            tile = _split_weight(weight_t, units, k + inner, LENGTH)
            column = _split_columns(later, k + inner, streams, batch, LENGTH)
            product = tl.dot(tile, column, product, input_precision=PRECISION)
    return tl.sum(product, 0)


@triton.jit(do_not_specialize=["first", "count"])
def backward(
    grads,  # (T, B, SIZE), of the hidden states
    weight_t,  # (SIZE, 4 SIZE)
    dgates,  # (T + 1, B, 4, SIZE), of which the last is zero
    cells,  # (T + 1, B, SIZE)
    activated,  # (T, B, 4, SIZE)
    dcells,  # (B, SIZE), updated at the end
    arrived,
    first,
    count,
    batch,
    SIZE: tl.constexpr,
    UNITS: tl.constexpr,
    BATCH: tl.constexpr,
    INNER: tl.constexpr,
    SPLIT: tl.constexpr,
    AHEAD: tl.constexpr,
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Steps ``first``, ``first - 1``, ..., ``count`` of them; the product is (UNITS, 4 SIZE) x (4 SIZE, BATCH)."""
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    streams = tl.program_id(1) * BATCH + tl.arange(0, BATCH)
    mask = (streams < batch)[None, :]
    own = streams[None, :] * SIZE + units[:, None]
    own_gates = streams[None, :] * 4 * SIZE + units[:, None]
    inner = tl.arange(0, SPLIT)[:, None] * INNER + tl.arange(0, INNER)[None, :]
    LENGTH: tl.constexpr = 4 * SIZE
    CHUNK: tl.constexpr = SPLIT * INNER
    if RESIDENT:
        weight_t = _resident_split(weight_t, units, inner, LENGTH, CHUNK)
    dc = tl.load(dcells + own, mask=mask, other=0)
    for step in tl.range(0, count, num_stages=1):
        t = tl.cast(first - step, tl.int64)
        i, f, g, o = load_gates(activated + t * batch * LENGTH + own_gates, mask, SIZE)
        c_before = tl.load(cells + t * batch * SIZE + own, mask=mask, other=0)
        tanh_c = tanh(tl.load(cells + (t + 1) * batch * SIZE + own, mask=mask, other=0))
        dh = tl.load(grads + t * batch * SIZE + own, mask=mask, other=0).to(tl.float32)
        later = dgates + (t + 1) * batch * LENGTH
        if BARRIER:
            wait(arrived, step * tl.num_programs(0) * tl.num_programs(1))
        dh += _backward_product(
            weight_t, later, units, inner, streams, batch,
            LENGTH, UNITS, BATCH, SPLIT, CHUNK, AHEAD, RESIDENT, PRECISION,
        )  # fmt: skip
        dc += dh * o * (1 - tanh_c * tanh_c)
        di, df = dc * g * i * (1 - i), dc * c_before * f * (1 - f)
        dg, do = dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)
        store_gates(dgates + t * batch * LENGTH + own_gates, di, df, dg, do, mask, SIZE)
        if BARRIER:
            arrive(arrived)
        dc *= f
    tl.store(dcells + own, dc, mask=mask)


@triton.jit(do_not_specialize=["offset"])
def backward_step(
    table,
    offset,
    batch,
    DTYPE: tl.constexpr,
    SIZE: tl.constexpr,
    UNITS: tl.constexpr,
    BATCH: tl.constexpr,
    INNER: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Step ``first + offset`` of :func:`backward`, with the tensors and ``first`` that the table says when it runs."""
    backward(
        from_table(table, 0, DTYPE),
        from_table(table, 1, DTYPE),
        from_table(table, 2, DTYPE),
        from_table(table, 3, tl.float32),
        from_table(table, 4, tl.float32),
        from_table(table, 5, tl.float32),
        table,
        tl.load(table + 6).to(tl.int32) + offset,
        1,
        batch,
        SIZE,
        UNITS,
        BATCH,
        INNER,
        SPLIT,
        0,
        False,
        False,
        PRECISION,
    )
