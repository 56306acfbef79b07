"""A simulated annotator as a label source of a workspace: its label files, and the record of what made them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cardiac_autoseg.annotation.profile import Profile
from cardiac_autoseg.annotation.simulate import simulate_case
from cardiac_autoseg.data.header import is_whole
from cardiac_autoseg.data.importers import add_source
from cardiac_autoseg.data.index import Case, Dataset, load_dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.parsing import check_name
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_file, hash_json, read_json, write_json_if_changed
from cardiac_autoseg.locks import waiting
from cardiac_autoseg.temporaries import clear_unfinished
from cardiac_autoseg.versions import require_version
from cardiac_autoseg.workspace import Workspace

FORMAT_VERSION = 1
DRAWING_VERSION = 1
"""To be raised when the same profile, person and case give other labels than before."""

DRAWN = {"LV", "MYO", "RV"}


@dataclass(frozen=True)
class Annotator:
    """Who draws: ``person`` of ``profile``, from what the source ``gt`` drew, as the source ``name``."""

    name: str
    profile: Profile
    person: int
    gt: str = "expert"

    @property
    def note(self) -> str:
        """The remark kept with the source."""
        return f"profile {self.profile.name}, person {self.person}, from {self.gt}, hash {self.hash}"

    @property
    def hash(self) -> str:
        """16 hex digits that identify how labels are drawn: profile, person and version of the drawing."""
        return hash_json([self.profile.hash, self.person, DRAWING_VERSION])


@dataclass(frozen=True)
class Simulated:
    """What was done: cases drawn now, cases that were there, and why others were left out."""

    drawn: int
    kept: int
    left_out: tuple[str, ...]


def simulate_source(workspace: Workspace, annotator: Annotator, report: Callable[[str], None]) -> Simulated:
    """Draw every case that ``annotator.gt`` annotated, and add the labels to the workspace as a source.

    The files are ``<case>.nii.gz`` in the workspace's ``annotations/<name>``, each written atomically, beside a
    ``simulation.json`` that says what made them. Files that are up to date are kept, so that a killed run goes on and a
    second run does nothing; where the profile or a label drawn from has changed, cases are drawn anew. A case that cannot be
    read is reported and left out. Raises :class:`UserError` if ``name`` belongs to other labels, if ``gt`` is unknown, if
    the data set lacks a structure that is drawn, or if no case can be drawn. Waits for another process that does the same.
    """
    check_name(annotator.name, "label source")
    with waiting(workspace.annotations(f".{annotator.name}-lock"), report):
        return _simulate(workspace, annotator, report)


def _simulate(workspace: Workspace, annotator: Annotator, report: Callable[[str], None]) -> Simulated:
    dataset = load_dataset(workspace.dataset)
    cases = dataset.labelled(annotator.gt)
    if lacking := sorted(DRAWN - dataset.labels.keys()):
        raise UserError(f"{workspace.dataset} has no class {', '.join(lacking)}: simulated persons draw LV, MYO and RV")
    folder = workspace.annotations(annotator.name)
    clear_unfinished(folder)
    record = folder / "simulation.json"
    before = _read_record(record, dataset, annotator)
    keys, left_out = _keys(workspace, dataset, annotator, cases)
    for case_id, key in before.items():
        if keys.get(case_id) != key:
            _file(folder, case_id).unlink(missing_ok=True)
    # Before the first file is drawn: whatever file is there from now on was made from what the record says.
    who = {"profile": annotator.profile.to_json(), "person": annotator.person, "gt": annotator.gt, "hash": annotator.hash}
    write_json_if_changed(record, {"format_version": FORMAT_VERSION, **who, "cases": keys})
    missing = [case for case in cases if case.id in keys and not is_whole(_file(folder, case.id))]
    for case in tqdm(missing, desc=f"simulating {annotator.name}", unit="case", disable=None, leave=False):
        try:
            _draw(workspace, dataset, annotator, case, _file(folder, case.id))
        except UserError as error:
            left_out.append(f"{case.id}: {error}")
    for message in left_out:
        report(f"LEFT OUT  {message}")
    made = [case for case in cases if _file(folder, case.id).is_file()]
    drawn = sum(case in made for case in missing)
    if not made:
        raise UserError(f"no labels of source {annotator.gt!r} could be read, so there is nothing to simulate")
    if drawn or not _is_added(workspace, dataset, annotator, made):
        checked = add_source(workspace, annotator.name, folder, report, simulated=True, note=annotator.note)
        left_out += [message for message in checked.left_out if annotator.name in message]
    return Simulated(drawn, len(made) - drawn, tuple(left_out))


def _read_record(record: Path, dataset: Dataset, annotator: Annotator) -> dict[str, str]:
    """What each file in the folder was made from; raises :class:`UserError` if the name belongs to other labels."""
    if not record.is_file():
        if annotator.name in dataset.sources or any(record.parent.glob("*")):
            raise UserError(
                f"{annotator.name!r} is a label source that this command did not make ({record} does not exist): choose"
                " another --name"
            )
        return {}
    values: Any = read_json(record, "Delete its folder to simulate afresh.")
    require_version(values, FORMAT_VERSION, record, "delete its folder to simulate afresh", absent=1)
    try:
        made_by = (values["profile"]["name"], values["person"], values["gt"])
        cases = {str(case_id): str(key) for case_id, key in values["cases"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{record} is damaged ({error!r}): delete its folder to simulate afresh") from error
    if made_by != (annotator.profile.name, annotator.person, annotator.gt):
        raise UserError(
            f"{annotator.name!r} is person {made_by[1]} of profile {made_by[0]}, from {made_by[2]}: choose another --name"
        )
    return cases


def _keys(
    workspace: Workspace, dataset: Dataset, annotator: Annotator, cases: tuple[Case, ...]
) -> tuple[dict[str, str], list[str]]:
    """What each case is drawn from, as a hash of annotator and label files; and the cases whose files cannot be read."""
    keys, left_out = {}, []
    for case in cases:
        ed = _end_diastole(dataset, annotator.gt, case)
        try:
            files = [
                hash_file(workspace.resolve(one.labels[annotator.gt].path)) + str(one.labels[annotator.gt].frame)
                for one in (case, *([ed] if ed else []))
            ]
        except OSError as error:
            left_out.append(f"{case.id}: {error.filename} cannot be read ({error.strerror})")
            continue
        keys[case.id] = hash_json([annotator.hash, case.subject, *files])
    return keys, left_out


def _end_diastole(dataset: Dataset, gt: str, case: Case) -> Case | None:
    """The ED case of an ES case's subject, if ``gt`` annotated it."""
    if case.phase != "ES":
        return None
    found = (
        other for other in dataset.cases if other.subject == case.subject and other.phase == "ED" and gt in other.labels
    )
    return next(found, None)


def _draw(workspace: Workspace, dataset: Dataset, annotator: Annotator, case: Case, path: Path) -> None:
    expert = load_labels(workspace, dataset, case, annotator.gt)
    ed = _end_diastole(dataset, annotator.gt, case)
    drawn = simulate_case(
        expert.array,
        expert.geometry.spacing_zyx,
        annotator.profile,
        annotator.person,
        case.id,
        subject=case.subject,
        ed_labels=load_labels(workspace, dataset, ed, annotator.gt).array if ed else None,
        classes=dataset.labels,
    )
    write_labels(path, drawn, expert.geometry)


def _is_added(workspace: Workspace, dataset: Dataset, annotator: Annotator, cases: list[Case]) -> bool:
    """Whether the index has all these files already."""
    source = dataset.sources.get(annotator.name)
    if source is None or (source.simulated, source.note) != (True, annotator.note):
        return False
    folder = workspace.annotations(annotator.name)
    refs = {case.id: case.labels[annotator.name].path for case in dataset.cases if annotator.name in case.labels}
    return refs == {case.id: workspace.relative(_file(folder, case.id)) for case in cases}


def _file(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}.nii.gz"
