"""Who looks on while a model runs: compilers, tracers and transformations, to whom compiled code of ours is opaque."""

import torch
from torch.autograd import forward_ad

# Before torch 2.7 an export cannot be told from a compilation, and counts as none.
is_exporting = getattr(torch.compiler, "is_exporting", bool)


def is_transformed() -> bool:
    """Whether torch.func or forward mode is at work.

    They see through a loop, but not through an operator's own backward; and under vmap no value can be looked at.

    Example:
        >>> is_transformed(), torch.func.vmap(lambda x: x + is_transformed())(torch.zeros(1))
        (False, tensor([1.]))
    """
    # torch has no public question for either. Where a later torch has renamed ours, the answer is no.
    functorch = getattr(torch._C, "_functorch", None)
    peek = getattr(functorch, "peek_interpreter_stack", lambda: None)
    return peek() is not None or getattr(forward_ad, "_current_level", -1) >= 0


def is_watched() -> bool:
    """Whether somebody must see every operator: a compiler, a transformation, a tracer, or a mode that counts them.

    Example:
        >>> from torch.utils.flop_counter import FlopCounterMode
        >>> with FlopCounterMode(display=False):
        ...     is_watched()
        True
    """
    # torch has no public question for these either.
    modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
    tracer = getattr(torch._C, "_get_tracing_state", lambda: None)
    return torch.compiler.is_compiling() or is_transformed() or modes() > 0 or tracer() is not None
