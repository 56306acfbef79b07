"""The check of every case at the end of an import: what is unusable is left out, what is odd is said."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from cardiac_autoseg.data.check_across import CaseCheck, join_twins, source_warnings, subject_warnings, without_duplicates
from cardiac_autoseg.data.geometry import MAX_SHIFT_MM, TOLERANCE_MM, Geometry, geometry_difference
from cardiac_autoseg.data.header import verify
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.data.phases import fill_phases
from cardiac_autoseg.data.volume import Volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.threads import Spread, available_cores, in_process
from cardiac_autoseg.workspace import Workspace

PLAUSIBLE_PIXEL_MM = (0.3, 4.0)
PLAUSIBLE_SLICE_MM = (2.0, 25.0)
"""Short-axis cine has pixels of 0.7-2 mm and slices 5-12 mm apart; beyond twice that, the header is likely wrong."""


@dataclass(frozen=True)
class Checked:
    """The data set without what is unusable; why each was ``left_out``; and ``warnings`` on what was kept."""

    dataset: Dataset
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    examined: dict[str, Any] = field(default_factory=dict)
    """What :data:`Examine` returned for each case, by its id, where it returned anything."""


Examine = Callable[[Dataset, Case, Volume, dict[str, Volume]], Any]
"""Called with a usable case, its image and the labels by source, so that what else must see them need not read them."""


def check_dataset(
    workspace: Workspace,
    dataset: Dataset,
    report: Callable[[str], None],
    workers: int | None = None,
    examiner: Callable[[], Examine] | None = None,
    spread: Spread = in_process,
) -> Checked:
    """Check every case, in parallel threads or as ``spread`` does it, with a progress bar on a terminal; one bad case never
    stops the others.

    Left out of the index: a case whose image cannot be read, has NaN or infinite values, is blank or has its slices along
    another axis than z; the later of two cases with the same id. Of a case that is kept: a label file that cannot be read,
    has unknown values or lies elsewhere than the image. An empty label file counts as not annotated. All else is a warning;
    the same image under two subjects also sets ``Case.twin_of``. Subjects with two labelled frames but no phases get them
    from the LV volume, which ``report`` is told; the rest is in the result. What ``examiner`` makes, once a process, is
    called where a case is read.
    """
    make, items = partial(_checker, workspace, dataset, examiner), list(enumerate(dataset.cases))
    results = spread(make, items, workers or min(16, available_cores()))
    bar = tqdm(results, total=len(items), desc="checking cases", unit="case", disable=None, leave=False)
    # By their number, as two cases may have one name.
    found = {number: CaseCheck(case, str(it)) if isinstance(it, UserError) else it for (number, case), it in bar}
    checks = [found[number] for number, _ in items]
    left_out = [f"case {check.case.id} left out: {check.error}" for check in checks if check.error]
    good = [check for check in checks if not check.error]
    good, duplicates = without_duplicates(good)
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
    warnings += subject_warnings(cases) + source_warnings(good)
    examined = {check.case.id: check.examined for check in good if check.examined is not None}
    return Checked(dataclasses.replace(dataset, cases=tuple(join_twins(cases))), tuple(left_out), tuple(warnings), examined)


def _checker(
    workspace: Workspace, dataset: Dataset, examiner: Callable[[], Examine] | None
) -> Callable[[tuple[int, Case]], CaseCheck]:
    """What checks numbered cases, in one process."""
    examine = examiner() if examiner else None
    return lambda item: check_case(workspace, dataset, item[1], examine)


def check_case(workspace: Workspace, dataset: Dataset, case: Case, examine: Examine | None = None) -> CaseCheck:
    """Read one case and its labels and say what is wrong; never raises. ``examine`` gets it where it is usable."""
    try:
        image = load_image(workspace, case)
        path = workspace.resolve(case.image)
        error = _image_error(image, verify(path).not_finite)
        if error:
            return CaseCheck(case, f"{path} {error}")
        check, labels = _check_labels(workspace, dataset, case, image)
        return dataclasses.replace(check, examined=examine(dataset, check.case, image, labels)) if examine else check
    except UserError as error:
        return CaseCheck(case, str(error))
    except Exception as error:  # Files can be broken in ways nobody foresaw, and the others must still be checked.
        return CaseCheck(case, f"{workspace.resolve(case.image)} cannot be used ({type(error).__name__}: {error})")


def _image_error(image: Volume, not_finite: int) -> str | None:
    """Why an image cannot be used, or None."""
    if not_finite:
        return f"has {not_finite} NaN or infinite values: export it again, or replace them"
    if image.array.min() == image.array.max():
        return f"is blank (all values are {image.array.min():g}): export it again"
    z, y, x = image.geometry.spacing_zyx
    # Slices lie along the coarsest axis. A stack stored along x or y would be cut into strips by 2D networks.
    if max(y, x) > 1.5 * max(z, min(y, x)):
        return (
            f"has its slices along another axis than the third (spacing x, y, z = {x:g}, {y:g}, {z:g} mm): permute its axes"
        )
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
        found.append(
            f"{words}: slices are closer than pixels, which is unusual; check that the third axis is the slice axis"
        )
    elif max(y, x) > 1.5 * min(y, x):
        found.append(f"{words}: pixels are far from square; check the header")
    return found


def _check_labels(workspace: Workspace, dataset: Dataset, case: Case, image: Volume) -> tuple[CaseCheck, dict[str, Volume]]:
    """The check of a case whose image is sound, and its usable labels."""
    read: dict[str, Volume] = {}
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
        usable[source], read[source] = ref, labels
        hashes[source] = _hash(labels.array)
        if "LV" in dataset.labels:
            lv = np.count_nonzero(labels.array == dataset.labels["LV"])
            volumes[source] = float(lv * np.prod(image.geometry.spacing) / 1000)
        if looks_swapped(labels.array, dataset.labels):
            swapped.append(source)
    check = CaseCheck(
        case=dataclasses.replace(case, labels=usable),
        label_errors=tuple(errors),
        warnings=tuple(warnings),
        image_hash=_hash(image.array),
        label_hashes=hashes,
        swapped=tuple(swapped),
        lv_ml=volumes,
    )
    return check, read


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


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
