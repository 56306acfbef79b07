"""What held-out networks make of scans whose truth is known, as they are and spoilt: the data that trust is fitted on.

Every validation patient of cross-validation is segmented by the networks of its fold, which never saw it, on exactly the
path that a new scan takes: a bundle of these networks, loaded, and ``Model.segment``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.bundle import Bundle, Member, save_bundle
from cardiac_autoseg.data.index import Case
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.clinical import clinical_indices, volume_ml
from cardiac_autoseg.files import atomic_path, hash_json
from cardiac_autoseg.inference.crossvalidation import Combination, Pool, over_cases
from cardiac_autoseg.inference.finished import FinishedRun
from cardiac_autoseg.inference.model import Model, load_model
from cardiac_autoseg.preprocessing.store import in_threads
from cardiac_autoseg.training.checkpoints import read_tensors
from cardiac_autoseg.trust.corruptions import CORRUPTIONS, Labelled, corrupt
from cardiac_autoseg.trust.domain import Domain, build_domain, measure
from cardiac_autoseg.trust.features import FEATURES, frame_features
from cardiac_autoseg.trust.frame_flags import frame_findings
from cardiac_autoseg.trust.intervals import Doubt, patient_doubt
from cardiac_autoseg.trust.temperature import sample_voxels

COPIES = 4
"""Spoilt copies of each scan, of one frame each and of as many kinds; kinds and frames go round."""
VOXELS = 2000
"""Drawn for the temperature from each frame."""
WEAKEST = 0.25
VERSION = 3
"""Of what is kept in a folder; to be raised when features or corruptions change."""
_ARRAYS = ("probabilities", "labels")
Indices = dict[str, float | None]


@dataclass(frozen=True)
class Frame:
    """One segmented volume: its features, the true Dice by class, and the codes of the warnings that it gets by itself."""

    case: str
    phase: str | None
    features: dict[str, float]
    dice: dict[str, float]
    warnings: tuple[str, ...] = ()

    @property
    def mean_dice(self) -> float:
        """Over the classes."""
        return float(np.mean(list(self.dice.values())))


@dataclass(frozen=True)
class Observation:
    """One scan (labelled frames of a patient), as it is (``corruption`` empty) or spoilt, as its fold's networks see it.

    ``values`` and ``truth`` are the clinical indices of the segmentation and of the labels of the original scan, ``doubt``
    belongs to them. The voxels (C, N) and (N,) for the temperature are there for scans as they are.
    """

    subject: str
    person: str
    fold: str
    corruption: str
    strength: float
    frames: tuple[Frame, ...]
    values: Indices
    truth: Indices
    doubt: Doubt
    probabilities: NDArray[np.float32] = dataclasses.field(compare=False)
    labels: NDArray[np.uint8] = dataclasses.field(compare=False)


@dataclass(frozen=True)
class Task:
    """One scan to segment: its cases (frames of one shape), and how to spoil it."""

    cases: tuple[Case, ...]
    fold: str
    corruption: str
    seed: int


def plan_tasks(pool: Pool, copies: int = COPIES) -> list[Task]:
    """All scans of the pool as they are, and ``copies`` spoilt ones of a frame of each; the same for the same data."""
    tasks: list[Task] = []
    names = list(CORRUPTIONS)
    for fold in pool.folds:
        subjects: dict[str, list[Case]] = {}
        for case in pool.cases[fold]:
            subjects.setdefault(case.subject, []).append(case)
        for subject, cases in sorted(subjects.items()):
            number = len({task.cases[0].subject for task in tasks})
            seed = int(hashlib.sha256(subject.encode()).hexdigest()[:8], 16)
            tasks.append(Task(tuple(cases), fold, "", seed))
            for copy in range(min(copies, len(names))):
                kind = names[(number * copies + copy) % len(names)]
                tasks.append(Task((cases[(number + copy) % len(cases)],), fold, kind, seed))
    return tasks


def observe(
    pool: Pool,
    combination: Combination,
    like: Bundle,
    report: Callable[[str], None],
    copies: int = COPIES,
    folder: Path | None = None,
) -> tuple[list[Observation], Domain]:
    """Segment all scans of :func:`plan_tasks` with the held-out networks of ``combination``; also the domain of all scans.

    ``like`` says how the bundle that is to be trusted works: its postprocessing, views, flips and orientation are used with
    each fold's networks. Features compare a scan with the domain of the other folds' scans. What is already in ``folder``
    by the same networks is read from there, and what is new is kept there. Scans that cannot be read are told to ``report``.
    Raises :class:`UserError` if none can, or weights cannot be read.
    """
    tasks = plan_tasks(pool, copies)
    rows = _measured(pool, report)
    found: list[Observation] = []
    for fold in pool.folds:
        own = [task for task in tasks if task.fold == fold]
        others = [row for name in pool.folds if name != fold for case in pool.cases[name] if (row := rows.get(case.id))]
        domain = build_domain(others or rows.values())
        with tempfile.TemporaryDirectory() as place:
            bundle = fold_bundle(Path(place) / "fold", pool.runs_of(combination, fold), like)
            model = load_model(Path(place) / "fold")
        how = [bundle.postprocessing, bundle.views, bundle.flips, bundle.orientation]
        key = hash_json([VERSION, FEATURES, [member.sha256 for member in bundle.members], how, domain.to_json()])

        def work(task: Task, model: Model = model, key: str = key, domain: Domain = domain) -> list[Observation]:
            return _observe_task(task, pool, model, domain, folder, key)

        for task, result in in_threads(work, own):
            if isinstance(result, UserError):
                report(f"{task.cases[0].subject} left out: {result}")
            else:
                found += result
        report(f"fold {fold}: {len(own)} scans of {len({task.cases[0].subject for task in own})} patients segmented")
    if not found:
        raise UserError("no scan of cross-validation could be segmented: the lines above say why")
    return found, build_domain(rows.values())


def _measured(pool: Pool, report: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """What every scored case looks like, by its id, for the domain."""

    def work(case: Case) -> dict[str, float]:
        scan = _load(pool, case)
        return measure(scan.array, scan.labels, scan.spacing, pool.dataset.labels)

    return over_cases(work, pool.scored, report)


def _load(pool: Pool, case: Case) -> Labelled:
    image, labels = load_image(pool.workspace, case), load_labels(pool.workspace, pool.dataset, case, pool.source)
    if image.array.shape != labels.array.shape:
        raise UserError(f"{case.id}: image and labels differ in shape: import the data set again")
    geometry = image.geometry
    lost = (0,) * len(pool.dataset.labels)
    return Labelled(image.array, geometry.spacing_zyx, labels.array, lost, direction=geometry.direction)


def fold_bundle(path: Path, runs: Sequence[FinishedRun], like: Bundle) -> Bundle:
    """The networks of one fold as a bundle at ``path``, which works as ``like`` does."""
    members = tuple(
        Member(run.key.architecture, run.key.loss, run.key.gt, run.key.fold, run.key.seed, run.plan.hash()) for run in runs
    )
    plans = {run.plan.hash(): run.plan for run in runs}
    bundle = dataclasses.replace(like, plans=plans, members=members, files={})
    return save_bundle(path, bundle, [read_tensors(run.folder / "model.safetensors")[0] for run in runs])


def _observe_task(task: Task, pool: Pool, model: Model, domain: Domain, folder: Path | None, key: str) -> list[Observation]:
    """One observation, or one for each shape where the frames of a scan differ in shape or spacing."""
    path = None if folder is None else folder / f"{task.cases[0].subject}_{task.corruption or 'clean'}.npz"
    if path is not None and (kept := _read(path, key)) is not None:
        return kept
    groups: dict[tuple[Any, ...], list[tuple[Case, Labelled]]] = {}
    for case in task.cases:
        scan = _load(pool, case)
        groups.setdefault((scan.array.shape, scan.spacing), []).append((case, scan))
    made = [_observe_scan(task, scans, pool.dataset.labels, model, domain) for scans in groups.values()]
    if path is not None:
        _write(path, key, made)
    return made


def _observe_scan(
    task: Task, scans: Sequence[tuple[Case, Labelled]], names: Mapping[str, int], model: Model, domain: Domain
) -> Observation:
    spoilt, strength = [scan for _, scan in scans], 0.0
    if task.corruption:
        number = list(CORRUPTIONS).index(task.corruption)
        strength = float(np.random.default_rng((task.seed, number)).uniform(WEAKEST, 1))
        # Every frame with the same numbers: what is wrong with a scan is wrong with all of it.
        spoilt = [corrupt(task.corruption, scan, np.random.default_rng((task.seed, number, 1)), strength) for scan in spoilt]
    spacing = spoilt[0].spacing
    images = np.stack([scan.array for scan in spoilt])
    segmentation = model.segment(
        images,
        spacing,
        keep_probabilities=not task.corruption,
        direction=spoilt[0].direction or None,
    )
    classes = sorted((name for name, value in names.items() if value), key=lambda name: names[name])
    statistics = segmentation.statistics
    frames, drawn = [], []
    for number, ((case, _), scan) in enumerate(zip(scans, spoilt, strict=True)):
        labels = segmentation.labels[number]
        features = frame_features(labels, statistics, number, scan.array, spacing, names, domain)
        found = frame_findings(segmentation.labels, statistics, images, spacing, names, {number: features}, domain)
        warnings = tuple(item.code for item in found if item.severity == "warning")
        frames.append(Frame(case.id, case.phase, features, dict(zip(classes, scan.dice(labels), strict=True)), warnings))
        if segmentation.probabilities is not None:
            rng = np.random.default_rng((task.seed, number))
            drawn.append(sample_voxels(segmentation.probabilities[:, number], scan.labels, spacing, VOXELS, rng))
    phases = {case.phase: number for number, (case, _) in enumerate(scans)}
    original = scans[0][1].spacing
    return Observation(
        subject=task.cases[0].subject,
        person=task.cases[0].person,
        fold=task.fold,
        corruption=task.corruption,
        strength=strength,
        frames=tuple(frames),
        values=_indices(list(segmentation.labels), phases, spacing, names),
        truth=_indices([scan.labels for _, scan in scans], phases, original, names),
        doubt=patient_doubt(segmentation.statistics, phases.get("ED"), phases.get("ES"), spacing[0], names),
        probabilities=np.concatenate([p for p, _ in drawn], axis=1) if drawn else np.empty((len(names), 0), np.float32),
        labels=np.concatenate([found for _, found in drawn]) if drawn else np.empty(0, np.uint8),
    )


def _indices(
    frames: Sequence[NDArray[np.uint8]],
    phases: Mapping[str | None, int],
    spacing: tuple[float, float, float],
    names: Mapping[str, int],
) -> Indices:
    volumes = {
        phase: {name: volume_ml(int((frames[number] == value).sum()), spacing) for name, value in names.items() if value}
        for phase, number in phases.items()
    }
    return clinical_indices(volumes.get("ED"), volumes.get("ES"))


def _write(path: Path, key: str, observations: Sequence[Observation]) -> None:
    arrays: dict[str, Any] = {}
    records = []
    for number, item in enumerate(observations):
        arrays |= {f"probabilities{number}": item.probabilities.astype(np.float16), f"labels{number}": item.labels}
        records.append({name: value for name, value in dataclasses.asdict(item).items() if name not in _ARRAYS})
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, record=json.dumps({"key": key, "observations": records}), **arrays)


def _read(path: Path, key: str) -> list[Observation] | None:
    """What :func:`_write` wrote, if it is there and was made with the same networks."""
    try:
        with np.load(path, allow_pickle=False) as file:
            record = json.loads(str(file["record"]))
            if record["key"] != key:
                return None
            return [
                Observation(
                    **{
                        **item,
                        "frames": tuple(Frame(**frame | {"warnings": tuple(frame["warnings"])}) for frame in item["frames"]),
                        "doubt": {name: tuple(values) for name, values in item["doubt"].items()},
                    },
                    probabilities=file[f"probabilities{number}"].astype(np.float32),
                    labels=file[f"labels{number}"],
                )
                for number, item in enumerate(record["observations"])
            ]
    except (OSError, ValueError, KeyError, TypeError):
        return None
