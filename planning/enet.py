"""Planning rule of ENet (Paszke 2016, arXiv 1606.02147): number and dilation of its bottlenecks, and what they cost."""

from __future__ import annotations

from planning import cost
from planning.cost import Cost
from planning.plan import ENetShape
from planning.topology import Size

DIVISOR = (8, 8)
PROJECTION = 4
STAGE1 = 4
DILATIONS = (2, 4, 8, 16)
STAGES = (2, 3, 4)
"""Repetitions of the block of stage 2 that are tried: the paper has two."""
ASYMMETRIC = 5


def divisor(size: Size, spacing: tuple[float, float]) -> Size:  # noqa: ARG001
    """What an input must be a multiple of: three halvings, whatever the size."""
    return DIVISOR


def receptive_field(stage1: int, stages: int, dilations: tuple[int, ...], asymmetric: int = ASYMMETRIC) -> int:
    """Pixels along one axis that an output of the encoder depends on.

    A layer of kernel k and dilation d adds (k - 1) d j, with j the product of the strides before it (Araujo 2019,
    doi:10.23915/distill.00021).
    """
    field = 1 + 2  # initial block: 3 x 3, stride 2
    field += 1 * 2 + 2 * 4  # 2 x 2 with stride 2, then 3 x 3 at a quarter
    field += stage1 * 2 * 4
    field += 1 * 4 + 2 * 8
    for number, dilation in enumerate(dilations * stages):
        plain = asymmetric - 1 if (number % len(dilations)) % 2 else 2
        field += (plain + 2 * dilation) * 8
    return field


def _context(patch: Size) -> tuple[int, tuple[int, ...]]:
    """Repetitions and dilations that let every pixel see the whole patch, with kernels no larger than the map."""
    largest = max(patch) // DIVISOR[0]
    fitting = tuple(dilation for dilation in DILATIONS if 2 * dilation + 1 <= largest) or DILATIONS[:1]
    for stages in STAGES:
        for length in range(1, len(fitting) + 1):
            if receptive_field(STAGE1, stages, fitting[:length]) >= 2 * max(patch) - 1:
                return stages, fitting[:length]
    return STAGES[-1], fitting


def make_shape(base: int, patch: Size, spacing: tuple[float, float]) -> ENetShape:  # noqa: ARG001
    """The ENet for ``patch`` with ``base`` feature maps after the initial block."""
    stages, dilations = _context(patch)
    return ENetShape((base, 4 * base, 8 * base), STAGE1, stages, dilations, ASYMMETRIC)


def explain(shape: ENetShape, patch: Size, spacing: tuple[float, float]) -> dict[str, str]:
    """One line for each field of ``shape`` but the widths, which the budgets decide."""
    field = receptive_field(shape.stage1, shape.stages, shape.dilations, shape.asymmetric)
    coarse = (patch[0] // DIVISOR[0], patch[1] // DIVISOR[1])
    millimetres = f"{field} pixels, {field * min(spacing):.0f} mm"
    return {
        "stage1": f"{shape.stage1} regular bottlenecks, as in Paszke 2016",
        "stages": f"{shape.stages} repetitions: with these dilations every output then depends on {millimetres}, "
        f"and sees the whole patch of {patch[0]} x {patch[1]} pixels from any corner of it (twice its size is enough)",
        "dilations": f"the powers of 2 needed for that field of {millimetres}, as long as the dilated kernel fits "
        f"the map of {coarse[0]} x {coarse[1]} pixels",
        "asymmetric": f"kernel {shape.asymmetric}, as in Paszke 2016",
    }


def count(shape: ENetShape, patch: Size, classes: int, channels: int = 1) -> Cost:
    """Cost of the network on one image of ``patch`` pixels, with the loss."""
    first, second, third = shape.widths
    half, quarter, eighth = [(patch[0] // factor, patch[1] // factor) for factor in (2, 4, 8)]
    total = cost.batch_data(patch) + _initial(channels, first, half)
    total += _down(first, second, quarter)
    for _ in range(shape.stage1):
        total += _bottleneck(second, quarter, 0)
    total += _down(second, third, eighth)
    for _ in range(shape.stages):
        for number in range(len(shape.dilations)):
            total += _bottleneck(third, eighth, shape.asymmetric if number % 2 else 0)
            total += _bottleneck(third, eighth, 0)
    total += _up(third, second, eighth, quarter)
    total += _bottleneck(second, quarter, 0) + _bottleneck(second, quarter, 0)
    total += _up(second, first, quarter, half)
    total += _bottleneck(first, half, 0)
    return total + cost.upsampling(first, classes, (2, 2), patch, bias=True) + cost.loss(classes, patch)


def _initial(channels: int, width: int, size: Size) -> Cost:
    """Convolution beside pooling, concatenated, batch norm, activation."""
    total = cost.convolution(channels, width - channels, (3, 3), size)
    return total + cost.norm(width, size)


def _middle(inner: int, asymmetric: int, size: Size) -> Cost:
    if asymmetric:
        first = cost.convolution(inner, inner, (asymmetric, 1), size) + cost.norm(inner, size)
        return first + cost.convolution(inner, inner, (1, asymmetric), size)
    return cost.convolution(inner, inner, (3, 3), size)


def _bottleneck(width: int, size: Size, asymmetric: int) -> Cost:
    """Projection, middle, expansion; the activated sum with the main branch is kept."""
    inner = width // PROJECTION
    total = cost.convolution(width, inner, (1, 1), size) + cost.norm(inner, size)
    total += _middle(inner, asymmetric, size) + cost.norm(inner, size)
    return total + _expansion(inner, width, size)


def _expansion(inner: int, width: int, size: Size) -> Cost:
    """1 x 1 convolution, batch norm, sum with the main branch, activation."""
    total = cost.convolution(inner, width, (1, 1), size, saved=cost.HALF * width)
    return total + cost.norm(width, size, activation=False)


def _down(channels: int, width: int, size: Size) -> Cost:
    """Downsampling bottleneck; ``size`` is the halved one. The pooling's indices are int64."""
    inner = width // PROJECTION
    total = cost.convolution(channels, inner, (2, 2), size, saved=cost.INTEGER * channels) + cost.norm(inner, size)
    total += _middle(inner, 0, size) + cost.norm(inner, size)
    return total + _expansion(inner, width, size)


def _up(channels: int, width: int, coarse: Size, fine: Size) -> Cost:
    """Upsampling bottleneck from ``coarse`` to ``fine``; unpooling keeps indices only."""
    inner = width // PROJECTION
    total = cost.convolution(channels, width, (1, 1), coarse) + cost.norm(width, coarse, activation=False)
    total += cost.convolution(channels, inner, (1, 1), coarse) + cost.norm(inner, coarse)
    total += cost.upsampling(inner, inner, (2, 2), fine) + cost.norm(inner, fine)
    return total + _expansion(inner, width, fine)
