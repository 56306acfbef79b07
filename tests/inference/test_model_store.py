"""Bundles are found in the workspace and in the package, also in one installed from a wheel."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.inference import model_store
from cardiac_autoseg.inference.model_store import bundle_called, default_bundle, list_bundles
from cardiac_autoseg.workspace import Workspace


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an installed package would be."""
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path / "package")
    return tmp_path / "package"


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".zip"):
            path.write_bytes(b"")
        else:
            path.mkdir()
            (path / "bundle.json").write_text("{}")


def test_workspace_comes_first(package: Path, tmp_path: Path) -> None:
    assert default_bundle() is None and list_bundles(None) == []
    make(package, "default", "small")
    make(tmp_path / "work", "best", "best.zip", "old.zip", "small")
    (tmp_path / "work" / "models" / "empty").mkdir()
    workspace = Workspace(tmp_path / "work")
    found = [(item.name, item.packaged) for item in list_bundles(workspace)]
    assert found == [("best", False), ("small", False), ("old", False), ("default", True), ("small", True)]
    assert default_bundle() == package / "models" / "default"
    assert bundle_called(workspace, "small") == tmp_path / "work" / "models" / "small"
    assert bundle_called(None, "small") == package / "models" / "small"
    assert bundle_called(workspace, "old.zip") == bundle_called(workspace, "old")
    assert bundle_called(None, str(tmp_path / "work" / "models" / "old.zip")).name == "old.zip"
    with pytest.raises(UserError, match="there are: best, small, old, default"):
        bundle_called(workspace, "nothing")


def test_folder_of_the_name_beside_is_no_bundle(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(package, "default")
    (tmp_path / "here" / "default").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert bundle_called(None, "default") == package / "models" / "default"


def test_package_in_a_zip_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("models/default/bundle.json", "{}")
    monkeypatch.setattr(importlib.resources, "files", lambda _: zipfile.Path(tmp_path / "p.zip"))
    assert model_store.packaged_folder() is None and default_bundle() is None


def test_setup_packs_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    import setuptools

    seen: dict[str, dict[str, list[str]]] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **values: seen.update(values))
    runpy.run_path(str(Path(__file__).parents[2] / "setup.py"))
    assert "models/*/*" in seen["package_data"]["cardiac_autoseg"]
