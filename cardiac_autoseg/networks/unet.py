"""U-Net (Ronneberger 2015, arXiv 1505.04597) with strided convolutions and deep supervision, as in nnU-Net."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cardiac_autoseg.networks.blocks import Upsampling, encode, encoder, initialise, stage
from planning.plan import UNetShape

Gate = Callable[[int, int, tuple[int, int]], nn.Module]
"""Makes what filters a skip, from the widths of skip and coarser level and the stride between them."""


class UNet(nn.Module):
    """Encoder, transposed-convolution decoder with skips, one head for each supervised resolution.

    With ``gate``, every skip passes a module made by it, which also sees the decoder's coarser level.
    """

    def __init__(self, shape: UNetShape, channels: int, classes: int, gate: Gate | None = None) -> None:
        super().__init__()
        widths, strides = shape.widths, shape.strides
        self.encoder = encoder(channels, widths, strides, shape.convolutions)
        levels = range(len(widths) - 2, -1, -1)
        self.gates = nn.ModuleList(gate(widths[i], widths[i + 1], strides[i + 1]) for i in levels) if gate else None
        self.up = nn.ModuleList(Upsampling(widths[i + 1], widths[i], strides[i + 1]) for i in levels)
        self.decoder = nn.ModuleList(stage(2 * widths[i], widths[i], shape.convolutions) for i in levels)
        # heads[0] is full resolution, heads[i] that of stage i.
        self.heads = nn.ModuleList(nn.Conv2d(widths[i], classes, 1) for i in range(1 + shape.deep_supervision))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x (B, 1, H, W) -> logits (B, C, H, W); in training mode a list, full resolution first."""
        *skips, x = encode(self.encoder, x)
        outputs = []
        for number, (up, merge) in enumerate(zip(self.up, self.decoder, strict=True)):
            level = len(skips) - 1 - number
            skip = skips[level] if self.gates is None else self.gates[number](skips[level], x)
            x = merge(torch.cat((up(x), skip), dim=1))
            if level < len(self.heads) and (self.training or level == 0):
                outputs.append(self.heads[level](x))
        return outputs[::-1] if self.training else outputs[0]
