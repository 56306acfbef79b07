"""The networks against the papers' equations, written out again with plain functions on the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cardiac_autoseg.networks.attention_unet import AttentionGate, attention_unet
from cardiac_autoseg.networks.blocks import Upsampling
from cardiac_autoseg.networks.enet import Bottleneck, DownBottleneck, ENet, UpBottleneck
from cardiac_autoseg.networks.unet import UNet
from planning.plan import ENetShape, UNetShape

UNET = UNetShape(widths=(4, 8, 16), strides=((1, 1), (2, 2), (2, 1)), convolutions=2, deep_supervision=1)
ENET = ENetShape(widths=(16, 64, 128), stage1=4, stages=2, dilations=(2, 4, 8, 16))


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"unet": UNet(UNET, 1, 4), "attention_unet": attention_unet(UNET, 1, 4), "enet": ENet(ENET, 1, 4)}


def randomise_statistics(network: nn.Module) -> None:
    """Batch norms with statistics far from 0 and 1, so that ignoring them cannot go unnoticed."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)


def norm(x: Tensor, module: Any) -> Tensor:
    scale = module.weight / torch.sqrt(module.running_var + module.eps)
    return x * scale[:, None, None] + (module.bias - module.running_mean * scale)[:, None, None]


def conv_block(x: Tensor, block: Any, stride: tuple[int, int] = (1, 1)) -> Tensor:
    for index, unit in enumerate(block):
        x = F.conv2d(x, unit[0].weight, stride=stride if index == 0 else 1, padding=1)
        x = norm(x, unit[1])
        x = torch.where(x > 0, x, 0.01 * x)
    return x


def test_unet_equals_its_definition() -> None:
    network = networks()["unet"]
    randomise_statistics(network)
    network.eval()
    x = torch.randn(2, 1, 16, 12)
    first = conv_block(x, network.encoder[0])
    second = conv_block(first, network.encoder[1], (2, 2))
    third = conv_block(second, network.encoder[2], (2, 1))
    up = F.conv_transpose2d(third, network.up[0].weight, network.up[0].bias, stride=(2, 1))
    merged = conv_block(torch.cat((up, second), 1), network.decoder[0])
    up = F.conv_transpose2d(merged, network.up[1].weight, network.up[1].bias, stride=(2, 2))
    merged = conv_block(torch.cat((up, first), 1), network.decoder[1])
    expected = F.conv2d(merged, network.heads[0].weight, network.heads[0].bias)
    torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-4)


def test_attention_gate_follows_the_equations() -> None:
    torch.manual_seed(1)
    gate = AttentionGate(skip=6, gate=10, stride=(2, 2)).eval()
    randomise_statistics(gate)
    skip, signal = torch.randn(1, 6, 8, 8), torch.randn(1, 10, 4, 4)
    blocks = skip.unfold(2, 2, 2).unfold(3, 2, 2)
    from_skip = torch.einsum("bchwij,ocij->bohw", blocks, gate.from_skip.weight)
    from_gate = torch.einsum("bchw,oc->bohw", signal, gate.from_gate.weight[:, :, 0, 0]) + gate.from_gate.bias[:, None, None]
    energy = torch.einsum("bchw,c->bhw", (from_skip + from_gate).clamp_min(0), gate.psi.weight[0, :, 0, 0]) + gate.psi.bias
    alpha = F.interpolate(1 / (1 + torch.exp(-energy))[:, None], scale_factor=2, mode="bilinear")
    expected = norm(torch.einsum("bchw,oc->bohw", skip * alpha, gate.out[0].weight[:, :, 0, 0]), gate.out[1])
    torch.testing.assert_close(gate(skip, signal), expected, atol=1e-5, rtol=1e-4)


def test_closed_gates_cut_the_skips() -> None:
    network = networks()["attention_unet"].eval()
    for gate in network.gates:
        nn.init.zeros_(gate.psi.weight)
        nn.init.constant_(gate.psi.bias, -40)
    seen: list[Tensor] = []
    network.gates[-1].register_forward_hook(lambda _, __, out: seen.append(out))
    network(torch.randn(1, 1, 16, 16))
    shift = norm(torch.zeros(1, 4, 1, 1), network.gates[-1].out[1])
    torch.testing.assert_close(seen[0], shift.expand_as(seen[0]), atol=1e-5, rtol=0)


def test_enet_bottlenecks_have_the_papers_receptive_fields() -> None:
    """What one input pixel reaches: 3 x 3 regular, dilated, and the n x n of the asymmetric pair."""

    def reach(block: nn.Module) -> tuple[int, int]:
        x = torch.randn(1, 16, 63, 63, requires_grad=True)
        out = block.eval()(x)
        out[0, :, 31, 31].sum().backward()
        touched = (x.grad.abs().sum((0, 1)) > 0).nonzero()
        height, width = (touched.max(0).values - touched.min(0).values + 1).tolist()
        return height, width

    torch.manual_seed(2)
    assert reach(Bottleneck(16)) == (3, 3)
    assert reach(Bottleneck(16, dilation=8)) == (17, 17)
    assert reach(Bottleneck(16, asymmetric=5)) == (5, 5)


def test_enet_up_undoes_the_place_of_down() -> None:
    """With the side branch silenced, up puts every maximum back where down found it."""
    down, up = DownBottleneck(8, 8).eval(), UpBottleneck(8, 8).eval()
    for module in (down.body[-1], up.body[-1]):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    with torch.no_grad():
        up.main[0].weight.copy_(torch.eye(8)[:, :, None, None])
    x = torch.rand(2, 8, 12, 12) + 0.1
    pooled, indices = down(x)
    restored = up(pooled, indices)
    kept = restored > 0
    torch.testing.assert_close(restored[kept], (x / (1 + up.main[1].eps) ** 0.5)[kept])
    assert kept.sum() == pooled.numel()


def test_enet_has_the_papers_size() -> None:
    """The paper reports 0.37 M parameters for ENet."""
    count = sum(parameter.numel() for parameter in networks()["enet"].parameters())
    assert 0.33e6 < count < 0.39e6


@pytest.mark.parametrize("name", ["unet", "attention_unet"])
def test_patch_training_fits_whole_slices(name: str) -> None:
    """In eval mode, far inside, logits do not depend on how much air surrounds the slice."""
    network = networks()[name].eval()
    randomise_statistics(network)
    small = torch.zeros(1, 1, 256, 256)
    small[..., 120:136, 120:136] = torch.rand(16, 16)
    large = F.pad(small, (64, 64, 64, 64))
    difference = network(large)[..., 64:-64, 64:-64] - network(small)
    scale = network(small).abs().mean()
    assert difference[..., 120:136, 120:136].abs().max() < 0.05 * scale


@pytest.mark.parametrize("name", ["unet", "attention_unet", "enet"])
def test_every_parameter_learns(name: str) -> None:
    network = networks()[name].train()
    outputs = network(torch.randn(2, 1, 32, 32))
    assert [tuple(out.shape[2:]) for out in outputs] == ([(32, 32), (16, 16)] if name != "enet" else [(32, 32)])
    sum((out**2).mean() for out in outputs).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("name", ["unet", "attention_unet", "enet"])
def test_same_seed_same_network(name: str) -> None:
    for first, second in zip(networks()[name].parameters(), networks()[name].parameters(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [(2, 2), (2, 1)])
def test_upsampling_is_the_transposed_convolution(stride: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    ours = Upsampling(6, 5, stride, bias=bias).double()
    peer = nn.ConvTranspose2d(6, 5, stride, stride=stride, bias=bias).double()
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 4, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    grown = [ours(x), peer(x)]
    torch.testing.assert_close(grown[0], grown[1])
    assert grown[0].is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(grown[0])
    for result in grown:
        (result * weights).sum().backward()
    for own, other in zip(ours.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
