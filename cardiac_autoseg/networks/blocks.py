"""The building blocks that U-Net and Attention U-Net share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


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


class Upsampling(nn.ConvTranspose2d):
    """Transposed convolution whose kernel is its stride, as a matrix product: the same numbers, since no two outputs share
    an input pixel, but a quicker backward pass on CPUs (benchmarks/results/training_step.md).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: tuple[int, int], bias: bool = True) -> None:
        super().__init__(channels_in, channels_out, stride, stride=stride, bias=bias)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        """(B, C, H, W) -> (B, C', s_y H, s_x W), in channels-last memory."""
        batch, _, height, width = x.shape
        down, across = self.kernel_size
        weight = self.weight.permute(2, 3, 1, 0).reshape(-1, self.in_channels)
        bias = None if self.bias is None else self.bias.repeat(down * across)
        pixels = functional.linear(x.permute(0, 2, 3, 1), weight, bias)
        blocks = pixels.view(batch, height, width, down, across, self.out_channels).transpose(2, 3)
        return blocks.reshape(batch, down * height, across * width, self.out_channels).permute(0, 3, 1, 2)


def initialise(network: nn.Module, slope: float = 0.01) -> None:
    """He initialisation of all convolutions for leaky ReLU (He 2015, arXiv 1502.01852)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, a=slope)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
