"""What the networks said beyond the labels: per slice, how far they agree and how sure they are. Small, whatever the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SliceStatistics:
    """Areas in mm² per frame T, slice Z and class C (background first), before postprocessing.

    An *opinion* is one network at one view (mirror image or zoom) of the slice; there are M of them. ``consensus`` is the area
    the mean of all gives to a class, (T, Z, C); ``areas`` the area each opinion gives to it, (M, T, Z, C); ``overlaps`` the
    part of ``areas`` that lies in the consensus, (M, T, Z, C). ``expected`` is the sum of the mean probability, (T, Z, C);
    ``entropy`` the sum of the entropy (nats) of the mean probabilities, (T, Z). With one opinion M is 1, and it agrees with itself.
    """

    consensus: NDArray[np.float32]
    areas: NDArray[np.float32]
    overlaps: NDArray[np.float32]
    expected: NDArray[np.float32]
    entropy: NDArray[np.float32]

    @property
    def opinions(self) -> int:
        """M."""
        return int(self.areas.shape[0])


@dataclass(frozen=True)
class Segmentation:
    """Labels (T, Z, Y, X) uint8 after postprocessing, what the networks said beside, and, if kept, the mean probabilities
    (C, T, Z, Y, X) float16 before postprocessing and temperature.
    """

    labels: NDArray[np.uint8]
    statistics: SliceStatistics
    probabilities: NDArray[np.float16] | None = None
