"""Trained networks made ready for inference: fewer operations, in the precision that the device is fastest in."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cardiac_autoseg.device import uses_bfloat16

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def frozen(network: nn.Module, device: torch.device) -> nn.Module:
    """``network``, trained and in eval mode, changed in place for inference on ``device``: the same but for rounding.

    Batch norm is folded into the convolution before it, and where bfloat16 is fast convolutions are in bfloat16, so that
    weights are converted once and not in every pass. Batch norm that follows no convolution stays, in float32.
    """
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _fold(module)
    if uses_bfloat16(device):
        for module in network.modules():
            if isinstance(module, CONVOLUTIONS):
                module.to(torch.bfloat16)
    return network.requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fold(layers: nn.Sequential) -> None:
    for number in range(1, len(layers)):
        convolution, norm = layers[number - 1], layers[number]
        if isinstance(convolution, CONVOLUTIONS) and isinstance(norm, nn.BatchNorm2d):
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            layers[number - 1] = fuse_conv_bn_eval(convolution, norm, transposed)
            layers[number] = nn.Identity()
