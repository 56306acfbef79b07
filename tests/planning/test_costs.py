"""The closed-form counts against the real networks: parameters, operations, and what torch allocates in a training step."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cardiac_autoseg.networks.attention_unet import attention_unet as gated_unet
from cardiac_autoseg.networks.enet import ENet
from cardiac_autoseg.networks.unet import UNet
from cardiac_autoseg.training.losses import LOSSES, deep_supervision
from planning import attention_unet, enet, topology, unet

RULES: dict[str, ModuleType] = {"unet": unet, "attention_unet": attention_unet, "enet": enet}
BUILDERS: dict[str, Callable[..., nn.Module]] = {"unet": UNet, "attention_unet": gated_unet, "enet": ENet}
CLASSES = 4


@pytest.mark.parametrize("architecture", RULES)
@pytest.mark.parametrize(
    ("base", "size", "spacing"),
    [(8, (64, 64), (1.5, 1.5)), (12, (112, 128), (1.5, 1.5)), (16, (40, 96), (3.0, 1.2)), (32, (32, 48), (2.0, 2.0))],
)
def test_parameters_and_operations_are_exact(
    architecture: str, base: int, size: tuple[int, int], spacing: tuple[float, float]
) -> None:
    rule = RULES[architecture]
    patch = topology.round_up(size, rule.divisor(size, spacing))
    shape = rule.make_shape(base, patch, spacing)
    cost = rule.count(shape, patch, CLASSES)
    network = BUILDERS[architecture](shape, 1, CLASSES).train()
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 1, *patch))
    assert counter.get_total_flops() == 2 * cost.flops


@pytest.mark.parametrize(
    ("architecture", "base", "patch", "batch"),
    [
        ("unet", 8, (64, 64), 16),
        ("unet", 12, (128, 128), 4),
        ("unet", 32, (64, 64), 2),
        ("attention_unet", 8, (64, 64), 16),
        ("attention_unet", 12, (128, 128), 4),
        ("enet", 16, (64, 64), 16),
        ("enet", 32, (120, 128), 4),
    ],
)
def test_memory_is_what_torch_allocates(
    tmp_path: Path, architecture: str, base: int, patch: tuple[int, int], batch: int
) -> None:
    rule = RULES[architecture]
    shape = rule.make_shape(base, patch, (1.5, 1.5))
    measured = peak_of_training(lambda: BUILDERS[architecture](shape, 1, CLASSES), batch, patch, tmp_path / "trace.json")
    assert rule.count(shape, patch, CLASSES).memory(batch) == pytest.approx(measured, rel=0.15)


def peak_of_training(build: Callable[[], nn.Module], batch: int, patch: tuple[int, int], trace: Path) -> int:
    """Most bytes that torch's CPU allocator held during two training steps, everything they need included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        network = build().train().to(memory_format=torch.channels_last)
        average = copy.deepcopy(network)
        optimizer = torch.optim.AdamW(network.parameters())
        images = torch.randn(batch, 1, *patch)
        target = torch.randint(0, CLASSES, (batch, *patch))
        for _ in range(2):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images)
            deep_supervision(LOSSES["ce_dice"], logits, target, 0.0).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
            optimizer.step()
            with torch.no_grad():
                for old, new in zip(average.parameters(), network.parameters(), strict=True):
                    old.lerp_(new, 0.01)
    profiler.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def test_costs_add_up_over_batches() -> None:
    shape = unet.make_shape(8, (64, 64), (1.5, 1.5))
    cost = unet.count(shape, (64, 64), CLASSES)
    steps = [cost.memory(batch + 1) - cost.memory(batch) for batch in range(8, 12)]
    assert set(steps) == {cost.saved + cost.transient}


@pytest.mark.parametrize(("stages", "dilations"), [(1, (2,)), (2, (2, 4))])
def test_receptive_field_of_enet_is_the_true_one(stages: int, dilations: tuple[int, ...]) -> None:
    """Which input pixels the gradient of one encoder output reaches, with positive weights so that nothing cancels."""
    shape = enet.ENetShape((8, 16, 32), 1, stages, dilations)
    network = ENet(shape, 1, CLASSES).eval()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    size = 512
    image = torch.rand(1, 1, size, size, requires_grad=True)
    x, _ = network.down1(network.initial(image))
    x, _ = network.down2(network.stage1(x))
    x = network.stage2(x)
    x[0, :, x.shape[2] // 2, x.shape[3] // 2].sum().backward()
    assert image.grad is not None
    reached = image.grad[0, 0].ne(0).any(dim=1).nonzero()
    found = int(reached.max() - reached.min()) + 1
    assert found == enet.receptive_field(1, stages, dilations)
