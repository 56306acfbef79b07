"""Planning rule of the Attention U-Net: the U-Net's, plus what its gates cost."""

from __future__ import annotations

from planning import cost, unet
from planning.cost import Cost
from planning.plan import UNetShape
from planning.topology import Size
from planning.unet import divisor, explain, make_shape

__all__ = ["count", "divisor", "explain", "make_shape"]


def count(shape: UNetShape, patch: Size, classes: int, channels: int = 1) -> Cost:
    """Cost of the network on one image of ``patch`` pixels, with the loss on all its outputs."""
    maps = unet.sizes(shape, patch)
    total = unet.backbone(shape, patch, classes, channels)
    for level in range(len(shape.widths) - 1):
        stride = shape.strides[level + 1]
        total += _gate(shape.widths[level], shape.widths[level + 1], stride, maps[level], maps[level + 1])
    return total


def _gate(skip: int, gate: int, stride: Size, fine: Size, coarse: Size) -> Cost:
    """One attention gate: ``skip`` maps of size ``fine``, driven by ``gate`` maps of size ``coarse``."""
    inner = max(skip // 2, 4)
    total = cost.convolution(skip, inner, stride, coarse)
    total += cost.convolution(gate, inner, (1, 1), coarse, bias=True)
    # The sum after its ReLU, and the attention before and after it is upsampled.
    total += cost.convolution(inner, 1, (1, 1), coarse, bias=True, saved=cost.HALF * (inner + 1))
    total += Cost(saved=cost.HALF * cost.pixels(fine))
    # The gated skip, then batch norm, whose result only goes into the concatenation.
    total += cost.convolution(skip, skip, (1, 1), fine, saved=cost.HALF * skip)
    return total + cost.norm(skip, fine, activation=False)
