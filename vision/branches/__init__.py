r"""Split, transform, fuse in one pass: the branches of an EESP unit at inference, as one kernel of a GPU.

.. math::
    s_b = \sum_{j \le b} D_j(x), \quad
    \mathrm{out} = \mathrm{PReLU}(\mathrm{scale} \cdot [s_1, \dots, s_K] + \mathrm{shift})

One after the other these are K convolutions, K - 1 sums, a concatenation, a normalisation and an activation, each of
which reads and writes whole maps. The kernel reads the reduced map once and writes the concatenation once; its sums
are in float32.

It is for inference only, on purpose. In training batch statistics stand between the sums and the activation, so that
no single pass exists, and a backward needs maps that this one never writes: where a gradient is asked for,
:func:`supports` says so, and its caller takes the convolutions.

It is written in Triton. Importing this needs no Triton; running it does. It has been run in Triton's interpreter and
compiled for an H200, and has run on no GPU yet: so it must be asked for (``vision.optimize(model, fused=True)``).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eru.kernels.refusals import triton_refusal

__all__ = ["pack_taps", "split_transform_fuse", "supports"]

MOST_ROWS = 7  # of a program; the maps of a picture of 224 x 224 are multiples of it, and more fill the registers
_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def pack_taps(weight: Tensor, branches: int) -> Tensor:
    """The depth-wise weights of all branches as the kernel reads them, channels last.

    Args:
        weight: (K C, 1, *taps), as ``branch_weight`` of :class:`eru.eesp.EESP`.
        branches: K.

    Returns:
        (K, taps, C).

    Raises:
        ValueError: weights that are not depth-wise, or that ``branches`` does not divide.

    Example:
        >>> pack_taps(torch.zeros(4 * 16, 1, 3, 3), branches=4).shape
        torch.Size([4, 9, 16])
    """
    if weight.dim() < 3 or weight.shape[1] != 1:
        raise ValueError(f"weight of shape {tuple(weight.shape)}: expected depth-wise weights (K C, 1, *taps)")
    if branches < 1 or weight.shape[0] % branches:
        raise ValueError(f"branches={branches}: must divide the {weight.shape[0]} channels of weight")
    return weight.reshape(branches, weight.shape[0] // branches, -1).transpose(1, 2).contiguous()


def supports(x: Tensor, taps: Tensor, *others: Tensor | None) -> str | None:
    """Why :func:`split_transform_fuse` cannot run for a map, its taps and the other tensors; ``None`` where it can.

    Example:
        >>> supports(torch.zeros(1, 16, 8, 8, dtype=torch.float64), torch.zeros(4, 9, 16))
        'x is torch.float64'
    """
    if x.dtype not in _TYPES:
        return f"x is {x.dtype}"
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in (x, taps, *others)):
        return "a gradient is asked for"
    size = math.prod(x.shape[2:]) * max(len(x), len(taps) * x.shape[1])
    if size >= 2**31:
        return f"x has shape {tuple(x.shape)}, and indices have 32 bits"
    return triton_refusal(x.device, oldest=(3, 4))


@torch.library.custom_op("eru::split_transform_fuse", mutates_args=())
def _fused(
    x: Tensor,
    taps: Tensor,
    taps_y: int,
    taps_x: int,
    dilations: Sequence[int],
    stride: int,
    causal: bool,
    fusion: bool,
    scale: Tensor | None,
    shift: Tensor | None,
    slope: Tensor | None,
) -> Tensor:
    """A map (N, C, H, W) -> (N, K C, H / stride, W / stride), in its memory format."""
    from vision.branches import kernel

    out = _output(x, len(taps), stride)
    (images, channels, height, width), (out_height, out_width) = x.shape, out.shape[2:]
    if out.numel() == 0:
        return out
    channels_last = _is_channels_last(x)
    tiles = _tiles(channels, out_height, channels_last, x.element_size())
    strips = images * math.ceil(out_height / tiles["ROWS"]) * out_width
    grid = math.ceil(strips / tiles["COLUMNS"]), math.ceil(channels / tiles["BLOCK"])
    vectors = (None if tensor is None else tensor.contiguous() for tensor in (scale, shift, slope))
    launch: Any = kernel.split_transform_fuse[grid]
    with torch.cuda.device_of(x):
        launch(
            x if channels_last else x.contiguous(),
            taps.contiguous(),
            *vectors,
            out,
            strips,
            height,
            width,
            out_height,
            out_width,
            CHANNELS=channels,
            CHANNELS_LAST=channels_last,
            DILATIONS=tuple(dilations),
            TAPS_Y=taps_y,
            TAPS_X=taps_x,
            BEFORE_Y=taps_y // 2,
            BEFORE_X=taps_x - 1 if causal else taps_x // 2,
            STRIDE=stride,
            FUSION=fusion,
            **tiles,
            enable_fp_fusion=True,  # said aloud, since Triton means to change its default, and warns of that
        )
    return out


@_fused.register_fake
def _(x, taps, taps_y, taps_x, dilations, stride, *others):  # noqa: ANN001, ANN002, ANN202
    return _output(x, len(taps), stride)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _output(x: Tensor, branches: int, stride: int) -> Tensor:
    """An empty concatenation, in the memory format of the map."""
    space = [(size - 1) // stride + 1 for size in x.shape[2:]]
    return torch.empty(
        (len(x), branches * x.shape[1], *space),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if _is_channels_last(x) else torch.contiguous_format,
    )


def _tiles(channels: int, out_height: int, channels_last: bool, element_size: int) -> dict[str, int]:
    """What a program of four warps makes: rows, columns and channels."""
    elements = 128 * (16 // element_size if channels_last else 4)  # 16 bytes a thread, where they lie side by side
    block = min(64 if channels_last else 4, 1 << (channels - 1).bit_length())
    rows = math.ceil(out_height / math.ceil(out_height / MOST_ROWS))
    return {"ROWS": rows, "COLUMNS": elements // block, "BLOCK": block, "num_warps": 4}


def split_transform_fuse(
    x: Tensor,
    taps: Tensor,
    dilations: Sequence[int],
    *,
    stride: int = 1,
    causal: bool = False,
    fusion: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    slope: Tensor | None = None,
) -> Tensor:
    """Depth-wise dilated branches of a map, their running sums, scale, shift and PReLU, in one kernel.

    The map stays in its memory format, NCHW or channels last (the faster one here); a map in neither is copied.

    Args:
        x: reduced map (N, C, L) or (N, C, H, W), in a type and a place that :func:`supports` takes.
        taps: (K, taps, C) from :func:`pack_taps`; in 2-D the taps are a square. Its type, like that of the next
            tensors, need not be that of x.
        dilations: of each branch.
        stride: of the branches.
        causal: pad the past only (1-D).
        fusion: running sums; without, each branch stands for itself.
        scale: (K C), in the order of the output's channels; ``None`` for 1.
        shift: (K C); ``None`` for 0.
        slope: (K C), or (1) for all; ``None`` for no PReLU.

    Shape:
        output (N, K C, *space / stride), rounded up, in the type of x.

    Raises:
        ValueError: shapes or options that do not fit, naming them.
    """
    ndim = x.dim() - 2
    if ndim not in (1, 2):
        raise ValueError(f"x of shape {tuple(x.shape)}: expected (N, C, L) or (N, C, H, W)")
    if taps.dim() != 3 or taps.shape[2] != x.shape[1]:
        raise ValueError(f"taps of shape {tuple(taps.shape)}: expected (K, taps, {x.shape[1]})")
    kernel_size = taps.shape[1] if ndim == 1 else math.isqrt(taps.shape[1])
    if kernel_size**ndim != taps.shape[1] or (kernel_size % 2 == 0 and not causal):
        raise ValueError(f"taps of shape {tuple(taps.shape)}: expected an odd number of taps along each axis")
    if causal and ndim != 1:
        raise ValueError(f"causal={causal}: needs a 1-D map, not one of shape {tuple(x.shape)}")
    if len(dilations) != len(taps) or min(dilations) < 1:
        raise ValueError(f"dilations={tuple(dilations)}: expected {len(taps)} numbers of at least 1")
    if stride < 1:
        raise ValueError(f"stride={stride}: must be at least 1")
    size = len(taps) * x.shape[1]
    slope = slope.expand(size) if slope is not None and slope.shape == (1,) else slope
    for name, tensor in (("scale", scale), ("shift", shift), ("slope", slope)):
        if tensor is not None and tensor.shape != (size,):
            raise ValueError(f"{name} of shape {tuple(tensor.shape)}: expected ({size},)")
    options = (kernel_size, dilations, stride, causal, fusion, scale, shift, slope)
    if ndim == 2:
        return _fused(x, taps, kernel_size, *options)
    return _fused(x.unsqueeze(2), taps, 1, *options).squeeze(2)
