"""The one place that knows which file of a workspace lies where."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cardiac_autoseg.errors import UserError


@dataclass(frozen=True)
class RunKey:
    """What identifies a training run. ``fold`` is "0" … "4" or "all"; ``gt`` names what it is trained on, as
    :func:`cardiac_autoseg.annotation.sources.parse_gt` reads it.
    """

    architecture: str
    gt: str
    loss: str
    fold: str
    seed: int


@dataclass(frozen=True)
class Workspace:
    """A workspace folder; every path in it is made here."""

    root: Path

    @property
    def dataset(self) -> Path:
        """The index of cases and sources."""
        return self.root / "dataset.json"

    @property
    def fingerprint(self) -> Path:
        """What the data are."""
        return self.root / "fingerprint.json"

    @property
    def splits(self) -> Path:
        """The folds, shared by all sources."""
        return self.root / "splits.json"

    def plan(self, architecture: str) -> Path:
        """The plan of one architecture."""
        return self.root / "plans" / f"{architecture}.json"

    @property
    def preprocessed(self) -> Path:
        """The preprocessed store."""
        return self.root / "preprocessed"

    def run(self, key: RunKey) -> Path:
        """The folder of one training run."""
        return self.root / "runs" / key.architecture / key.gt / key.loss / f"fold_{key.fold}" / f"seed_{key.seed}"

    def runs(self) -> Iterator[tuple[RunKey, Path]]:
        """All runs that exist, sorted by path."""
        for path in sorted((self.root / "runs").glob("*/*/*/fold_*/seed_*")):
            architecture, gt, loss, fold, seed = path.parts[-5:]
            if seed.removeprefix("seed_").isdigit():
                yield RunKey(architecture, gt, loss, fold.removeprefix("fold_"), int(seed.removeprefix("seed_"))), path

    def model(self, name: str) -> Path:
        """The bundle called ``name``."""
        return self.root / "models" / name

    def annotations(self, source: str) -> Path:
        """Where the label files of a simulated or derived source lie."""
        return self.root / "annotations" / source

    def test(self, name: str) -> Workspace:
        """An external test set: a workspace of its own, whose data no plan, fold or training ever sees."""
        return Workspace(self.root / "tests" / name)

    def tests(self) -> tuple[str, ...]:
        """Names of the external test sets."""
        return tuple(sorted(path.parent.name for path in (self.root / "tests").glob("*/dataset.json")))

    @property
    def margins(self) -> Path:
        """The equivalence margins, declared before the first look at results."""
        return self.root / "margins.json"

    @property
    def speeds(self) -> Path:
        """Measured training speeds, from which the time of runs is estimated."""
        return self.root / "speeds.json"

    @property
    def predictions(self) -> Path:
        """Where predictions go by default."""
        return self.root / "predictions"

    @property
    def reports(self) -> Path:
        """Where reports and evaluations go by default."""
        return self.root / "reports"

    def resolve(self, path: str) -> Path:
        """A path of the index: absolute, or relative to the workspace."""
        return self.root / path

    def relative(self, path: Path) -> str:
        """The form in which the index stores ``path``: relative to the workspace when inside it, else absolute."""
        absolute, root = Path(os.path.realpath(path)), Path(os.path.realpath(self.root))
        return str(absolute.relative_to(root)) if absolute.is_relative_to(root) else str(absolute)


def find_workspace(given: str | None = None) -> Workspace:
    """The workspace ``given``, else ``$CAS_WORKSPACE``, else the current folder or a parent with a ``dataset.json``.

    Raises :class:`UserError` when there is none.
    """
    named = given or os.environ.get("CAS_WORKSPACE")
    if named:
        root = Path(named).expanduser()
        if not (root / "dataset.json").is_file():
            raise UserError(f"{root} is not a workspace (it has no dataset.json): make one with cas_import")
        return Workspace(root.resolve())
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dataset.json").is_file():
            return Workspace(folder)
    raise UserError(
        f"no workspace here: neither {here} nor a parent has a dataset.json; name one with -w, or make one with cas_import"
    )
