"""The index (``dataset.json``): which cases there are, where their images lie, and who annotated them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.locks import waiting
from cardiac_autoseg.versions import require_version
from planning.typed import build

FORMAT_VERSION = 1
LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
"""The internal classes and their order (ACDC's)."""


@dataclass(frozen=True)
class LabelRef:
    """A label file, and the 0-based frame in it where the file is 4D."""

    path: str
    frame: int | None = None


@dataclass(frozen=True)
class Case:
    """One 3D short-axis volume: one frame of one subject.

    ``image_frame`` is the 0-based frame within a 4D image file, ``frame`` the 1-based frame number the data set records;
    ``phase`` is "ED", "ES" or None. Paths are absolute, or relative to the workspace. ``twin_of`` is another subject whose
    image this is again (one person under two names, as patient076 of ACDC is patient074): folds must not part the two.
    """

    id: str
    subject: str
    image: str
    image_frame: int | None = None
    phase: str | None = None
    frame: int | None = None
    group: str | None = None
    height_cm: float | None = None
    weight_kg: float | None = None
    labels: dict[str, LabelRef] = field(default_factory=dict)
    twin_of: str | None = None

    @property
    def person(self) -> str:
        """What folds must not split: the subject, or the one it is a twin of."""
        return self.twin_of or self.subject


@dataclass(frozen=True)
class Source:
    """An annotation source: who drew the labels. ``values`` says which class each value in its files means.

    ``derived`` is the recipe of a source that is computed from others (see :mod:`cardiac_autoseg.annotation.derived`), and
    empty for labels that somebody drew.
    """

    values: dict[int, str]
    simulated: bool = False
    note: str = ""
    derived: str = ""


@dataclass(frozen=True)
class Dataset:
    """All cases and sources of a workspace. ``labels`` maps each class name to the tool's own value."""

    name: str
    cases: tuple[Case, ...]
    sources: dict[str, Source]
    labels: dict[str, int] = field(default_factory=lambda: dict(LABELS))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their values, background first."""
        return tuple(sorted(self.labels, key=lambda name: self.labels[name]))

    def labelled(self, source: str) -> tuple[Case, ...]:
        """The cases that ``source`` annotated; raises :class:`UserError` if there is no such source."""
        if source not in self.sources:
            raise UserError(
                f"there is no label source {source!r} in this workspace; it has: {', '.join(sorted(self.sources)) or 'none'}"
            )
        return tuple(case for case in self.cases if source in case.labels)


@contextmanager
def editing(path: Path, report: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Wait until no other process changes the index at ``path``, and keep others waiting meanwhile; ``report`` is told.

    What is changed must be read within: an index read before may lack a source that another process has added since. The
    lock ends with its process; it cannot be taken twice.
    """
    with waiting(path.with_name(".dataset-lock"), report):
        yield


def save_dataset(path: Path, dataset: Dataset) -> None:
    """Write ``dataset.json`` atomically; within :func:`editing` where others may write it, too."""
    write_json(path, {"format_version": FORMAT_VERSION, **dataclasses.asdict(dataset)})


def load_dataset(path: Path) -> Dataset:
    """Read ``dataset.json``; raises :class:`UserError` if it is missing, broken or of another version."""
    remedy = "Make it with cas_import, or cas_plan_and_preprocess on a data folder."
    if path.exists():
        remedy = "Restore it from a copy, or delete it and import again, with the label sources that were added to it."
    values: dict[str, Any] = read_json(path, remedy)
    if not isinstance(values, dict) or "format_version" not in values or "cases" not in values:
        raise UserError(
            f"{path} is not an index of cardiac_autoseg, and is left alone: name another folder as workspace with -w"
        )
    require_version(values, FORMAT_VERSION, path, "import again")
    try:
        dataset = build(Dataset, {name: value for name, value in values.items() if name != "format_version"})
        problem = _problem(dataset)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise UserError(f"{path} is not a valid index ({problem}): import again")
    return dataset


def _problem(dataset: Dataset) -> str:
    """What is wrong with an index whose fields are all there, in words; empty if nothing is."""
    twice = [name for name, count in Counter(case.id for case in dataset.cases).items() if count > 1]
    if twice:
        return f"the case {twice[0]!r} comes twice"
    for name in (*(case.id for case in dataset.cases), *dataset.sources):
        # Files are called like cases and sources: a path in a name could lead to any place.
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            return f"{name!r} cannot be the name of a case or source"
    for case in dataset.cases:
        if unknown := case.labels.keys() - dataset.sources.keys():
            return f"case {case.id!r} has labels of {min(unknown)!r}, which is no source of it"
        if any((frame or 0) < 0 for frame in (case.image_frame, *(ref.frame for ref in case.labels.values()))):
            return f"case {case.id!r} has a frame below 0"
    if dataset.labels.get("background") != 0 or not set(dataset.labels.values()) <= set(range(256)):
        return f"its classes have other values than 0 for background and up to 255: {dataset.labels}"
    if len(set(dataset.labels.values())) < len(dataset.labels):
        return f"two of its classes have the same value: {dataset.labels}"
    return ""
