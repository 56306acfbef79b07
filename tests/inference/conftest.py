"""Small plans and networks for the tests of inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cardiac_autoseg.bundle import Bundle, Member
from cardiac_autoseg.networks import build_network
from planning.plan import ENetShape, Plan, UNetShape

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


def _plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "architecture": "unet",
        "dataset": "test",
        "target": "cpu",
        "memory_gb": 1.0,
        "gflops": 1.0,
        "classes": tuple(LABELS),
        "spacing": (1.5, 1.5),
        "patch": (32, 32),
        "divisor": (4, 4),
        "batch": 2,
        "steps": 1,
        "learning_rate": 0.01,
        "clip_percentiles": (0.5, 99.5),
        "augmentation": "device",
        "network": UNetShape((4, 8, 8), ((1, 1), (2, 2), (2, 2))),
        "memory_bytes": 1,
        "gflops_per_slice": 1.0,
        "parameters": 1,
        "fingerprint_hash": "",
        "reasons": {},
    }
    return Plan(**(values | changes))


def _network(plan: Plan, seed: int) -> nn.Module:
    """A network with random weights, all drawn wide enough that every class wins somewhere."""
    torch.manual_seed(seed)
    network = build_network(plan).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    return _plan


@pytest.fixture
def make_network() -> Callable[[Plan, int], nn.Module]:
    return _network


@pytest.fixture
def enet_plan() -> Plan:
    return _plan(architecture="enet", divisor=(8, 8), network=ENetShape((8, 8, 8), 1, 1, (2,)), spacing=(1.2, 1.8))


@pytest.fixture
def ensemble(enet_plan: Plan) -> tuple[Bundle, list[nn.Module]]:
    """A bundle of two U-Nets and an ENet on different grids, and their networks."""
    plans = {"a": _plan(), "b": enet_plan}
    members = tuple(
        Member(plans[key].architecture, "ce_dice", "expert", str(fold), 0, key) for fold, key in enumerate(("a", "a", "b"))
    )
    networks = [_network(plans[member.plan], seed) for seed, member in enumerate(members)]
    known = {"training_data": {"cases": 3}, "scores": {"mean_dice": 0.5}, "licence": "CC0"}
    bundle = Bundle("test", LABELS, plans, members, "largest_heart", flips=(0, 1), **known)
    return bundle, networks
