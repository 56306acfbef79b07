"""A scan as it comes from the scanner: one short-axis stack, its frames in time, and what is known of the person."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.data.geometry import Geometry


@dataclass(frozen=True)
class Person:
    """What is known of the person scanned, and no name: ``sex`` is "M", "F" or None; age in years."""

    sex: str | None = None
    age: float | None = None
    height_cm: float | None = None
    weight_kg: float | None = None


@dataclass(frozen=True)
class Instance:
    """Where one slice of one frame came from: a DICOM file, its SOP instance UID, and the 1-based frame within it."""

    path: Path
    uid: str
    frame: int = 1


class Fetched:
    """A temporary folder, which is removed with the last that holds this."""

    def __init__(self, folder: Path) -> None:
        self.remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


@dataclass(frozen=True)
class Scan:
    """One short-axis scan.

    ``array`` is (T, Z, Y, X), T = 1 for a single volume, slices in the order of their positions along the normal.
    ``times_ms`` are the T times after the R wave, ``heart_rate`` beats per minute, where the scanner says so.
    ``instances`` is [frame][slice] for DICOM, where a slice that was filled in has None, and empty for NIfTI. ``notes`` say
    in words what had to be decided in reading, for the page of the case. ``fetched``: the folder to which the files of
    ``instances`` were fetched from afar; it goes with the scan.
    """

    name: str
    source: Path
    array: NDArray[np.float32]
    geometry: Geometry
    times_ms: tuple[float, ...] | None = None
    heart_rate: float | None = None
    person: Person = field(default_factory=Person)
    instances: tuple[tuple[Instance | None, ...], ...] = ()
    description: str = ""
    notes: tuple[str, ...] = ()
    fetched: Fetched | None = field(default=None, repr=False, compare=False)

    @property
    def frames(self) -> int:
        """Number of frames T."""
        return int(self.array.shape[0])
