"""How large the parts of an EESP unit are: its branches, groups, width, and dilations."""

import math


def dilations(branches: int = 4, receptive_field: int | None = None, kernel_size: int = 3) -> tuple[int, ...]:
    """The dilation of every branch, ascending.

    Branch i = 0, 1, ... sees ``(kernel_size - 1) * (i + 1) + 1`` positions. A branch that would see more than
    ``receptive_field`` falls back to dilation 1; it is not clipped to the limit.

    Args:
        branches: Number of branches K, at least 1.
        receptive_field: The limit n_d, an odd number of positions; ``None`` sets no limit.
        kernel_size: Taps of each branch, of which one must be in the middle.

    Raises:
        ValueError: ``kernel_size`` is even, or below 1.

    Source:
        ESPNetv2, section 3.3 (arXiv 1811.11431).

    Example:
        >>> dilations(4, 13), dilations(4, 7), dilations(4, 5)
        ((1, 2, 3, 4), (1, 1, 2, 3), (1, 1, 1, 2))
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size}: must be odd and at least 1")
    spans = [(kernel_size - 1) * (i + 1) + 1 for i in range(branches)]
    fits = [receptive_field is None or span <= receptive_field for span in spans]
    return tuple(sorted(i + 1 if fit else 1 for i, fit in enumerate(fits)))


def receptive_field_limit(size: int) -> int:
    """The paper's limit ``n_d = 5 + Z / 7`` for maps of Z x Z, lowered to an odd number.

    Source:
        ESPNetv2, section 3.3 (arXiv 1811.11431).

    Example:
        >>> [receptive_field_limit(size) for size in (56, 28, 14, 7)]
        [13, 9, 7, 5]
    """
    limit = 5 + size // 7
    return limit - 1 + limit % 2


def fit_sizes(
    in_channels: int | None,
    out_channels: int,
    branches: int | None,
    groups: int | None,
    names: tuple[str, str] = ("in_channels", "out_channels"),
) -> tuple[int, int, int, int]:
    """The sizes of a unit that maps any number of channels to any other.

    By default there are K = 4 branches (fewer where so few outputs would leave a group of the expand without one). The
    width d is ``out_channels / K`` rounded up to a multiple of K, so it does not depend on the input. The expand has K
    groups. The reduce has the largest common divisor of ``in_channels`` and d that is at most K.

    Args:
        in_channels: M, at least 1; ``None`` where the reduce has no groups, so that those of the branches and of the
            expand need not fit it.
        out_channels: N, at least 1.
        branches: K, which must divide N; ``None`` chooses it.
        groups: Groups of both reduce and expand, which must divide M, N and N / K; ``None`` chooses them.
        names: What errors call the two channel counts.

    Returns:
        Branches K, groups of the reduce and of the branches, groups of the expand, and width d.

    Raises:
        ValueError: A number below 1, or ``branches`` or ``groups`` that do not divide what they must.

    Example:
        >>> fit_sizes(400, 448, None, None), fit_sizes(1, 51, None, None), fit_sizes(3, 1, None, None)
        ((4, 4, 4, 112), (4, 1, 4, 16), (1, 1, 1, 1))
    """
    inside, outside = names
    given = {inside: in_channels, outside: out_channels, "branches": branches, "groups": groups}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: must be at least 1")
    if branches is None:
        # The last group of the expand has what the others leave of N; it must have at least one output.
        fitting = [k for k in (4, 3, 2, 1) if (k - 1) * math.ceil(out_channels / k) < out_channels]
        # Groups that were asked for must divide the outputs of a branch; where they never do, the error below says so.
        branches = next((k for k in fitting if groups is None or out_channels % (k * groups) == 0), fitting[0])
    elif out_channels % branches:
        raise ValueError(f"branches={branches} does not divide {outside}={out_channels}")
    grouped = in_channels or 0  # which every number divides
    if groups is None:
        width = math.ceil(out_channels / branches**2) * branches
        common = math.gcd(grouped, width)
        return branches, max(d for d in range(1, branches + 1) if common % d == 0), branches, width
    for name, value in (
        (f"{inside}={in_channels}", grouped),
        (f"{outside}={out_channels}", out_channels),
        (f"the width {outside} / branches = {out_channels} / {branches}", out_channels / branches),
    ):
        if value % groups:
            raise ValueError(f"groups={groups} does not divide {name}")
    return branches, groups, groups, out_channels // branches
