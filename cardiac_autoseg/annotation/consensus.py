"""One set of labels from several annotators of the same image: majority and STAPLE.

Both leave alone what all annotators agree on, and give no voxel a class that none of them gave it.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Labels = NDArray[np.uint8]

MARGIN_MM = 10.0
"""How far around everything that anybody drew STAPLE looks."""
MOST_ITERATIONS = 1000
"""ITK's default is four billion. It stops when no annotator's performance moves by 1e-7, on hearts after 10 to 60 steps."""
_TIE = 1e-6


def majority(drawn: Labels) -> Labels:
    """The class that most annotators gave each voxel: ``drawn`` (annotators, Z, Y, X), result (Z, Y, X).

    Of classes with equally many votes the one given by the earliest annotator wins. So of two annotators the first is always
    right, and of three who all differ, too.
    """
    votes = np.stack([(drawn == one).sum(axis=0, dtype=np.uint8) for one in drawn])
    return np.take_along_axis(drawn, votes.argmax(axis=0)[None], axis=0)[0]


def staple(drawn: Labels, classes: int, spacing: tuple[float, float, float]) -> Labels:
    """The likeliest class of each voxel by STAPLE: ``drawn`` (annotators, Z, Y, X) in 0 … ``classes`` - 1, result (Z, Y, X).

    STAPLE (Warfield, Zou and Wells, IEEE TMI 23:903, 2004; here SimpleITK's) estimates, for one structure, each
    annotator's sensitivity and specificity together with the probability that a voxel belongs to the structure. It is run
    once for every class, background included, each time as this class against all others, over the same voxels. All
    results thus are posterior probabilities of the same kind, and each voxel gets the class of the largest. (Thresholds of
    one half for each class alone leave voxels without a class, and others with two.) With one class besides background it is
    the threshold of one half, as the two runs then are complements.

    The prior is the class's share of the field of view, and everybody's specificity nears 1 where most of it is chest and
    air. So STAPLE only looks at the box around everything that anybody drew, plus ``MARGIN_MM`` (``spacing`` is (z, y, x)
    in mm), and the result does not depend on how much was scanned. Outside of the box all agree on background.

    The likelihood is the same when truth is turned inside out and all annotators are called perverse. The iteration
    begins with the mean of the annotators, hence on the side on which they are mostly right, and stays there.

    Probabilities equal to 1e-6 are ties; they fall to :func:`majority`. They occur with a structure that one of two
    annotators did not draw: there is nothing to tell who is right. One that only one of three drew is left out.
    """
    if (drawn == drawn[0]).all():
        return drawn[0].copy()
    box = _box(drawn.max(axis=0) > 0, spacing)
    part = np.ascontiguousarray(drawn[(slice(None), *box)])
    likely = np.full((classes, *part.shape[1:]), -1.0)
    for value in range(classes):
        named = part == value
        if named.any():
            # Only where somebody named the class: a consensus invents nothing.
            likely[value] = np.where(named.any(axis=0), np.nan_to_num(posterior(named)), -1.0)
    agreed = majority(part)
    tied = np.take_along_axis(likely, agreed[None].astype(np.intp), axis=0)[0] >= likely.max(axis=0) - _TIE
    result = np.zeros_like(drawn[0])
    result[box] = np.where(tied, agreed, likely.argmax(axis=0))
    return result


def posterior(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """STAPLE's probability (Z, Y, X) that a voxel belongs to the structure drawn as ``masks`` (annotators, Z, Y, X)."""
    stapler = sitk.STAPLEImageFilter()
    stapler.SetForegroundValue(1.0)
    stapler.SetMaximumIterations(MOST_ITERATIONS)
    return sitk.GetArrayFromImage(stapler.Execute([sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]))


def _box(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """The box around ``mask`` (Z, Y, X), with the margin."""
    sides = []
    for indices, step in zip(np.nonzero(mask), spacing, strict=True):
        margin = int(np.ceil(MARGIN_MM / step))
        sides.append(slice(max(int(indices.min()) - margin, 0), int(indices.max()) + margin + 1))
    return sides[0], sides[1], sides[2]
