"""The series that lie beside the short-axis cine in a study, small and of noise: what a reader has to tell apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cardiac_autoseg.phantom.dicom_image import RR_MS, Series, clock, make_image, save, set_time
from cardiac_autoseg.phantom.subject import Subject

Array = NDArray[np.float64]

_SIZE = 24
_FRAMES = 12
_SPIN, _SPOILED, _INVERSION = ("SE", "SK", "*tse2d1_9"), ("GR", "SP", "*fl2d1r4"), ("GR\\IR", "SP", "*tfl2d1_23")


@dataclass(frozen=True)
class _Kind:
    """A series of ``slices`` parallel slices of ``frames`` images each, by the way it looks at the heart.

    ``view`` turns the short-axis axes (2, 3) to its own; ``differ`` sets what tells the images of a slice apart.
    """

    name: str
    view: Callable[[Array], Array]
    slices: int
    frames: int
    differ: Callable[[Dataset, int], None]
    sequence: tuple[str, str, str] = ("GR", "SS", "*tfi2d1_12")
    kind: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND")


def write_distractors(folder: Path, subject: Subject, series: Series) -> list[Path]:
    """Write localisers, long-axis cines (single, radial, parallel), late enhancement, maps, perfusion, flow, black blood.

    All have the study and frame of reference of ``series``, the short-axis cine; returns the files.
    """
    rng = np.random.default_rng(subject.acquisition.seed)
    depth, height, width = subject.geometry.shape
    middle = np.array(subject.geometry.origin) + subject.geometry.spacing_zyx[0] * depth / 2 * np.cross(*series.axes)
    middle = middle + series.axes.T @ [width * series.spacing[2] / 2, height * series.spacing[1] / 2]
    options = dataclasses.replace(series.options, mono1=False, slope=1.0, intercept=0.0)
    files = []
    for number, kind in enumerate(_kinds(), 20):
        axes = kind.view(series.axes)
        named = kind.name if series.description else ""
        own = dataclasses.replace(
            series, number=number + 20, description=named, axes=axes, options=options, sequence=kind.sequence, kind=kind.kind
        )
        for z in range(kind.slices):
            away = (z - kind.slices / 2) * series.spacing[0] * np.cross(*axes) - axes.sum(axis=0) * _SIZE
            for t in range(kind.frames):
                pixels = rng.integers(0, 400, (_SIZE, _SIZE))
                image = make_image(own, z * kind.frames + t + 1, pixels, middle + away)
                kind.differ(image, t)
                files.append(save(folder, image, options))
    return files


def _kinds() -> Iterator[_Kind]:
    for name, first, second in (
        ("tra", (1, 0, 0), (0, 1, 0)),
        ("cor", (1, 0, 0), (0, 0, -1)),
        ("sag", (0, 1, 0), (0, 0, -1)),
    ):
        yield _Kind(f"localizer {name}", _fixed(np.array([first, second], float)), 3, 1, _still)
    for name, angle in (("2ch", 60.0), ("3ch", 120.0), ("4ch", 0.0)):
        yield _Kind(f"cine {name}", _long_axis(angle), 1, _FRAMES, _cine)
    for angle in range(0, 180, 30):
        yield _Kind("cine radial", _long_axis(angle), 1, _FRAMES, _cine)
    yield _Kind("cine 4ch stack", _long_axis(0.0), 4, _FRAMES, _cine)
    yield _Kind("psir LGE", _same, 8, 1, _still, _INVERSION)
    yield _Kind("T1 molli", _same, 3, 8, _inversion, _INVERSION)
    yield _Kind("T2star", _same, 3, 8, _echo, _SPOILED)
    yield _Kind("dynamic perfusion", _same, 3, 20, _perfusion, _INVERSION)
    yield _Kind("black blood", _same, 8, 1, _still, _SPIN)
    flow = ("GR", "SP", "*fl2d1_v150in")
    yield _Kind("flow", _same, 3, _FRAMES, _cine, flow)
    yield _Kind("flow", _same, 3, _FRAMES, _cine, flow, ("ORIGINAL", "PRIMARY", "P", "ND"))


def _same(axes: Array) -> Array:
    return axes


def _fixed(axes: Array) -> Callable[[Array], Array]:
    return lambda _: axes


def _long_axis(degrees: float) -> Callable[[Array], Array]:
    """A plane through the long axis, turned about it."""
    angle = np.radians(degrees)
    return lambda axes: np.stack([np.cos(angle) * axes[0] + np.sin(angle) * axes[1], np.cross(*axes)])


def _still(image: Dataset, _frame: int) -> None:
    image.NominalInterval = int(RR_MS)


def _cine(image: Dataset, frame: int) -> None:
    set_time(image, "trigger", frame, _FRAMES)


def _inversion(image: Dataset, frame: int) -> None:
    image.InversionTime, image.TriggerTime, image.NominalInterval = 100 + RR_MS * frame, "600", int(RR_MS)


def _echo(image: Dataset, frame: int) -> None:
    image.EchoTime, image.TriggerTime, image.NominalInterval = 2.0 + 2.2 * frame, "300", int(RR_MS)


def _perfusion(image: Dataset, frame: int) -> None:
    image.TriggerTime, image.NominalInterval = str(120 + frame % 3), int(RR_MS)
    image.AcquisitionTime = image.ContentTime = clock(int(image.SeriesNumber) + frame * RR_MS / 1000)
