"""Where trained bundles are found: the workspace's ``models`` folder, and those that come with the package."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

DEFAULT = "default"
"""The packaged bundle that serves where nobody has trained one."""


@dataclass(frozen=True)
class Found:
    """A bundle by name; ``packaged``: it came with the package, so it can be read only."""

    name: str
    path: Path
    packaged: bool


def packaged_folder() -> Path | None:
    """The folder of the bundles in the installed package; None if there is none, or the package runs from a zip."""
    folder = importlib.resources.files("cardiac_autoseg") / "models"
    return folder if isinstance(folder, Path) and folder.is_dir() else None


def default_bundle() -> Path | None:
    """The bundle that comes with the package, or None."""
    folder = packaged_folder()
    path = folder / DEFAULT if folder else None
    return path if path and (path / "bundle.json").is_file() else None


def list_bundles(workspace: Workspace | None) -> list[Found]:
    """The bundles of the workspace, then those of the package; a zip beside the folder of its name is a copy of it."""
    found = []
    for folder, packaged in ((workspace.root / "models" if workspace else None, False), (packaged_folder(), True)):
        if folder is None:
            continue
        folders = sorted(path for path in folder.glob("*") if (path / "bundle.json").is_file())
        zips = sorted(path for path in folder.glob("*.zip") if path.is_file() and path.with_suffix("") not in folders)
        found += [Found(path.stem if path in zips else path.name, path, packaged) for path in (*folders, *zips)]
    return found


def bundle_called(workspace: Workspace | None, given: str) -> Path:
    """The bundle ``given``: a path, or a name in the workspace or, failing that, in the package.

    Raises :class:`UserError` that lists what there is.
    """
    path = Path(given).expanduser()
    if path.is_file() or (path / "bundle.json").is_file():
        return path
    bundles = list_bundles(workspace)
    for bundle in bundles:
        if given in (bundle.name, bundle.path.name):
            return bundle.path
    names = ", ".join(dict.fromkeys(bundle.name for bundle in bundles)) or "none yet: make one with cas_ensemble"
    raise UserError(f"there is no bundle at {given}, and none of that name; there are: {names}")


def find_bundle(workspace: Workspace | None, given: str | None) -> Path:
    """The bundle ``given`` (:func:`bundle_called`); without it the workspace's only one, or "best", else the default one.

    Raises :class:`UserError` that lists what there is.
    """
    if given is not None:
        return bundle_called(workspace, given)
    own = [] if workspace is None else [bundle for bundle in list_bundles(workspace) if not bundle.packaged]
    wanted = own if len(own) == 1 else [bundle for bundle in own if bundle.name == "best"]
    if wanted:
        return wanted[0].path
    default = default_bundle()
    if own or default is None:
        names = ", ".join(bundle.name for bundle in own) or "none yet: make one with cas_ensemble"
        raise UserError(f"which model? Name one with --model; there are: {names}")
    return default
