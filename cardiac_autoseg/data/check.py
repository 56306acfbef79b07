"""The check of every case at the end of an import: what is unusable is left out, what is odd is said."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.data.phases import fill_phases
from cardiac_autoseg.data.volume import TOLERANCE_MM, Geometry, Volume, geometry_difference
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

MAX_SHIFT_MM = 1.0
"""Labels farther from their image than this are left out: about a pixel. Between TOLERANCE_MM and this, a warning."""
PLAUSIBLE_PIXEL_MM = (0.3, 4.0)
PLAUSIBLE_SLICE_MM = (2.0, 25.0)
"""Short-axis cine has pixels of 0.7-2 mm and slices 5-12 mm apart; beyond twice that, the header is likely wrong."""


@dataclass(frozen=True)
class CaseCheck:
    """What was found in one case. ``case`` has only its usable labels; ``error`` is set if its image is unusable."""

    case: Case
    error: str | None = None
    label_errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    image_hash: str = ""
    label_hashes: dict[str, str] = field(default_factory=dict)
    swapped: tuple[str, ...] = ()
    """Sources in which the RV, not the LV, lies within the myocardium."""
    lv_ml: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checked:
    """The data set without what is unusable; why each was ``left_out``; and ``warnings`` on what was kept."""

    dataset: Dataset
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


def check_dataset(
    workspace: Workspace, dataset: Dataset, report: Callable[[str], None], workers: int | None = None
) -> Checked:
    """Check every case, in parallel threads with a progress bar on a terminal; one bad case never stops the others.

    Left out of the index: a case whose image cannot be read, has NaN or infinite values, is blank or has its slices along
    another axis than z; the later of two cases with the same id, or with the same image under different subjects (it would
    end up on both sides of a fold). Of a case that is kept, a label file that cannot be read, has unknown values or lies
    elsewhere than the image. An empty label file counts as not annotated. All else is a warning. Subjects with two
    labelled frames but no phases get them from the LV volume. ``report`` is told the last; the rest is in the result.
    """
    workers = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda case: check_case(workspace, dataset, case), dataset.cases)
        checks = list(tqdm(results, total=len(dataset.cases), desc="checking cases", unit="case", disable=None, leave=False))
    left_out = [f"case {check.case.id} left out: {check.error}" for check in checks if check.error]
    good = [check for check in checks if not check.error]
    good, duplicates = _without_duplicates(good)
    left_out += duplicates
    left_out += [message for check in good for message in check.label_errors]
    volumes: dict[str, dict[str, float]] = defaultdict(dict)
    for check in good:
        for source, millilitres in check.lv_ml.items():
            volumes[source][check.case.id] = millilitres
    cases, filled = fill_phases([check.case for check in good], volumes)
    if filled:
        report(f"ED and ES of {filled} subjects taken from the LV volume, as the data set does not name them")
    warnings = [message for check in good for message in check.warnings]
    warnings += _subject_warnings(cases) + _source_warnings(good)
    return Checked(dataclasses.replace(dataset, cases=tuple(cases)), tuple(left_out), tuple(warnings))


def check_case(workspace: Workspace, dataset: Dataset, case: Case) -> CaseCheck:
    """Read one case and its labels and say what is wrong; never raises."""
    try:
        image = load_image(workspace, case)
        error = _image_error(image)
        if error:
            return CaseCheck(case, f"{workspace.resolve(case.image)} {error}")
        return _check_labels(workspace, dataset, case, image)
    except UserError as error:
        return CaseCheck(case, str(error))
    except Exception as error:  # Files can be broken in ways nobody foresaw, and the others must still be checked.
        return CaseCheck(case, f"{workspace.resolve(case.image)} cannot be used ({type(error).__name__}: {error})")


def _image_error(image: Volume) -> str | None:
    """Why an image cannot be used, or None."""
    bad = int(image.array.size - np.count_nonzero(np.isfinite(image.array)))
    if bad:
        return f"has {bad} NaN or infinite values: export it again, or replace them"
    if image.array.min() == image.array.max():
        return f"is blank (all values are {image.array.min():g}): export it again"
    z, y, x = image.geometry.spacing_zyx
    # Slices lie along the coarsest axis. A stack stored along x or y would be cut into strips by 2D networks.
    if max(y, x) > 1.5 * max(z, min(y, x)):
        return f"has its slices along another axis than the third (spacing x, y, z = {x:g}, {y:g}, {z:g} mm): permute its axes"
    return None


def _spacing_warnings(geometry: Geometry) -> list[str]:
    z, y, x = geometry.spacing_zyx
    low, high = PLAUSIBLE_PIXEL_MM
    words = f"spacing x, y, z = {x:g}, {y:g}, {z:g} mm"
    if x == y == z == 1:
        return [f"{words}: it looks as if the header had lost its spacing; volumes in mL would be wrong"]
    found = []
    if not (low <= y <= high and low <= x <= high) or not PLAUSIBLE_SLICE_MM[0] <= z <= PLAUSIBLE_SLICE_MM[1]:
        found.append(f"{words}: not plausible for short-axis cine; check the header, as volumes in mL depend on it")
    elif z < min(y, x):
        found.append(f"{words}: slices are closer than pixels, which is unusual; check that the third axis is the slice axis")
    elif max(y, x) > 1.5 * min(y, x):
        found.append(f"{words}: pixels are far from square; check the header")
    return found


def _check_labels(workspace: Workspace, dataset: Dataset, case: Case, image: Volume) -> CaseCheck:
    """The check of a case whose image is sound."""
    warnings = [f"case {case.id}: {warning}" for warning in _spacing_warnings(image.geometry)]
    errors, usable, hashes, volumes, swapped = [], {}, {}, {}, []
    for source, ref in case.labels.items():
        try:
            labels = load_labels(workspace, dataset, case, source)
        except UserError as error:
            errors.append(f"labels of {case.id} by {source} left out: {error}")
            continue
        difference = geometry_difference(image.geometry, labels.geometry, TOLERANCE_MM)
        if difference and geometry_difference(image.geometry, labels.geometry, MAX_SHIFT_MM):
            errors.append(
                f"labels of {case.id} by {source} left out: {workspace.resolve(ref.path)} does not lie where the image does"
                f" ({difference}, image against labels): resample the labels onto the image, or, if their voxels do"
                " correspond, copy the image's header"
            )
            continue
        if difference:
            warnings.append(f"case {case.id}, {source}: {difference}; taken as the same place")
        if not labels.array.any():
            warnings.append(f"case {case.id}, {source}: the label file is empty; counted as not annotated")
            continue
        expected = set(dataset.sources[source].values.values()) & (set(dataset.labels) - {"background"})
        absent = [name for name in dataset.classes if name in expected and not (labels.array == dataset.labels[name]).any()]
        if absent:
            warnings.append(f"case {case.id}, {source}: no {' and no '.join(absent)} anywhere")
        usable[source] = ref
        hashes[source] = hashlib.sha256(labels.array.tobytes()).hexdigest()
        if "LV" in dataset.labels:
            lv = np.count_nonzero(labels.array == dataset.labels["LV"])
            volumes[source] = float(lv * np.prod(image.geometry.spacing) / 1000)
        if looks_swapped(labels.array, dataset.labels):
            swapped.append(source)
    return CaseCheck(
        case=dataclasses.replace(case, labels=usable),
        label_errors=tuple(errors),
        warnings=tuple(warnings),
        image_hash=hashlib.sha256(image.array.tobytes()).hexdigest(),
        label_hashes=hashes,
        swapped=tuple(swapped),
        lv_ml=volumes,
    )


def looks_swapped(labels: np.ndarray, values: dict[str, int]) -> bool:
    """Whether the RV, rather than the LV, lies within the myocardium in labels (Z, Y, X): then the two are mixed up.

    Compares which share of the in-plane border of each cavity faces the myocardium: nearly all of the LV's, about a third
    of the RV's.
    """
    if not {"LV", "RV", "MYO"} <= values.keys():
        return False
    inside = np.nonzero(labels.any(axis=0))
    if not inside[0].size:
        return False
    crop = labels[:, inside[0].min() : inside[0].max() + 1, inside[1].min() : inside[1].max() + 1]
    crop = np.pad(crop, ((0, 0), (1, 1), (1, 1)))
    faces: Counter[tuple[int, int]] = Counter()
    for a, b in ((crop[:, 1:], crop[:, :-1]), (crop[:, :, 1:], crop[:, :, :-1])):
        for one, other in ((a, b), (b, a)):
            pairs, counts = np.unique(one[one != other].astype(int) * 256 + other[one != other], return_counts=True)
            for pair, count in zip(pairs, counts, strict=True):
                faces[divmod(int(pair), 256)] += int(count)

    def enclosed(name: str) -> float:
        border = sum(count for (inner, _), count in faces.items() if inner == values[name])
        return faces[values[name], values["MYO"]] / border if border else -1.0

    rv, lv = enclosed("RV"), enclosed("LV")
    return min(rv, lv) >= 0 and rv > lv + 0.2


def _without_duplicates(checks: Sequence[CaseCheck]) -> tuple[list[CaseCheck], list[str]]:
    """The checks without repeated ids and without images that come again under another subject."""
    kept: list[CaseCheck] = []
    messages: list[str] = []
    ids: dict[str, Case] = {}
    images: dict[str, Case] = {}
    for check in checks:
        case = check.case
        # Names of files differ by case on some disks only.
        same = ids.get(case.id.lower())
        if same is not None:
            messages.append(f"case {case.id} left out: {case.image} has the same case id as {same.image}; rename one of them")
            continue
        twin = images.get(check.image_hash)
        if twin is not None and twin.subject != case.subject:
            messages.append(
                f"case {case.id} left out: {case.image} is the same image as {twin.image} of subject {twin.subject}; one person"
                " under two names would be trained on and validated on"
            )
            continue
        if twin is not None:
            warning = f"case {case.id}: same image as case {twin.id} of the same subject; is one of the frames wrong?"
            check = dataclasses.replace(check, warnings=(*check.warnings, warning))
        ids[case.id.lower()] = case
        images.setdefault(check.image_hash, case)
        kept.append(check)
    return kept, messages


def _subject_warnings(cases: Sequence[Case]) -> list[str]:
    """Oddities across the cases of a subject."""
    warnings = []
    by_subject: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_subject[case.subject].append(case)
    for subject, group in by_subject.items():
        phases = Counter(case.phase for case in group if case.phase)
        for phase, count in phases.items():
            if count > 1:
                warnings.append(f"subject {subject}: {count} cases are {phase}; volumes and EF need one; check for duplicates")
        if len(phases) == 1 and len(group) == 1:
            warnings.append(f"subject {subject}: only {next(iter(phases))}; EF needs both ED and ES")
        groups = sorted({case.group for case in group if case.group})
        if len(groups) > 1:
            warnings.append(f"subject {subject}: in several groups ({', '.join(groups)}); check the table")
    spellings: dict[str, list[str]] = defaultdict(list)
    for subject in by_subject:
        spellings[subject.lower()].append(subject)
    warnings += [f"subjects {', '.join(names)} differ in upper and lower case only; the same person?"
                 for names in spellings.values() if len(names) > 1]
    return warnings


def _source_warnings(checks: Sequence[CaseCheck]) -> list[str]:
    """Oddities of a label source as a whole."""
    warnings = []
    drawn = Counter(source for check in checks for source in check.label_hashes)
    for source, count in Counter(source for check in checks for source in check.swapped).items():
        cases = [check.case.id for check in checks if source in check.swapped]
        named = ", ".join(cases[:3]) + (", …" if count > 3 else "")
        remedy = "put a labels.json beside the files that says which value means what" if count > drawn[source] / 2 else "check them"
        warnings.append(f"source {source}: in {count} of {drawn[source]} cases ({named}) LV and RV look swapped; {remedy}")
    names = sorted(drawn)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            both = [check.label_hashes for check in checks if one in check.label_hashes and other in check.label_hashes]
            if both and all(hashes[one] == hashes[other] for hashes in both):
                warnings.append(f"sources {one} and {other} are identical in all {len(both)} cases they share; same files?")
    return warnings


def coverage_table(dataset: Dataset) -> str:
    """Cases, subjects and phases of the data set, and how much of it each source annotated, as lines of text."""
    total = len(dataset.cases)
    rows = [("", "cases", "subjects", "ED", "ES", "coverage", "")]
    for name, cases in (("images", dataset.cases), *((name, dataset.labelled(name)) for name in sorted(dataset.sources))):
        counts = (len(cases), len({case.subject for case in cases}), *(sum(c.phase == p for c in cases) for p in ("ED", "ES")))
        share = "" if name == "images" and cases is dataset.cases else f"{100 * len(cases) / max(total, 1):.0f} %"
        source = dataset.sources.get(name)
        remark = "" if source is None else "; ".join(filter(None, ("simulated" if source.simulated else "", source.note)))
        rows.append((name, *map(str, counts), share, remark))
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    lines = ["  ".join(cell.ljust(w) if i in (0, 6) else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))) for row in rows]
    groups = Counter({case.subject: case.group for case in dataset.cases if case.group}.values())
    if groups:
        lines.append("groups (subjects): " + ", ".join(f"{name} {count}" for name, count in sorted(groups.items())))
    return "\n".join(line.rstrip() for line in lines)
