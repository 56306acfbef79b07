"""The building blocks that U-Net and Attention U-Net share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def convolution(channels_in: int, channels_out: int, stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    """3 x 3 convolution, batch norm, leaky ReLU.

    Batch norm, not instance norm: its statistics are fixed after training, so a network trained on patches
    around the heart sees whole slices, of any size, on the same scale.
    """
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.01, inplace=True),
    )


def stage(channels_in: int, channels_out: int, convolutions: int, stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    """``convolutions`` convolutions, the first of them with ``stride``."""
    first = convolution(channels_in, channels_out, stride)
    rest = [convolution(channels_out, channels_out) for _ in range(convolutions - 1)]
    return nn.Sequential(first, *rest)


def encoder(channels_in: int, widths: Sequence[int], strides: Sequence[tuple[int, int]], convolutions: int) -> nn.ModuleList:
    """One stage for each width; stage i halves (or keeps) the size by ``strides[i]``."""
    inputs = (channels_in, *widths[:-1])
    return nn.ModuleList(
        stage(source, width, convolutions, stride) for source, width, stride in zip(inputs, widths, strides, strict=True)
    )


def encode(stages: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The feature maps of every stage, finest first. x: (B, C, H, W)."""
    features = []
    for module in stages:
        x = module(x)
        features.append(x)
    return features


def initialise(network: nn.Module, slope: float = 0.01) -> None:
    """He initialisation of all convolutions for leaky ReLU (He 2015, arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
