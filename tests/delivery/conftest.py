"""A small bundle and phantom scans to deliver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cardiac_autoseg.bundle import Bundle, Member, save_bundle
from cardiac_autoseg.inference.views import VIEWS
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.phantom import Subject, make_subject
from planning.plan import Plan, UNetShape

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


@pytest.fixture(scope="session")
def subject() -> Subject:
    return make_subject(5, "NOR", size="small")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of one network with random weights: it finds no heart, but every class somewhere."""
    numbers: dict[str, Any] = dict.fromkeys(("memory_gb", "gflops", "batch", "steps", "learning_rate"), 1)
    plan = Plan(
        **numbers,
        architecture="unet",
        dataset="test",
        target="cpu",
        classes=tuple(LABELS),
        spacing=(1.5, 1.5),
        patch=(32, 32),
        divisor=(4, 4),
        clip_percentiles=(0.5, 99.5),
        augmentation="device",
        network=UNetShape((4, 8, 8), ((1, 1), (2, 2), (2, 2))),
        memory_bytes=1,
        gflops_per_slice=1.0,
        parameters=1,
        fingerprint_hash="",
        reasons={},
    )
    torch.manual_seed(0)
    network = build_network(plan)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("models") / "small"
    member = Member("unet", "ce_dice", "expert", "all", 0, "a")
    save_bundle(path, Bundle("small", LABELS, {"a": plan}, (member,), views=VIEWS), [network.state_dict()])
    return path
