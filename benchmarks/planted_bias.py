"""A contour drawn too far out or in by a known distance, and what ``cas_annotators`` finds; writes results/planted_bias.md.

    python benchmarks/planted_bias.py

The phantom's contours are known in closed form. A planted contour is the exact parallel curve: a pixel belongs to it when
its centre lies within the wished distance of the analytic curve. No mask, area or perimeter is used in planting.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from cardiac_autoseg.annotation.agreement import Agreement, gather
from cardiac_autoseg.annotation.agreement_case import compare_case
from cardiac_autoseg.data.index import LABELS
from cardiac_autoseg.evaluation.results import CaseMeta
from cardiac_autoseg.phantom import geometry, random_acquisition, random_subject
from cardiac_autoseg.phantom.acquisition import Acquisition
from cardiac_autoseg.phantom.anatomy import GROUPS, Anatomy

RESULT = Path(__file__).parent / "results" / "planted_bias.md"
CONTOURS = ("endocardium", "epicardium", "RV")
OFFSETS_MM = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
PIXELS_MM = (1.0, 1.4, 1.8)
SUBJECTS = 5
CONTRACTIONS = {"ED": 0.0, "ES": 1.0}
ANGLES = 2048
Points = NDArray[np.float64]


def scanned(seed: int, group: str, pixel: float) -> tuple[Anatomy, Acquisition]:
    """A random heart, and its scan with square pixels of ``pixel`` mm in a field of 170 mm."""
    anatomy = random_subject(group, seed)
    scan = random_acquisition(anatomy, seed)
    side = round(170 / pixel)
    return anatomy, dataclasses.replace(
        scan, shape=(scan.shape[0], side, side), spacing=(scan.spacing[0], pixel, pixel), offset=(0.3 * pixel, 20.0)
    )


def curves(anatomy: Anatomy, z: float, contraction: float) -> dict[str, Points]:
    """The closed analytic curves (N, 2) of one slice, (y, x) mm from the LV axis; those that the slice has."""
    theta = geometry.angles(ANGLES)
    radii = geometry.radii(anatomy, np.array([z]), contraction, theta)
    endo, epi, rv = radii.endo[0], radii.epi[0], radii.rv[0]
    unit = np.stack([np.sin(theta), np.cos(theta)], axis=1)
    found = {}
    if endo.all():
        found["endocardium"] = unit * endo[:, None]
    if epi.all():
        found["epicardium"] = unit * epi[:, None]
    if (rv > 0).any():
        # Start at a gap, so that the outer arc and the septum, walked back, close the crescent.
        order = np.roll(np.arange(ANGLES), -int(np.flatnonzero(rv == 0)[0]))
        arc = order[rv[order] > 0]
        found["RV"] = np.concatenate([unit[arc] * rv[arc, None], (unit[arc] * epi[arc, None])[::-1]])
    return found


def signed_distance(curve: Points, points: Points) -> NDArray[np.float64]:
    """Distance in mm of points (N, 2) from a closed curve (M, 2), negative inside; infinite beyond 4 mm."""
    closed = np.concatenate([curve, curve[:1]])
    # Points so close on the curve that the nearest of them is as far as the curve, to 0.001 mm.
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    places = np.arange(0, along[-1], 0.1)
    dense = np.stack([np.interp(places, along, closed[:, axis]) for axis in (0, 1)], axis=1)
    distance = cKDTree(dense).query(points, distance_upper_bound=4.0)[0]
    return np.where(Polygon(closed).contains_points(points), -distance, distance)


@dataclass(frozen=True)
class Frame:
    """One heart at ED or ES in one scan: signed distance in mm of every pixel (Z, Y, X) from each analytic contour."""

    subject: int
    phase: str
    anatomy: Anatomy
    scan: Acquisition
    distances: dict[str, NDArray[np.float64]]

    @property
    def meta(self) -> CaseMeta:
        """Which case it is."""
        return CaseMeta(
            f"patient{self.subject:03d}_{self.phase}", f"patient{self.subject:03d}", self.phase, self.anatomy.group
        )


def frames(pixel: float, subjects: int = SUBJECTS) -> list[Frame]:
    """The frames of the phantom's patients in scans with square pixels of ``pixel`` mm."""
    found = []
    for subject in range(1, subjects + 1):
        anatomy, scan = scanned(subject, GROUPS[subject % len(GROUPS)], pixel)
        for phase, contraction in CONTRACTIONS.items():
            found.append(Frame(subject, phase, anatomy, scan, _distances(anatomy, scan, contraction)))
    return found


def _distances(anatomy: Anatomy, scan: Acquisition, contraction: float) -> dict[str, NDArray[np.float64]]:
    fields = {contour: np.full(scan.shape, np.inf) for contour in CONTOURS}
    rows, columns = ((np.arange(size) - (size - 1) / 2) * scan.spacing[1] for size in scan.shape[1:])
    for index, z in enumerate(scan.slice_positions()):
        tilt = geometry.axis_shift(anatomy, np.array([z]))
        shift = [float(tilt[axis][0]) + scan.offset[axis] + scan.shifts[index][axis] for axis in (0, 1)]
        y, x = np.meshgrid(rows - shift[0], columns - shift[1], indexing="ij")
        for contour, curve in curves(anatomy, float(z), contraction).items():
            near = np.hypot(y, x) < np.linalg.norm(curve, axis=1).max() + 4
            fields[contour][index][near] = signed_distance(curve, np.stack([y[near], x[near]], axis=1))
    return fields


def draw(frame: Frame, planted: Mapping[str, float]) -> NDArray[np.uint8]:
    """Labels (Z, Y, X) with each contour moved outward by ``planted`` mm; an RV that is moved is painted over the muscle."""
    labels = np.zeros(frame.scan.shape, np.uint8)
    order = [("epicardium", "MYO"), ("endocardium", "LV")]
    order.insert(2 if "RV" in planted else 0, ("RV", "RV"))
    for contour, name in order:
        labels[frame.distances[contour] < planted.get(contour, 0.0)] = LABELS[name]
    return labels


def expected_change(frame: Frame, contour: str, offset: float) -> float:
    """Change in mL of what ``contour`` encloses, by Steiner's formula on the analytic curves: P d + pi d^2 a slice."""
    total = 0.0
    for z in frame.scan.slice_positions():
        curve = curves(frame.anatomy, float(z), CONTRACTIONS[frame.phase]).get(contour)
        if curve is not None:
            perimeter = float(np.linalg.norm(np.diff(curve, axis=0, append=curve[:1]), axis=1).sum())
            total += perimeter * offset + np.pi * offset**2
    return total * frame.scan.spacing[0] / 1000


def recovered(patients: Sequence[Frame], contour: str, offset: float) -> Agreement:
    """A source whose ``contour`` is moved by ``offset`` mm, against the true labels."""
    return gather(
        "true",
        "planted",
        [
            # An RV moved by nothing, so that both paint it over the muscle.
            compare_case(draw(frame, {contour: 0.0}), draw(frame, {contour: offset}), frame.scan.spacing, frame.meta, LABELS)
            for frame in patients
        ],
    )


def row_of(agreement: Agreement, contour: str) -> dict[str, float]:
    """The summary of one contour over all levels and phases."""
    rows = agreement.summaries["contours"]
    return next(row for row in rows if (row["contour"], row["level"], row["phase"]) == (contour, "all", "all"))


def main() -> None:
    started = time.process_time()
    lines = [
        "# Planted contour offsets",
        "",
        f"`python benchmarks/planted_bias.py`: the phantom's analytic contours moved by a known distance, {SUBJECTS}"
        " patients at ED and ES; what `cas_annotators` finds as the mean signed offset in mm: area-based (the one it"
        " reports first; in brackets the SD between patients) and point-wise.",
        "",
        "| contour | pixel (mm) | planted (mm) | recovered | error | point-wise |",
        "|---|---|---|---|---|---|",
    ]
    worst = 0.0
    patients = {pixel: frames(pixel) for pixel in PIXELS_MM}
    for contour in CONTOURS:
        for pixel in PIXELS_MM:
            for offset in OFFSETS_MM:
                row = row_of(recovered(patients[pixel], contour, offset), contour)
                error = row["offset_mm_mean"] - offset
                worst = max(worst, abs(error))
                lines.append(
                    f"| {contour} | {pixel} | {offset:+.0f} | {row['offset_mm_mean']:+.3f} ({row['offset_mm_sd']:.3f}) |"
                    f" {error:+.3f} | {row['pointwise_mm_mean']:+.3f} |"
                )
                print(lines[-1], flush=True)
    lines += ["", f"Largest error: {worst:.3f} mm. Processor time: {time.process_time() - started:.0f} s."]
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[-1:]))


if __name__ == "__main__":
    main()
