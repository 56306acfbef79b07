"""Attention U-Net: additive attention gates on the skips of a U-Net (Oktay 2018, arXiv 1804.03999)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cardiac_autoseg.networks.blocks import encode, encoder, initialise, stage
from planning.plan import UNetShape


class AttentionGate(nn.Module):
    """alpha = sigmoid(psi(relu(W_x x + W_g g))), computed at the resolution of g, applied to x (equations 1 and 2).

    W_x is a strided convolution that brings x (the skip) to the size of g (the gating signal of the coarser level).
    """

    def __init__(self, skip: int, gate: int, stride: tuple[int, int]) -> None:
        super().__init__()
        inner = max(skip // 2, 4)
        self.from_skip = nn.Conv2d(skip, inner, stride, stride=stride, bias=False)
        self.from_gate = nn.Conv2d(gate, inner, 1)
        self.psi = nn.Conv2d(inner, 1, 1)
        self.out = nn.Sequential(nn.Conv2d(skip, skip, 1, bias=False), nn.BatchNorm2d(skip))

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """skip (B, C, H, W), gate (B, D, H / s, W / s) -> gated skip (B, C, H, W)."""
        alpha = torch.sigmoid(self.psi(functional.relu(self.from_skip(skip) + self.from_gate(gate))))
        alpha = functional.interpolate(alpha, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(skip * alpha)


class AttentionUNet(nn.Module):
    """U-Net whose skips pass an attention gate driven by the decoder's coarser level."""

    def __init__(self, shape: UNetShape, channels: int, classes: int) -> None:
        super().__init__()
        widths, strides = shape.widths, shape.strides
        self.encoder = encoder(channels, widths, strides, shape.convolutions)
        levels = range(len(widths) - 2, -1, -1)
        self.gates = nn.ModuleList(AttentionGate(widths[i], widths[i + 1], strides[i + 1]) for i in levels)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(widths[i + 1], widths[i], strides[i + 1], stride=strides[i + 1]) for i in levels
        )
        self.decoder = nn.ModuleList(stage(2 * widths[i], widths[i], shape.convolutions) for i in levels)
        self.heads = nn.ModuleList(nn.Conv2d(widths[i], classes, 1) for i in range(1 + shape.deep_supervision))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x (B, 1, H, W) -> logits (B, C, H, W); in training mode a list, full resolution first."""
        *skips, x = encode(self.encoder, x)
        outputs = []
        steps = zip(self.gates, self.up, self.decoder, range(len(skips) - 1, -1, -1), strict=True)
        for gate, up, merge, level in steps:
            x = merge(torch.cat((up(x), gate(skips[level], x)), dim=1))
            if level < len(self.heads) and (self.training or level == 0):
                outputs.append(self.heads[level](x))
        return outputs[::-1] if self.training else outputs[0]
