r"""The branches of an EESP unit at inference as one kernel of a GPU: split, transform and fuse in a single pass.

.. math::
    s_b = \sum_{j \le b} D_j(x), \quad
    \mathrm{out} = \mathrm{PReLU}(\mathrm{scale} \cdot [s_1, \dots, s_K] + \mathrm{shift})

Run one after the other these are K convolutions, K - 1 sums, a concatenation, a normalisation and an activation, each
of which reads and writes whole maps. The kernel reads the reduced map and writes the concatenation once; its sums are
in float32. It is for inference only: in training, batch statistics stand between the sums and the activation.

The kernel is written in Triton, which is imported when it first runs. It is tested in Triton's interpreter and was
never run on a GPU, so it must be asked for: ``vision.optimize(model, fused=True)``.
"""

import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

__all__ = ["pack_taps", "refusal", "split_transform_fuse"]


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernel cannot run, or ``None`` where it can: on NVIDIA GPUs from Ampere on, or in Triton's interpreter.

    Args:
        device: Where the maps are.
        dtype: Their type.

    Example:
        >>> refusal(torch.device("cuda"), torch.float64)
        'maps are torch.float64'
    """
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"maps are {dtype}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    import triton
    import triton.language as tl

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 4):
        return f"Triton {triton.__version__} is older than 3.4"
    # With TRITON_INTERPRET=1 in the environment, functions are no kernels and run on the CPU.
    if device.type == "cpu" and not isinstance(tl.cdiv, triton.JITFunction):
        return None
    if device.type != "cuda" or torch.version.hip is not None:
        return f"{device} is no NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    return None if capability >= (8, 0) else f"compute capability {capability[0]}.{capability[1]} is below 8.0"


def pack_taps(weight: Tensor, branches: int) -> Tensor:
    """The depth-wise weights of all branches as the kernel reads them, channels last.

    Args:
        weight: (K C, 1, side, side), as ``branch_weight`` of :class:`eru.EESP`.
        branches: K.

    Returns:
        (K, side, side, C).

    Example:
        >>> pack_taps(torch.zeros(4 * 16, 1, 3, 3), branches=4).shape
        torch.Size([4, 3, 3, 16])
    """
    return weight.squeeze(1).unflatten(0, (branches, -1)).movedim(1, -1).contiguous()


# As an operator of torch's library it is a single node for torch.compile and torch.export.
@torch.library.custom_op("eru::split_transform_fuse", mutates_args=())
def split_transform_fuse(
    x: Tensor,
    taps: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    dilations: list[int],
    stride: int,
    fusion: bool,
) -> Tensor:
    """Depth-wise dilated branches of a map, their running sums, scale, shift and PReLU, in one kernel.

    Args:
        x: Reduced map (N, C, H, W); copied unless it is channels last in memory.
        taps: (K, side, side, C) from :func:`pack_taps`, with an odd side. Its type, like that of the next tensors,
            need not be that of x.
        scale: (K C), in the order of the output's channels.
        shift: (K C).
        slope: (K C), of the PReLU.
        dilations: Dilation of each branch.
        stride: Stride of the branches.
        fusion: Whether to add each branch to those before it.

    Shape:
        output (N, K C, H / stride, W / stride), rounded up, channels last, in the type of x.

    Raises:
        ValueError: Shapes that do not fit, or a map too large for indices of 32 bits.
    """
    from vision.branches import kernel

    branches, side, _, channels = taps.shape
    if x.dim() != 4 or x.shape[1] != channels or len(dilations) != branches:
        raise ValueError(f"x {tuple(x.shape)}, taps {tuple(taps.shape)} and dilations {dilations} do not fit")
    for name, vector in (("scale", scale), ("shift", shift), ("slope", slope)):
        if vector.shape != (branches * channels,):
            raise ValueError(f"{name} of shape {tuple(vector.shape)}: expected ({branches * channels},)")
    out = _output(x, taps, scale, shift, slope, dilations, stride, fusion)
    if max(x.numel(), out.numel()) >= 2**31:
        raise ValueError(f"x of shape {tuple(x.shape)}: its indices do not fit 32 bits")
    if out.numel() == 0:
        return out
    (height, width), (out_height, out_width) = x.shape[2:], out.shape[2:]
    pixels = len(x) * out_height * out_width
    block = min(64, 1 << (channels - 1).bit_length())  # channels of a program, a power of two
    tile = 1024 // block  # pixels of a program: its sums then take 8 registers of each of 128 threads
    grid = (math.ceil(pixels / tile), math.ceil(channels / block))
    launch: Any = kernel.split_transform_fuse[grid]
    with torch.cuda.device_of(x):
        launch(
            x.contiguous(memory_format=torch.channels_last),
            taps.contiguous(),
            scale.contiguous(),
            shift.contiguous(),
            slope.contiguous(),
            out,
            pixels,
            height,
            width,
            out_height,
            out_width,
            CHANNELS=channels,
            DILATIONS=tuple(dilations),
            SIDE=side,
            STRIDE=stride,
            FUSION=fusion,
            PIXELS=tile,
            BLOCK=block,
            enable_fp_fusion=True,  # said aloud, since Triton means to change its default, and warns of that
        )
    return out


@split_transform_fuse.register_fake
def _output(
    x: Tensor,
    taps: Tensor,
    scale: Tensor,
    shift: Tensor,
    slope: Tensor,
    dilations: list[int],
    stride: int,
    fusion: bool,
) -> Tensor:
    """An empty concatenation."""
    space = [(size - 1) // stride + 1 for size in x.shape[2:]]
    out = x.new_empty((len(x), len(taps) * x.shape[1], *space))
    return out.contiguous(memory_format=torch.channels_last)
