# type: ignore -- Triton's Python has types of its own
"""The kernel: a program makes all branches of PIXELS pixels of the output and BLOCK channels, one after the other.

From branch to branch the sums stay in registers: with fusion each branch adds to those of the branches before.
"""
# ruff: noqa: ANN001, ANN201 -- parameters are Triton's and have no Python type

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["pixels", "height", "width", "out_height", "out_width"])
def split_transform_fuse(
    x,  # (N, height, width, CHANNELS)
    taps,  # (K, SIDE, SIDE, CHANNELS)
    scale,  # (K * CHANNELS), like the next two
    shift,
    slope,
    out,  # (N, out_height, out_width, K * CHANNELS)
    pixels,  # N * out_height * out_width
    height,
    width,
    out_height,
    out_width,
    CHANNELS: tl.constexpr,
    DILATIONS: tl.constexpr,
    SIDE: tl.constexpr,
    STRIDE: tl.constexpr,
    FUSION: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Branches, running sums, scale, shift and PReLU."""
    BRANCHES: tl.constexpr = len(DILATIONS)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_pixel, is_channel = pixel < pixels, channel < CHANNELS
    image = pixel // out_width // out_height
    row, column = pixel // out_width % out_height * STRIDE, pixel % out_width * STRIDE

    sums = tl.zeros((PIXELS, BLOCK), tl.float32)
    for k in tl.static_range(BRANCHES):
        if not FUSION:
            sums = tl.zeros((PIXELS, BLOCK), tl.float32)
        for i in tl.static_range(SIDE):
            for j in tl.static_range(SIDE):
                # The pixels that this tap sees; outside of the picture there are zeros.
                y = row + (i - SIDE // 2) * DILATIONS[k]
                z = column + (j - SIDE // 2) * DILATIONS[k]
                inside = is_pixel & (y >= 0) & (y < height) & (z >= 0) & (z < width)
                seen = x + (((image * height + y) * width + z) * CHANNELS)[:, None] + channel[None, :]
                value = tl.load(seen, mask=inside[:, None] & is_channel[None, :], other=0)
                tap = tl.load(taps + ((k * SIDE + i) * SIDE + j) * CHANNELS + channel, mask=is_channel, other=0)
                sums += value.to(tl.float32) * tap.to(tl.float32)[None, :]

        own = k * CHANNELS + channel  # this branch's channels in the concatenation
        factor = tl.load(scale + own, mask=is_channel, other=0).to(tl.float32)
        term = tl.load(shift + own, mask=is_channel, other=0).to(tl.float32)
        below = tl.load(slope + own, mask=is_channel, other=0).to(tl.float32)
        made = sums * factor[None, :] + term[None, :]
        made = tl.where(made > 0, made, made * below[None, :])
        place = out + (pixel * BRANCHES * CHANNELS)[:, None] + own[None, :]
        tl.store(place, made.to(out.dtype.element_ty), mask=is_pixel[:, None] & is_channel[None, :])
