"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def acdc() -> Path:
    """The real ACDC training folder; tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("CAS_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
    folder = root / "acdc" / "training"
    if not folder.is_dir():
        pytest.skip("ACDC data not here (set CAS_TEST_DATA)")
    return folder
