"""ENet (Paszke 2016, arXiv 1606.02147): initial block and bottlenecks, its depth and dilations taken from the plan.

Departures: leaky ReLU with PReLU's initial slope, as PReLU's CPU kernels nearly halve the speed of training
(benchmarks/results/networks.md); no spatial dropout, as augmentation regularises enough on data sets of this size; the
max-unpooling of the decoder is done in float32, which CPU kernels need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cardiac_autoseg.networks.blocks import Upsampling, initialise
from planning.plan import ENetShape

SLOPE = 0.25
PROJECTION = 4
"""A bottleneck works on a quarter of its feature maps (section 3)."""


def _activated(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE, inplace=True)]


def _middle(channels: int, dilation: int, asymmetric: int) -> list[nn.Module]:
    """The convolution in the middle of a bottleneck: regular, dilated, or asymmetric (n x 1 then 1 x n)."""
    if asymmetric:
        pad = asymmetric // 2
        return [
            nn.Conv2d(channels, channels, (asymmetric, 1), padding=(pad, 0), bias=False),
            *_activated(channels),
            nn.Conv2d(channels, channels, (1, asymmetric), padding=(0, pad), bias=False),
        ]
    return [nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)]


class InitialBlock(nn.Module):
    """Strided 3 x 3 convolution beside max pooling, concatenated (figure 2a)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width - channels, 3, stride=2, padding=1, bias=False)
        self.activation = nn.Sequential(*_activated(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / 2, W / 2)."""
        convolved = self.convolution(x)
        # In the convolution's precision: under autocast a float32 half would keep the whole encoder in float32.
        pooled = functional.max_pool2d(x, 2).to(convolved.dtype)
        # Pooling one channel loses track of the memory format, and every layer after it would convert back and forth.
        both = torch.cat((convolved, pooled), dim=1).contiguous(memory_format=torch.channels_last)
        return self.activation(both)


class Bottleneck(nn.Module):
    """Regular, dilated or asymmetric bottleneck (figure 2b)."""

    def __init__(self, width: int, dilation: int = 1, asymmetric: int = 0) -> None:
        super().__init__()
        inner = width // PROJECTION
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False),
            *_activated(inner),
            *_middle(inner, dilation, asymmetric),
            *_activated(inner),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Size and width stay."""
        return self.activation(x + self.body(x))


class DownBottleneck(nn.Module):
    """Halves the size; the main branch is max pooling, its indices are kept for the decoder."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        inner = width // PROJECTION
        self.padding = width - channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 2, stride=2, bias=False),
            *_activated(inner),
            *_middle(inner, 1, 0),
            *_activated(inner),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, width, H / 2, W / 2) and the pooling indices."""
        pooled, indices = functional.max_pool2d(x, 2, return_indices=True)
        pooled = functional.pad(pooled, (0, 0, 0, 0, 0, self.padding))
        return self.activation(pooled + self.body(x)), indices


class UpBottleneck(nn.Module):
    """Doubles the size; the main branch is max-unpooling with the encoder's indices."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        inner = width // PROJECTION
        self.main = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.body = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            *_activated(inner),
            Upsampling(inner, inner, (2, 2), bias=False),
            *_activated(inner),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, 2 H, 2 W)."""
        main = self.main(x)
        unpooled = functional.max_unpool2d(main.float(), indices, [2, 2]).to(main.dtype)
        return self.activation(unpooled + self.body(x))


class ENet(nn.Module):
    """Encoder of stages 1-3, decoder of stages 4 and 5, transposed convolution to full size."""

    def __init__(self, shape: ENetShape, channels: int, classes: int) -> None:
        super().__init__()
        first, second, third = shape.widths
        self.initial = InitialBlock(channels, first)
        self.down1 = DownBottleneck(first, second)
        self.stage1 = nn.Sequential(*(Bottleneck(second) for _ in range(shape.stage1)))
        self.down2 = DownBottleneck(second, third)
        block: list[nn.Module] = []
        for _ in range(shape.stages):
            for number, dilation in enumerate(shape.dilations):
                # The paper's order: regular, dilated, asymmetric, dilated, regular, …
                block.append(Bottleneck(third, asymmetric=shape.asymmetric) if number % 2 else Bottleneck(third))
                block.append(Bottleneck(third, dilation=dilation))
        self.stage2 = nn.Sequential(*block)
        self.up4 = UpBottleneck(third, second)
        self.stage4 = nn.Sequential(Bottleneck(second), Bottleneck(second))
        self.up5 = UpBottleneck(second, first)
        self.stage5 = Bottleneck(first)
        self.head = Upsampling(first, classes, (2, 2))
        initialise(self, slope=SLOPE)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """x (B, 1, H, W) -> logits (B, C, H, W); in training mode a list of one."""
        x = self.initial(x)
        x, indices1 = self.down1(x)
        x, indices2 = self.down2(self.stage1(x))
        x = self.stage4(self.up4(self.stage2(x), indices2))
        x = self.head(self.stage5(self.up5(x, indices1)))
        return [x] if self.training else x
