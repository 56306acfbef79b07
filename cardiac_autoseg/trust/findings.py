"""Everything that speaks against the result of one scan, in words: what it is, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.inference.statistics import SliceStatistics
from cardiac_autoseg.trust.course_flags import course_findings
from cardiac_autoseg.trust.domain import Domain
from cardiac_autoseg.trust.flags import Finding
from cardiac_autoseg.trust.frame_flags import frame_findings

__all__ = ["Finding", "findings"]


def findings(
    labels: NDArray[np.uint8],
    statistics: SliceStatistics,
    image: NDArray[np.floating],
    spacing: tuple[float, float, float],
    names: Mapping[str, int],
    features: Mapping[int, Mapping[str, float]],
    *,
    domain: Domain | None = None,
    ed: int = 0,
    es: int = 0,
    heart_rate: float | None = None,
) -> tuple[Finding, ...]:
    """What is to be known about the result of one scan, warnings first; empty if nothing is.

    Parameters
    ----------
    labels, image
        (T, Z, Y, X): uint8 after postprocessing, and the raw image.
    statistics
        What the networks said of the same frames and slices.
    spacing, names
        (z, y, x) in mm; the value of each class.
    features
        By frame (from 0) what :func:`cardiac_autoseg.trust.features.frame_features` says; ED and ES are enough.
    domain
        What the training data looked like; None: no finding says that the image is unlike it.
    ed, es
        The frames of end-diastole and end-systole, from 0; equal where there is only one.
    heart_rate
        Beats per minute; None where it is not known.
    """
    found = [
        *frame_findings(labels, statistics, image, spacing, names, features, domain),
        *course_findings(labels, spacing, names, ed, es),
    ]
    if len(labels) > 1 and heart_rate is None:
        found.append(Finding("heart_rate", "note", "The heart rate is not known, so that the cardiac output is not given."))
    sentences = [replace(item, text=item.text[:1].upper() + item.text[1:]) for item in found]
    return tuple(sorted(sentences, key=lambda finding: finding.severity != "warning"))
