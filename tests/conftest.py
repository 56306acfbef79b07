"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

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
