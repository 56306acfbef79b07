"""Planning rule of the U-Net: depth from the patch, outputs from the spacing, and what it all costs."""

from __future__ import annotations

from planning import cost, topology
from planning.cost import Cost
from planning.plan import UNetShape
from planning.topology import Size

CONVOLUTIONS = 2
WIDEST = 512
SUPERVISED_MM = 8.0
"""Coarsest pixel at which an output is supervised: about the thickness of the myocardium, coarser ones would not show it."""


def divisor(size: Size, spacing: tuple[float, float]) -> Size:
    """What an input must be a multiple of, when the network is planned for about ``size`` pixels of ``spacing`` mm."""
    return topology.divisor(topology.pooling(size, spacing))


def make_shape(base: int, patch: Size, spacing: tuple[float, float]) -> UNetShape:
    """The U-Net for a ``patch`` of pixels of ``spacing`` mm, with ``base`` feature maps at full resolution."""
    strides = topology.pooling(patch, spacing)
    return UNetShape(
        widths=tuple(min(WIDEST, base * 2**level) for level in range(len(strides) + 1)),
        strides=((1, 1), *strides),
        convolutions=CONVOLUTIONS,
        deep_supervision=_outputs(strides, spacing),
    )


def _outputs(strides: tuple[Size, ...], spacing: tuple[float, float]) -> int:
    """Number of decoder stages, besides the finest, with pixels of at most ``SUPERVISED_MM``."""
    levels = range(1, len(strides))
    factors = [topology.divisor(strides[:level]) for level in levels]
    return sum(max(spacing[0] * y, spacing[1] * x) <= SUPERVISED_MM for y, x in factors)


def explain(shape: UNetShape, patch: Size, spacing: tuple[float, float]) -> dict[str, str]:
    """One line for each field of ``shape`` but the widths, which the budgets decide."""
    factor = topology.divisor(shape.strides)
    poolings = len(shape.strides) - 1
    return {
        "strides": (
            f"{poolings} poolings take {patch[0]} x {patch[1]} pixels to {patch[0] // factor[0]} x {patch[1] // factor[1]}: "
            f"an axis is halved while it keeps {topology.SMALLEST_MAP} pixels and is within a factor 2 of the finer one"
        ),
        "convolutions": f"{shape.convolutions} a stage, as in Ronneberger 2015 and nnU-Net",
        "deep_supervision": (
            f"{shape.deep_supervision} further outputs: stages with pixels of at most {SUPERVISED_MM:g} mm "
            f"(full resolution has {spacing[0]:g} x {spacing[1]:g} mm); coarser ones do not show the myocardium"
        ),
    }


def count(shape: UNetShape, patch: Size, classes: int, channels: int = 1) -> Cost:
    """Cost of the network on one image of ``patch`` pixels, with the loss on all its outputs."""
    return backbone(shape, patch, classes, channels)


def sizes(shape: UNetShape, patch: Size) -> list[Size]:
    """Size (y, x) of the maps of every stage, full resolution first."""
    factors = [topology.divisor(shape.strides[: level + 1]) for level in range(len(shape.strides))]
    return [(patch[0] // y, patch[1] // x) for y, x in factors]


def backbone(shape: UNetShape, patch: Size, classes: int, channels: int) -> Cost:
    """Encoder, decoder, heads and loss: what U-Net and Attention U-Net have in common."""
    maps, widths = sizes(shape, patch), shape.widths
    total = cost.batch_data(patch)
    for level, (width, size) in enumerate(zip(widths, maps, strict=True)):
        total += _stage(widths[level - 1] if level else channels, width, shape.convolutions, size)
    for level in range(len(widths) - 1):
        width, size = widths[level], maps[level]
        total += cost.upsampling(widths[level + 1], width, shape.strides[level + 1], size, bias=True)
        # The concatenation of upsampled map and skip is a new tensor, which the next convolution keeps.
        total += Cost(saved=2 * width * cost.HALF * cost.pixels(size))
        total += _stage(2 * width, width, shape.convolutions, size)
    for level in range(shape.deep_supervision + 1):
        total += cost.convolution(widths[level], classes, (1, 1), maps[level], bias=True)
        total += cost.loss(classes, maps[level])
    return total + cost.gradients(widths[0], classes, patch)


def _stage(inputs: int, width: int, convolutions: int, size: Size) -> Cost:
    """``convolutions`` times convolution, batch norm, activation."""
    total = Cost()
    for number in range(convolutions):
        total += cost.convolution(width if number else inputs, width, (3, 3), size) + cost.norm(width, size)
    return total
