"""A small bundle and phantom scans to deliver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cardiac_autoseg.inference.views import VIEWS
from cardiac_autoseg.phantom import Subject, make_subject


@pytest.fixture(scope="session")
def subject() -> Subject:
    return make_subject(5, "NOR", size="small")


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    """A bundle of one network with random weights: it finds no heart, but every class somewhere."""
    return make_bundle(tmp_path_factory.mktemp("models") / "small", fold="all", name="small", views=VIEWS)
