"""What speaks against a cine as a whole: volumes that jump from frame to frame, and function that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.evaluation.clinical import ejection_fraction
from cardiac_autoseg.trust.flags import WORDS, Finding, listed

Floats = NDArray[np.float64]
JUMP, LV_JUMP = 0.05, 0.15
"""Departure of a frame from the mean of its neighbours as a share of the EDV: LV and myocardium both, or the LV alone. True
volumes of 200 phantom cines of 20 to 30 frames reach 0.03 against each other, 0.10 together, and 0.11 in the LV alone."""
TOGETHER = 0.12
FEWEST_FRAMES = 8
"""With fewer frames a beat, neighbouring frames differ too much."""
EF_RANGE = (5.0, 85.0)
"""%; the experts' outlines: LV 10 to 82, RV 2 to 86."""
STROKE_VOLUMES = 0.6
"""Difference over the larger; exceeded by 5 % of the experts' outlines (0.3 by 38 %: leaking valves, shunts, and the base of
the RV)."""
MYOCARDIUM = (0.88, 1.45)
"""ES over ED; the experts' outlines: 0.95 to 1.37 in the middle 96 %."""


def course_findings(
    labels: NDArray[np.uint8], spacing: tuple[float, float, float], names: Mapping[str, int], ed: int, es: int
) -> tuple[Finding, ...]:
    """Findings on a whole cine: ``labels`` (T, Z, Y, X), ``spacing`` (z, y, x) in mm, frames ``ed`` and ``es`` from 0.

    None for a single frame, nor for a cine without a heart in the two.
    """
    voxel = float(np.prod(spacing)) / 1000
    slices = {
        name: np.count_nonzero(labels == names[name], axis=(2, 3)) * voxel for name in ("LV", "MYO", "RV") if name in names
    }
    if "LV" not in slices or ed == es or not slices["LV"][ed].any():
        return ()
    volumes = {name: array.sum(axis=1) for name, array in slices.items()}
    found = [*_function(volumes, ed, es)]
    lost = [frame + 1 for frame in range(len(labels)) if not volumes["LV"][frame]]
    if lost:
        what = f"No left ventricle was found in frame{'s' * (len(lost) > 1)} {listed(lost)}. Curve and rates are affected."
        found.append(Finding("lost_frame", "warning", what, lost[0] - 1))
    if len(labels) >= FEWEST_FRAMES and "MYO" in slices:
        found += _jumps(slices, volumes, float(volumes["LV"].max()))
    return tuple(found)


def _function(volumes: Mapping[str, Floats], ed: int, es: int) -> Iterator[Finding]:
    """Ejection fraction, stroke volumes and constancy of the myocardium."""
    for name in ("LV", "RV"):
        value = ejection_fraction(float(volumes[name][ed]), float(volumes[name][es])) if name in volumes else None
        if value is not None and not EF_RANGE[0] <= value <= EF_RANGE[1]:
            what = (
                f"The ejection fraction of the {WORDS[name]} is {value:.0f} %, which is hardly possible. Check the outlines"
                f" at frames {ed + 1} (ED) and {es + 1} (ES), and whether these are the right frames."
            )
            yield Finding("ejection_fraction", "warning", what)
    if "RV" in volumes and volumes["RV"].any():
        left, right = (float(volumes[name][ed] - volumes[name][es]) for name in ("LV", "RV"))
        if abs(left - right) > STROKE_VOLUMES * max(left, right, 1e-9):
            what = (
                f"The stroke volumes differ: LV {left:.0f} mL, RV {right:.0f} mL. Without a leaking valve or a shunt they"
                " are equal. Check the outlines of the right ventricle at its base, at ED and ES."
            )
            yield Finding("stroke_volume", "warning", what)
    if "MYO" in volumes and volumes["MYO"][ed] > 0:
        ratio = float(volumes["MYO"][es] / volumes["MYO"][ed])
        if not MYOCARDIUM[0] <= ratio <= MYOCARDIUM[1]:
            what = (
                f"The myocardium has {volumes['MYO'][ed]:.0f} mL at ED (frame {ed + 1}) and {volumes['MYO'][es]:.0f} mL at"
                f" ES (frame {es + 1}), but muscle keeps its volume. Check the slices at the base and the papillary muscles."
            )
            yield Finding("myocardium", "warning", what)


def _jumps(slices: Mapping[str, Floats], volumes: Mapping[str, Floats], edv: float) -> Iterator[Finding]:
    """Frames whose volumes depart from the mean of their neighbours, one finding for each kind: the frame that does most."""
    lv, muscle = (_departures(volumes[name]) / edv for name in ("LV", "MYO"))
    smaller = np.minimum(np.abs(lv), np.abs(muscle))
    against, together = np.where(lv * muscle < 0, smaller, 0), np.where(lv * muscle > 0, smaller, 0)
    kinds = {
        "papillary": (
            against,
            JUMP,
            "and the myocardium by as much the other way: papillary muscles or trabeculae were counted differently",
        ),
        "slice_flicker": (
            together,
            TOGETHER,
            "and the myocardium with it, as if a slice at the base came and went",
        ),
        "volume_jump": (np.abs(lv), LV_JUMP, "which no heart does"),
    }
    told: set[int] = set()
    for code, (size, limit, why) in kinds.items():
        frames = [int(index) for index in np.flatnonzero(size > limit) if int(index) not in told]
        if not frames:
            continue
        told |= set(frames)
        worst = max(frames, key=lambda index: size[index])
        index = int(np.abs(_departures(slices["LV"])[worst]).argmax())
        others = f" ({len(frames)} frames do so)" if len(frames) > 1 else ""
        what = (
            f"Frame {worst + 1}: the volume of the left ventricle departs by {lv[worst] * edv:+.0f} mL from its neighbours,"
            f" {why}{others}. Look at slice {index + 1} there; curve and rates are affected."
        )
        yield Finding(code, "warning", what, worst, index)


def _departures(values: Floats) -> Floats:
    """Of each frame (first axis), how far it lies from the mean of the frames before and after; 0 for the first and last."""
    result = np.zeros_like(values)
    result[1:-1] = values[1:-1] - (values[:-2] + values[2:]) / 2
    return result
