"""Attention U-Net: additive attention gates on the skips of a U-Net (Oktay 2018, arXiv 1804.03999)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cardiac_autoseg.networks.unet import UNet
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
        gated: Tensor = self.out(skip * alpha)
        if gated.requires_grad:
            # The gradient comes from a concatenation, as a part of a larger tensor, on which batch norm is slow.
            gated.register_hook(_dense)
        return gated


def _dense(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


def attention_unet(shape: UNetShape, channels: int, classes: int) -> UNet:
    """U-Net whose skips pass an attention gate driven by the decoder's coarser level."""
    return UNet(shape, channels, classes, AttentionGate)
