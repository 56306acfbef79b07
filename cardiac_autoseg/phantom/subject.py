"""Whole phantom subjects, and data sets of them in ACDC's layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import write_json, write_text
from cardiac_autoseg.phantom.acquisition import Acquisition, Size, random_acquisition
from cardiac_autoseg.phantom.anatomy import GROUPS, Anatomy
from cardiac_autoseg.phantom.groups import random_subject
from cardiac_autoseg.phantom.render import render
from cardiac_autoseg.phantom.truth import Truth, truth


@dataclass(frozen=True)
class Subject:
    """One phantom subject.

    ``cine`` is (T, Z, Y, X) int16; ``frame_numbers`` the 0-based frame of the cycle that each of its T volumes is, and
    ``ed_frame``, ``es_frame`` are such frames of the cycle; ``labels_ed``, ``labels_es`` are (Z, Y, X) uint8.
    """

    group: str
    cine: NDArray[np.int16]
    frame_numbers: tuple[int, ...]
    ed_frame: int
    es_frame: int
    labels_ed: NDArray[np.uint8]
    labels_es: NDArray[np.uint8]
    geometry: Geometry
    truth: Truth
    anatomy: Anatomy
    acquisition: Acquisition
    height_cm: float
    weight_kg: float

    @property
    def image_ed(self) -> NDArray[np.int16]:
        """The volume at ED, (Z, Y, X)."""
        return self.cine[self.frame_numbers.index(self.ed_frame)]

    @property
    def image_es(self) -> NDArray[np.int16]:
        """The volume at ES, (Z, Y, X)."""
        return self.cine[self.frame_numbers.index(self.es_frame)]


def make_subject(seed: int, group: str, *, size: Size = "normal", whole_cycle: bool = True) -> Subject:
    """A random subject of ``group`` (one of :data:`GROUPS`) with its images, labels and truth, fixed by ``seed``.

    ``size`` is "normal" (like ACDC) or "small" (96 to 128 pixels, 6 to 8 slices); without ``whole_cycle`` only ED and ES
    are rendered. Raises :class:`UserError` for an unknown group or size.
    """
    anatomy = random_subject(group, seed)
    acquisition = random_acquisition(anatomy, seed, size)
    ends = (acquisition.ed_frame, acquisition.es_frame)
    frames = tuple(range(acquisition.frames)) if whole_cycle else ends
    image, labels = render(anatomy, acquisition, [float(acquisition.contractions()[frame]) for frame in frames])
    rng = np.random.default_rng([seed, 7])
    height = float(np.round(rng.normal(170, 9)))
    return Subject(
        group=group,
        cine=image,
        frame_numbers=frames,
        ed_frame=ends[0],
        es_frame=ends[1],
        labels_ed=labels[frames.index(ends[0])],
        labels_es=labels[frames.index(ends[1])],
        geometry=itk_geometry(acquisition),
        truth=truth(anatomy, acquisition),
        anatomy=anatomy,
        acquisition=acquisition,
        height_cm=height,
        weight_kg=float(np.round(rng.normal(26, 3) * (height / 100) ** 2)),
    )


def itk_geometry(acquisition: Acquisition) -> Geometry:
    """The ITK geometry (x, y, z) of a scan's frames."""
    depth, height, width = acquisition.shape
    z, y, x = acquisition.spacing
    return Geometry(
        size=(width, height, depth), spacing=(x, y, z), origin=acquisition.origin, direction=acquisition.direction
    )


def write_acdc(
    folder: Path,
    subjects: int,
    seed: int = 0,
    *,
    cine_4d: bool = True,
    size: Size = "normal",
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write ``subjects`` phantom subjects into ``folder`` in ACDC's layout; returns the patients' folders.

    Each ``patientNNN`` holds ``Info.cfg``, the ED and ES frames with their ``_gt`` labels, ``patientNNN_4d.nii.gz`` if
    ``cine_4d``, and ``truth.json`` (group, ``imaged`` and ``continuous`` volumes, cross-sections). The groups come in
    turn; subject N is the same whatever ``subjects`` is. Raises :class:`UserError` for fewer than one subject.
    """
    if subjects < 1:
        raise UserError(f"a phantom data set of {subjects} subjects is empty: ask for 1 or more")
    folders = []
    for number in range(1, subjects + 1):
        group = GROUPS[(number - 1) % len(GROUPS)]
        subject = make_subject(seed * 100_003 + number, group, size=size, whole_cycle=cine_4d)
        folders.append(Path(folder) / f"patient{number:03d}")
        _write_patient(folders[-1], subject, cine_4d)
        if report is not None:
            report(f"{folders[-1].name} ({group})")
    return folders


def _write_patient(folder: Path, subject: Subject, cine_4d: bool) -> None:
    """One patient's files; ``Info.cfg`` last, so that a folder with it is complete."""
    name, geometry = folder.name, subject.geometry
    if cine_4d:
        write_volume(folder / f"{name}_4d.nii.gz", subject.cine, geometry)
    ends = (
        (subject.ed_frame, subject.image_ed, subject.labels_ed),
        (subject.es_frame, subject.image_es, subject.labels_es),
    )
    for frame, image, labels in ends:
        write_volume(folder / f"{name}_frame{frame + 1:02d}.nii.gz", image, geometry)
        write_labels(folder / f"{name}_frame{frame + 1:02d}_gt.nii.gz", labels, geometry)
    numbers = dataclasses.asdict(subject.truth)
    continuous, areas = numbers.pop("continuous"), numbers.pop("areas_mm2")
    write_json(
        folder / "truth.json",
        {"simulated": True, "group": subject.group, "imaged": numbers, "continuous": continuous, "areas_mm2": areas},
    )
    lines = {
        "ED": subject.ed_frame + 1,
        "ES": subject.es_frame + 1,
        "Group": subject.group,
        "Height": subject.height_cm,
        "NbFrame": subject.acquisition.frames,
        "Weight": subject.weight_kg,
    }
    write_text(folder / "Info.cfg", "".join(f"{key}: {value}\n" for key, value in lines.items()))
