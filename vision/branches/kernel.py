# type: ignore -- Triton's Python has types of its own
"""The kernel: all branches of a tile of the output, one after the other, in one set of sums.

A program makes BLOCK channels of COLUMNS strips of the output; a strip is ROWS pixels, one below the other. What
several taps or rows of a branch read is loaded once, since equal loads are one to the compiler. From branch to branch
the sums stay where they are: with fusion each branch adds to those of the branches before.
"""
# ruff: noqa: ANN001, ANN201, ANN202, RUF005 -- parameters are Triton's and have no Python type, tuples its own too

import triton
import triton.language as tl


@triton.jit
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """The sums of every row, to begin with."""
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros((COLUMNS, BLOCK), tl.float32),)
    return sums


@triton.jit(do_not_specialize=["strips", "height", "width", "out_height", "out_width"])
def split_transform_fuse(
    x,  # (N, CHANNELS, height, width)
    taps,  # (K, TAPS_Y * TAPS_X, CHANNELS)
    scale,  # (K * CHANNELS) or None, like the next two
    shift,
    slope,
    out,  # (N, K * CHANNELS, out_height, out_width)
    strips,
    height,
    width,
    out_height,
    out_width,
    CHANNELS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DILATIONS: tl.constexpr,
    TAPS_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    BEFORE_Y: tl.constexpr,  # taps before the current one
    BEFORE_X: tl.constexpr,
    STRIDE: tl.constexpr,
    FUSION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Branches, running sums, scale, shift and PReLU."""
    BRANCHES: tl.constexpr = len(DILATIONS)
    if CHANNELS_LAST:
        pixel, out_pixel, plane, out_plane = CHANNELS, BRANCHES * CHANNELS, 1, 1
    else:
        pixel, out_pixel, plane, out_plane = 1, 1, height * width, out_height * out_width
    strip = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_strip = strip < strips
    # Where the second half is true, the compiler sees that there is nothing to mask.
    is_channel = (channel < CHANNELS) | (CHANNELS % BLOCK == 0)

    strips_down = (out_height + ROWS - 1) // ROWS
    image = (strip // out_width // strips_down).to(tl.int64) * CHANNELS
    top, left = strip // out_width % strips_down * ROWS, strip % out_width
    row, column = top * STRIDE, left * STRIDE
    x += (image * height * width + (row * width + column) * pixel)[:, None] + (channel * plane)[None, :]
    corner = image * BRANCHES * out_height * out_width + (top * out_width + left) * out_pixel
    out += corner[:, None] + (channel * out_plane)[None, :]

    sums = _zeros(ROWS, COLUMNS, BLOCK)
    for k in tl.static_range(BRANCHES):
        if not FUSION:
            sums = _zeros(ROWS, COLUMNS, BLOCK)
        for j in range(TAPS_X):
            dx = (j - BEFORE_X) * DILATIONS[k]
            in_width = is_strip & (column + dx >= 0) & (column + dx < width)
            for i in tl.static_range(TAPS_Y):
                tap = tl.load(taps + ((k * TAPS_Y + i) * TAPS_X + j) * CHANNELS + channel, mask=is_channel)
                added = ()
                for r in tl.static_range(ROWS):
                    dy = r * STRIDE + (i - BEFORE_Y) * DILATIONS[k]
                    inside = in_width & (row + dy >= 0) & (row + dy < height)
                    mask = inside[:, None] & is_channel[None, :]
                    pixels = tl.load(x + (dy * width + dx) * pixel, mask=mask, other=0)
                    added = added + (sums[r] + pixels.to(tl.float32) * tap.to(tl.float32)[None, :],)
                sums = added

        own = k * CHANNELS + channel
        if scale is not None:
            factor = tl.load(scale + own, mask=is_channel).to(tl.float32)[None, :]
        if shift is not None:
            term = tl.load(shift + own, mask=is_channel).to(tl.float32)[None, :]
        if slope is not None:
            below = tl.load(slope + own, mask=is_channel).to(tl.float32)[None, :]
        for r in tl.static_range(ROWS):
            value = sums[r]
            if scale is not None:
                value *= factor
            if shift is not None:
                value += term
            if slope is not None:
                value = tl.where(value > 0, value, value * below)
            mask = (is_strip & (top + r < out_height))[:, None] & is_channel[None, :]
            place = out + r * out_width * out_pixel + k * CHANNELS * out_plane
            tl.store(place, value.to(out.dtype.element_ty), mask=mask)
