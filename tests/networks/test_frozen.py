"""Networks made ready for inference say the same as before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cardiac_autoseg.networks import frozen as module
from cardiac_autoseg.networks.attention_unet import attention_unet
from cardiac_autoseg.networks.enet import ENet
from cardiac_autoseg.networks.frozen import CONVOLUTIONS, frozen
from cardiac_autoseg.networks.unet import UNet
from planning.plan import ENetShape, UNetShape

UNET = UNetShape(widths=(4, 8, 16), strides=((1, 1), (2, 2), (2, 1)), convolutions=2, deep_supervision=1)
ENET = ENetShape(widths=(16, 32, 32), stage1=1, stages=1, dilations=(2, 4))
CPU = torch.device("cpu")


def trained(name: str) -> nn.Module:
    """A network whose batch norms have statistics far from 0 and 1, so that a mistake with them shows."""
    torch.manual_seed(0)
    network = {"unet": UNet(UNET, 1, 4), "attention_unet": attention_unet(UNET, 1, 4), "enet": ENet(ENET, 1, 4)}[name]
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in ((part.running_mean, -0.5, 0.5), (part.running_var, 0.5, 2)):
                assert values is not None
                nn.init.uniform_(values, low, high)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return network.eval()


@pytest.mark.parametrize("name", ["unet", "attention_unet", "enet"])
@torch.inference_mode()
def test_folding_changes_nothing_but_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "uses_bfloat16", lambda _: False)
    network, images = trained(name), torch.randn(2, 1, 32, 24)
    ready = frozen(copy.deepcopy(network), CPU)
    torch.testing.assert_close(ready(images), network(images), atol=1e-4, rtol=1e-4)
    norms = [part for part in ready.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == (1 if name == "enet" else 0)  # that of the initial block follows a concatenation
    assert not any(parameter.requires_grad for parameter in ready.parameters())


@pytest.mark.parametrize("name", ["unet", "attention_unet", "enet"])
@torch.inference_mode()
def test_bfloat16_is_that_of_autocast(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "uses_bfloat16", lambda _: True)
    network, images = trained(name), torch.randn(2, 1, 32, 24)
    exact = network(images).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(images).float().softmax(1)
        ready = frozen(copy.deepcopy(network), CPU)
        found = ready(images).float().softmax(1)
    types = {part.weight.dtype for part in ready.modules() if isinstance(part, CONVOLUTIONS)}
    assert types == {torch.bfloat16}
    assert (found - exact).abs().mean() < 1.5 * (rounded - exact).abs().mean() + 1e-3
