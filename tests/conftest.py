"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported: the tests' networks are too small for two threads, which on a busy machine wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def acdc() -> Path:
    """The real ACDC training folder; tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("CAS_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    folder = root / "acdc" / "training"
    if not folder.is_dir():
        pytest.skip("ACDC data not here (set CAS_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """Writes a bundle of one tiny U-Net with random weights, drawn wide enough that every class wins somewhere.

    ``make_bundle(path, seed=0, fold="0", **fields)``: the fields are those of :class:`cardiac_autoseg.bundle.Bundle`.
    """
    import torch

    from cardiac_autoseg.bundle import Bundle, Member, save_bundle
    from cardiac_autoseg.data.index import LABELS
    from cardiac_autoseg.networks import build_network
    from planning.plan import Plan, UNetShape

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

    def make(path: Path, seed: int = 0, fold: str = "0", **fields: Any) -> Path:
        torch.manual_seed(seed)
        network = build_network(plan)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        member = Member("unet", "ce_dice", "expert", fold, 0, "a")
        bundle = Bundle(labels=LABELS, plans={"a": plan}, members=(member,), **{"name": "test", **fields})
        save_bundle(path, bundle, [network.state_dict()])
        return path

    return make


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small phantom patients in ACDC's layout."""
    from cardiac_autoseg.phantom.subject import write_acdc

    folder = tmp_path_factory.mktemp("phantom") / "training"
    write_acdc(folder, 10, 0, cine_4d=False, size="small")
    return folder


@pytest.fixture(scope="session")
def prepared_workspace(tmp_path_factory: pytest.TempPathFactory, phantom_data: Path) -> Path:
    """A workspace of the phantom, planned and preprocessed with a tiny budget. Tests that write into it take a copy."""
    from cardiac_autoseg.cli import plan_and_preprocess

    folder = tmp_path_factory.mktemp("prepared")
    arguments = [str(phantom_data), "-w", str(folder), "--target", "cpu", "--gflops", "0.5"]
    assert plan_and_preprocess.main(arguments) == 0
    return folder


@pytest.fixture
def workspace_copy(prepared_workspace: Path, tmp_path: Path) -> Path:
    """A copy of the prepared workspace to train in."""
    return Path(shutil.copytree(prepared_workspace, tmp_path / "workspace"))
