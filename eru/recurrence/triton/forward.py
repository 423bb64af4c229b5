# type: ignore -- Triton's Python has types of its own
"""The forward kernel: W h of all four gates of the program's units, and the cell, in one."""
# ruff: noqa: ANN001, ANN201, ANN202, RUF005 -- parameters are Triton's and have no Python type, tuples its own too

import triton
import triton.language as tl

from eru.recurrence.triton.shared import arrive, from_table, load_gates, store_gates, tanh, wait


@triton.jit
def _split_gates(product, UNITS: tl.constexpr, BATCH: tl.constexpr):
    """(4 UNITS, BATCH) -> four times (UNITS, BATCH)."""
    product = tl.permute(tl.reshape(product, (2, 2, UNITS, BATCH)), (2, 3, 0, 1))
    i_g, f_o = tl.split(product)
    i, g = tl.split(i_g)
    f, o = tl.split(f_o)
    return i, f, g, o


@triton.jit
def _weight_rows(weight, rows, inner, SIZE: tl.constexpr):
    """Tile (rows, inner) of W (4 SIZE, SIZE)."""
    return tl.load(weight + rows[:, None] * SIZE + inner[None, :], mask=(inner < SIZE)[None, :], other=0)


@triton.jit
def _state_columns(state, inner, streams, batch, SIZE: tl.constexpr):
    """Tile (inner, streams) of h (batch, SIZE) transposed."""
    mask = (inner < SIZE)[:, None] & (streams < batch)[None, :]
    # Past the L1 cache, which does not see what other programs store.
    return tl.load(state + streams[None, :] * SIZE + inner[:, None], mask=mask, other=0, cache_modifier=".cg")


@triton.jit
def _resident_rows(weight, rows, SIZE: tl.constexpr, INNER: tl.constexpr):
    """All tiles of the rows, as a tuple that stays on the chip."""
    tiles = ()
    for k in tl.static_range(0, SIZE, INNER):
        tiles = tiles + (_weight_rows(weight, rows, k + tl.arange(0, INNER), SIZE),)
    return tiles


@triton.jit
def _forward_product(
    weight,  # its tiles if RESIDENT
    state,
    rows,
    streams,
    batch,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    BATCH: tl.constexpr,
    INNER: tl.constexpr,
    AHEAD: tl.constexpr,
    RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(rows of W) x (h transposed); RESIDENT, with tiles of h loaded AHEAD of their turn."""
    inner = tl.arange(0, INNER)
    product = tl.zeros((ROWS, BATCH), tl.float32)
    if RESIDENT:
        TILES: tl.constexpr = (SIZE + INNER - 1) // INNER
        loaded = ()
        for k in tl.static_range(TILES + AHEAD):
            if k < TILES:
                loaded = loaded + (_state_columns(state, k * INNER + inner, streams, batch, SIZE),)
            if k >= AHEAD:
                product = tl.dot(weight[k - AHEAD], loaded[k - AHEAD], product, input_precision=PRECISION)
    else:
        for k in range(0, SIZE, INNER):
            tile = _weight_rows(weight, rows, k + inner, SIZE)
            column = _state_columns(state, k + inner, streams, batch, SIZE)
            product = tl.dot(tile, column, product, input_precision=PRECISION)
    return product


@triton.jit(do_not_specialize=["first", "count"])
def forward(
    gates,  # (T, B, 4, SIZE)
    weight,  # (4, SIZE, SIZE)
    states,  # (T + 1, B, SIZE), of which the first is h0
    cells,  # (T + 1, B, SIZE), of which the first is c0; unless KEEP, (1, B, SIZE), updated at the end
    activated,  # (T, B, 4, SIZE), written if KEEP
    arrived,
    first,
    count,
    batch,
    SIZE: tl.constexpr,
    UNITS: tl.constexpr,
    BATCH: tl.constexpr,
    INNER: tl.constexpr,
    AHEAD: tl.constexpr,
    KEEP: tl.constexpr,
    RESIDENT: tl.constexpr,
    BARRIER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Steps ``first``, ``first + 1``, ..., ``count`` of them; the product is (4 UNITS, SIZE) x (SIZE, BATCH)."""
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    streams = tl.program_id(1) * BATCH + tl.arange(0, BATCH)
    mask = (streams < batch)[None, :]
    own = streams[None, :] * SIZE + units[:, None]
    own_gates = streams[None, :] * 4 * SIZE + units[:, None]
    row = tl.arange(0, 4 * UNITS)
    rows = row // UNITS * SIZE + tl.program_id(0) * UNITS + row % UNITS
    if RESIDENT:
        weight = _resident_rows(weight, rows, SIZE, INNER)
    if KEEP:
        cells += tl.cast(first, tl.int64) * batch * SIZE
    c = tl.load(cells + own, mask=mask, other=0)
    # One stage: the loads of a step must not be moved over the barrier before it.
    for step in tl.range(0, count, num_stages=1):
        t = tl.cast(first + step, tl.int64)
        i, f, g, o = load_gates(gates + t * batch * 4 * SIZE + own_gates, mask, SIZE)
        state = states + t * batch * SIZE
        if BARRIER:
            wait(arrived, step * tl.num_programs(0) * tl.num_programs(1))
        product = _forward_product(
            weight, state, rows, streams, batch, SIZE, 4 * UNITS, BATCH, INNER, AHEAD, RESIDENT, PRECISION
        )
        from_i, from_f, from_g, from_o = _split_gates(product, UNITS, BATCH)
        i, f, g, o = tl.sigmoid(i + from_i), tl.sigmoid(f + from_f), tanh(g + from_g), tl.sigmoid(o + from_o)
        c = f * c + i * g
        tl.store(state + batch * SIZE + own, (o * tanh(c)).to(states.dtype.element_ty), mask=mask)
        if BARRIER:
            arrive(arrived)
        if KEEP:
            cells += batch * SIZE
            tl.store(cells + own, c, mask=mask)
            store_gates(activated + t * batch * 4 * SIZE + own_gates, i, f, g, o, mask, SIZE)
    if not KEEP:
        tl.store(cells + own, c, mask=mask)


@triton.jit(do_not_specialize=["offset"])
def forward_step(
    table,
    offset,
    batch,
    DTYPE: tl.constexpr,
    SIZE: tl.constexpr,
    UNITS: tl.constexpr,
    BATCH: tl.constexpr,
    INNER: tl.constexpr,
    KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Step ``first + offset`` of :func:`forward`, with the tensors and ``first`` that the table says when it runs."""
    forward(
        from_table(table, 0, DTYPE),
        from_table(table, 1, DTYPE),
        from_table(table, 2, DTYPE),
        from_table(table, 3, tl.float32),
        from_table(table, 4, tl.float32),
        table,
        tl.load(table + 5).to(tl.int32) + offset,
        1,
        batch,
        SIZE,
        UNITS,
        BATCH,
        INNER,
        0,
        KEEP,
        False,
        False,
        PRECISION,
    )
