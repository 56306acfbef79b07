"""From an index to a workspace ready for training: fingerprint, plans, folds. Each step redoes only what has changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_image, load_labels, require_same_geometry
from cardiac_autoseg.data.volume import Volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json, read_json, write_cache, write_json, write_json_if_changed
from cardiac_autoseg.preprocessing.identity import FileHashes, Learned
from cardiac_autoseg.preprocessing.store import Grid, case_files
from cardiac_autoseg.threads import Spread, in_process
from cardiac_autoseg.versions import keep_newer
from cardiac_autoseg.workspace import Workspace
from planning.fingerprint import (
    FORMAT_VERSION,
    CaseMeasurement,
    Fingerprint,
    build_fingerprint,
    case_from_json,
)
from planning.measure import measure_case
from planning.plan import FORMAT_VERSION as PLAN_VERSION
from planning.plan import Plan
from planning.planner import make_plan
from planning.splits import Splits, make_splits
from planning.version import NewerFormatError

REDEAL = "correct it, or delete it to have the folds dealt anew"


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the networks may cost: a target, numbers that override its own, and how many devices share a training."""

    target: str
    memory_gb: float | None = None
    gflops: float | None = None
    devices: int = 1


def update_fingerprint(
    workspace: Workspace,
    dataset: Dataset,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    workers: int | None = None,
    spread: Spread = in_process,
) -> tuple[Fingerprint, int, dict[str, str]]:
    """Measure the cases that are new or changed, in parallel threads or as ``spread`` does it, and write
    ``fingerprint.json`` if it changes.

    Derived sources are not measured: they say nothing about the data that the labels they are made of do not.
    Returns the fingerprint, how many cases were measured, and what went wrong by case id. When a case that is in the present
    fingerprint cannot be read any more, that fingerprint is kept: a lost file must not change plans and, with them, runs.
    """
    dataset = _drawn(dataset)
    hashes = FileHashes(workspace.preprocessed / "files.json")
    results: dict[str, _Measured | UserError] = {}
    for number, (case, result) in enumerate(spread(partial(_measurer, workspace, dataset), dataset.cases, workers), 1):
        results[case.id] = result
        if not isinstance(result, UserError):
            hashes.learn(result.learned)
        progress(number, len(dataset.cases))
    hashes.save()
    found = [results[case.id] for case in dataset.cases]
    good = [result for result in found if not isinstance(result, UserError)]
    failed = {
        case.id: str(result) for case, result in zip(dataset.cases, found, strict=True) if isinstance(result, UserError)
    }
    measured = sum(result.new for result in good)
    if failed and workspace.fingerprint.is_file():
        before = load_fingerprint(workspace)
        if any(case.case_id in failed for case in before.cases):
            return before, measured, failed
    if not good:
        raise UserError("no case could be measured:\n  " + "\n  ".join(failed.values()))
    subjects = {case.id: case.subject for case in dataset.cases}
    keys = {result.measurement.case_id: result.key for result in good}
    measurements = [result.measurement for result in good]
    fingerprint = build_fingerprint(dataset.name, dataset.classes, measurements, subjects, hash_json(keys))
    keep_newer(workspace.fingerprint, FORMAT_VERSION)
    write_json_if_changed(workspace.fingerprint, fingerprint.to_json())
    return fingerprint, measured, failed


def _drawn(dataset: Dataset) -> Dataset:
    """``dataset`` without derived labels."""
    derived = {name for name, source in dataset.sources.items() if source.derived}
    cases = (
        dataclasses.replace(case, labels={name: ref for name, ref in case.labels.items() if name not in derived})
        for case in dataset.cases
    )
    return dataclasses.replace(dataset, cases=tuple(cases)) if derived else dataset


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A case's measurement, its key, whether it had to be made, and the hashes of its files."""

    measurement: CaseMeasurement
    key: str
    new: bool
    learned: Learned


def _measurer(workspace: Workspace, dataset: Dataset) -> Callable[[Case], _Measured]:
    """What measures cases, in one process."""
    return partial(_measure, workspace, dataset, FileHashes(workspace.preprocessed / "files.json"))


def _measure(workspace: Workspace, dataset: Dataset, hashes: FileHashes, case: Case) -> _Measured:
    """Measure a case, unless that is done: the result is kept in a file, so that a killed run goes on."""
    key = _measurement_key(workspace, dataset, hashes, case)
    learned = hashes.known(case_files(workspace, case))
    path = _measurement_path(workspace, case)
    if path.is_file():
        try:
            kept = read_json(path)
            if kept["key"] == key:
                measurement = case_from_json(kept["measurement"])
                if _is_of(measurement, case, dataset):
                    return _Measured(measurement, key, False, learned)
        except (UserError, KeyError, TypeError, ValueError):
            pass  # measured again below
    image = load_image(workspace, case)
    labels = {source: load_labels(workspace, dataset, case, source) for source in case.labels}
    for source, volume in labels.items():
        require_same_geometry(image, volume, case, source)
    try:
        return _Measured(measure_loaded(workspace, hashes, dataset, case, image, labels), key, True, learned)
    except ValueError as error:
        raise UserError(str(error)) from error


def _is_of(measurement: CaseMeasurement, case: Case, dataset: Dataset) -> bool:
    """Whether a measurement that was read is one of this case: a file can be edited, or belong to another."""
    volumes = all(item.volumes_ml.keys() == set(dataset.classes[1:]) for item in measurement.sources.values())
    sizes = min(*measurement.shape, *measurement.spacing) > 0
    return measurement.case_id == case.id and measurement.sources.keys() == case.labels.keys() and volumes and sizes


def measure_loaded(
    workspace: Workspace, hashes: FileHashes, dataset: Dataset, case: Case, image: Volume, labels: dict[str, Volume]
) -> CaseMeasurement:
    """Measure a case that has been read, and keep the result for :func:`update_fingerprint`; ``ValueError`` if it cannot be.

    ``labels`` are all that the case has in the index, but for those of derived sources.
    """
    arrays = {source: volume.array for source, volume in labels.items()}
    measurement = measure_case(image.array, arrays, image.geometry.spacing_zyx, case.id, dataset.classes)
    values = {"key": _measurement_key(workspace, dataset, hashes, case), "measurement": dataclasses.asdict(measurement)}
    write_cache(_measurement_path(workspace, case), values)
    return measurement


def examiner(workspace: Workspace) -> Callable[[Dataset, Case, Volume, dict[str, Volume]], Learned | None]:
    """What measures, in one process, the cases that an import has just read, so that the fingerprint need not read them
    again; it returns the hashes of a case's files.

    None where it cannot be measured: the fingerprint meets that again, and says so.
    """
    hashes = FileHashes(workspace.preprocessed / "files.json")

    def examine(dataset: Dataset, case: Case, image: Volume, labels: dict[str, Volume]) -> Learned | None:
        try:
            measure_loaded(workspace, hashes, dataset, case, image, labels)
        except (ValueError, OSError, UserError):
            return None
        return hashes.known(case_files(workspace, case))

    return examine


def _measurement_path(workspace: Workspace, case: Case) -> Path:
    return workspace.preprocessed / "measurements" / f"{case.id}.json"


def _measurement_key(workspace: Workspace, dataset: Dataset, hashes: FileHashes, case: Case) -> str:
    """What the measurement of a case depends on."""
    labels = {name: [hashes(workspace.resolve(ref.path)), ref.frame] for name, ref in sorted(case.labels.items())}
    values = {name: sorted(dataset.sources[name].values.items()) for name in labels}
    return hash_json(
        [FORMAT_VERSION, hashes(workspace.resolve(case.image)), case.image_frame, labels, values, dataset.labels]
    )


def load_fingerprint(workspace: Workspace) -> Fingerprint:
    """Read ``fingerprint.json``; raises :class:`UserError` if it is missing or of another version."""
    values = read_json(workspace.fingerprint, "Run cas_plan_and_preprocess without --only, or with --only fingerprint.")
    try:
        return Fingerprint.from_json(values)
    except ValueError as error:
        raise UserError(f"{workspace.fingerprint}: {error}") from error


def load_plans(workspace: Workspace) -> dict[str, Plan]:
    """The plans that exist, by architecture; raises :class:`UserError` if there are none or one is broken."""
    plans = {}
    for path in sorted((workspace.root / "plans").glob("*.json")):
        try:
            plans[path.stem] = Plan.from_json(read_json(path, "Plan again, with cas_plan_and_preprocess."))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    if not plans:
        raise UserError(f"{workspace.root} has no plans: run cas_plan_and_preprocess")
    return plans


def update_plans(
    workspace: Workspace, fingerprint: Fingerprint, budget: Budget, architectures: Sequence[str]
) -> tuple[dict[str, Plan], list[str]]:
    """Plan each architecture and write what changes; returns the plans and the names of those written."""
    plans, written = {}, []
    for architecture in architectures:
        try:
            plan = make_plan(fingerprint, architecture, *dataclasses.astuple(budget))
        except ValueError as error:
            raise UserError(f"{architecture}: {error}") from error
        plans[architecture] = plan
        keep_newer(workspace.plan(architecture), PLAN_VERSION)
        if write_json_if_changed(workspace.plan(architecture), plan.to_json()):
            written.append(architecture)
    return plans, written


def update_splits(workspace: Workspace, dataset: Dataset) -> tuple[Splits, bool]:
    """Deal the subjects to folds, once: splits that hold all labelled subjects are kept, even if edited by hand.

    Unless they part a person who is there under two names, who would be validated on what was trained on. Labels that were
    only computed do not count, where there are others: a bundle's labels of further scans must not deal the folds anew.
    Returns the splits and whether they were made anew.
    """
    labelled = [case for case in _drawn(dataset).cases if case.labels] or [case for case in dataset.cases if case.labels]
    persons: dict[str, set[str]] = {}
    for case in labelled:
        persons.setdefault(case.person, set()).add(case.subject)
    try:
        if workspace.splits.is_file():
            splits = Splits.from_json(read_json(workspace.splits, f"{REDEAL.capitalize()}."))
            folds_now = [set(fold) for fold in splits.validation]
            together = all(any(names <= fold for fold in folds_now) for names in persons.values())
            if together and set(splits.subjects) == set().union(*persons.values()):
                return splits, False
        if not persons:
            raise UserError(f"{workspace.root}: no case has labels: import some with cas_import --source NAME=DIR")
        dealt = make_splits({case.person: case.group for case in labelled})
        # One person under two names goes to one fold under both.
        folds = (sorted(name for person in fold for name in persons[person]) for fold in dealt.validation)
        splits = Splits(tuple(tuple(fold) for fold in folds), dealt.seed)
    except NewerFormatError as error:
        raise UserError(f"{workspace.splits}: {error}") from error
    except ValueError as error:
        raise UserError(f"{workspace.splits}: {error}: {REDEAL}") from error
    write_json(workspace.splits, splits.to_json())
    return splits, True


def shared_grid(plans: dict[str, Plan]) -> Grid:
    """The grid of the store, which all plans must share; raises :class:`UserError` if they do not."""
    grids = {Grid(plan.spacing, plan.clip_percentiles) for plan in plans.values()}
    if len(grids) != 1:
        raise UserError(
            "the plans disagree about spacing or normalisation, but share one store: plan all architectures together"
        )
    return grids.pop()
