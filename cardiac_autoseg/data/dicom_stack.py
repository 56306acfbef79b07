"""From the frames of one stack to their order in time and space: (T, Z), with its geometry and what had to be decided."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardiac_autoseg.data.dicom_frames import Frame, Vector
from cardiac_autoseg.data.geometry import Geometry, why_impossible
from cardiac_autoseg.errors import UserError

SAME_SLICE_MM = 0.5
"""Images closer than this along the normal show the same slice: above rounding, below any slice distance."""

Slice = tuple[Frame, ...]


@dataclass(frozen=True)
class Ordered:
    """``frames`` is [frame][slice], None where a slice is missing; ``own`` tells it from a stand-in for a missing one.

    ``times_ms`` are the T median trigger times, where all frames have one.
    """

    frames: tuple[tuple[Frame | None, ...], ...]
    own: tuple[tuple[bool, ...], ...]
    geometry: Geometry
    times_ms: tuple[float, ...] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """Slices at a regular distance: ``places`` are the slices' indices (no missing ones); ``spacing``, ``error`` in mm."""

    places: tuple[int, ...]
    spacing: float
    error: float

    @property
    def missing(self) -> list[int]:
        """Indices between the first and the last slice where there is none."""
        return sorted(set(range(self.places[-1] + 1)) - set(self.places))


def by_position(frames: Sequence[Frame]) -> list[Slice]:
    """The frames of each slice, slices in the order of their positions along the first frame's normal, ascending."""
    along = np.array([frame.position for frame in frames]) @ frames[0].normal
    order = np.argsort(along, kind="stable")
    cuts = np.flatnonzero(np.diff(along[order]) > SAME_SLICE_MM) + 1
    return [tuple(frames[index] for index in part) for part in np.split(order, cuts)]


def positions(slices: Sequence[Slice]) -> Vector:
    """Mean position of each slice along the first frame's normal, (Z,) mm."""
    normal = slices[0][0].normal
    return np.array([np.mean([np.dot(frame.position, normal) for frame in part]) for part in slices])


def regular_grid(along: Vector) -> Grid | None:
    """The regular grid that ascending positions (Z,) mm lie on, with gaps of whole slices; None if there is none.

    At most a quarter of the slices may be missing, and no position may be off the grid by more than a tenth of its spacing.
    """
    if len(along) == 1:
        return Grid((0,), 0.0, 0.0)
    gaps = np.diff(along)
    # The lower median: with slices missing the middle of the gaps may lie between one and two slices.
    step = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    steps = np.maximum(np.rint(gaps / step), 1).astype(int)
    places = np.concatenate([[0], np.cumsum(steps)])
    spacing = float((along[-1] - along[0]) / places[-1])
    error = float(np.abs(along - along[0] - places * spacing).max())
    missing = int(places[-1] + 1 - len(along))
    if error > 0.1 * spacing or missing > (places[-1] + 1) // 4:
        return None
    return Grid(tuple(int(place) for place in places), spacing, error)


def time_key(slices: Sequence[Slice]) -> str:
    """The attribute of a frame that orders the frames of every slice in time.

    Trigger time, else temporal position, else acquisition or content time, else instance number: the first that all frames
    have and that tells the frames of a slice apart, or half of them where frames were stored twice.
    """
    for share in (1.0, 0.5):
        for name in ("trigger", "temporal"):
            if all(_tells_apart(part, name, share) for part in slices):
                return name
    names = [name for name in ("acquired", "content") if all(_tells_apart(part, name, 1.0) for part in slices)]
    return names[0] if names else "instance"


def _tells_apart(part: Slice, name: str, share: float) -> bool:
    known = {value for frame in part if (value := getattr(frame, name)) is not None}
    if not known or any(getattr(frame, name) is None for frame in part) or len(known) < share * len(part):
        return False
    # Images of one phase in many heart beats differ by the trigger's jitter only.
    return name != "trigger" or max(known) - min(known) >= 10 * (len(known) - 1)


def order(frames: Sequence[Frame]) -> Ordered:
    """Order the frames of one stack (same orientation and matrix).

    Missing slices become None; slices with fewer or more frames than most are brought to the most common number by the
    nearest time in the cycle. Raises :class:`UserError`, which names no file, if the slices are not regular, if one has
    less than half of its frames, or if they do not lie behind each other.
    """
    slices = by_position(frames)
    grid = regular_grid(positions(slices))
    if grid is None:
        gaps = ", ".join(f"{gap:.1f}" for gap in np.diff(positions(slices)))
        raise UserError(f"its slices are not at a regular distance (gaps of {gaps} mm)")
    notes = _spacing_notes(slices, grid)
    geometry, shear_notes = _geometry(slices, grid)
    notes += shear_notes
    key = time_key(slices)
    if key != "trigger" and any(len(part) > 1 for part in slices):
        words = {"temporal": "temporal position", "acquired": "acquisition time", "content": "content time"}
        notes.append(f"without usable trigger times, frames are in the order of {words.get(key, 'instance number')}")
    slices, doubles = _without_doubles(slices, key)
    if doubles:
        notes.append(f"{doubles} image(s) have the place and time of another: the later one is used")
    columns, own, count_notes = _same_count(slices, key, grid)
    times = None
    if key == "trigger":
        full = [[frame.trigger or 0.0 for frame in part] for part in slices if len(part) == len(columns[0])]
        times = tuple(float(value) for value in np.median(full, axis=0))
    table = dict(zip(grid.places, zip(columns, own, strict=True), strict=True))
    count, depth = len(columns[0]), range(grid.places[-1] + 1)
    return Ordered(
        frames=tuple(tuple(table[z][0][t] if z in table else None for z in depth) for t in range(count)),
        own=tuple(tuple(table[z][1][t] if z in table else False for z in depth) for t in range(count)),
        geometry=geometry,
        times_ms=times,
        notes=(*notes, *count_notes),
    )


def _spacing_notes(slices: Sequence[Slice], grid: Grid) -> list[str]:
    notes = []
    if grid.missing:
        where = ", ".join(str(place + 1) for place in grid.missing)
        notes.append(f"slice {where} of {grid.places[-1] + 1} is missing: left empty, so volumes through it are too small")
    if grid.error > 1.0:
        notes.append(f"slices lie up to {grid.error:.1f} mm off a regular distance")
    header = slices[0][0].slice_spacing
    if len(slices) > 1 and header is not None and abs(header - grid.spacing) > 0.02 * grid.spacing:
        notes.append(
            f"the header says {header:.2f} mm between slices, their positions {grid.spacing:.2f} mm: the positions are used"
        )
    return notes


def _geometry(slices: Sequence[Slice], grid: Grid) -> tuple[Geometry, list[str]]:
    """The stack's geometry along its normal, with a note if the slices shift sideways.

    Raises :class:`UserError` if they shift by more than 45 degrees, or within a slice.
    """
    first = slices[0][0]
    row = np.mean([part[0].orientation[:3] for part in slices], axis=0)
    column = np.mean([part[0].orientation[3:] for part in slices], axis=0)
    row /= np.linalg.norm(row)
    column -= (column @ row) * row
    column /= np.linalg.norm(column)
    normal = np.cross(row, column)
    if any(np.ptp([frame.position for frame in part], axis=0).max() > 1.0 for part in slices):
        raise UserError("the images of one slice do not lie on each other")
    origins = np.array([part[0].position for part in slices])
    sideways = np.hypot((origins - origins[0]) @ row, (origins - origins[0]) @ column)
    height = float(np.ptp(origins @ normal))
    notes = []
    if sideways.max() > max(height, 20.0):
        raise UserError(f"its slices shift sideways by {sideways.max():.0f} mm over {height:.0f} mm: they form no stack")
    if sideways.max() > 1.0:
        notes.append(
            f"slices shift sideways by up to {sideways.max():.1f} mm (gantry tilt or a moved field of view): volumes are"
            " right, the result's slices lie straight behind the first"
        )
    depth = grid.places[-1] + 1
    thickness = grid.spacing or first.slice_spacing or first.thickness
    if thickness is None:
        raise UserError("it is one slice without a thickness, so volumes cannot be measured")
    x, y, z = (float(value) for value in origins[0])
    geometry = Geometry(
        size=(first.columns, first.rows, depth),
        spacing=(first.spacing[1], first.spacing[0], float(thickness)),
        origin=(x, y, z),
        direction=tuple(float(value) for value in np.stack([row, column, normal], axis=1).ravel()),
    )
    if problem := why_impossible(geometry, max(len(part) for part in slices)):
        raise UserError(problem)
    return geometry, notes


def _without_doubles(slices: Sequence[Slice], key: str) -> tuple[list[Slice], int]:
    """Each slice in the order of time, without images of the same time; and how many were left out."""

    def rank(frame: Frame) -> tuple[float, float, float]:
        return frame.acquired or 0.0, frame.content or 0.0, frame.instance

    kept, doubles = [], 0
    for part in slices:
        ordered = sorted(part, key=lambda frame: (getattr(frame, key), rank(frame)))
        single = [list(group)[-1] for _, group in itertools.groupby(ordered, key=lambda frame: getattr(frame, key))]
        doubles += len(part) - len(single)
        kept.append(tuple(single))
    return kept, doubles


def _same_count(slices: Sequence[Slice], key: str, grid: Grid) -> tuple[list[Slice], list[tuple[bool, ...]], list[str]]:
    """All slices with the most common number of frames; where a frame is its own; and notes.

    Raises :class:`UserError` if a slice has less than half of that number.
    """
    tally = Counter(len(part) for part in slices)
    count = max(tally, key=lambda length: (tally[length], length))
    if all(len(part) == count for part in slices):
        return list(slices), [(True,) * count] * len(slices), []
    places = {len(part): grid.places[index] + 1 for index, part in reversed(list(enumerate(slices)))}
    shortest = min(places)
    if 2 * shortest < count:
        raise UserError(f"slice {places[shortest]} has {shortest} frames where most have {count}")
    phases = [_phases(part, slices, key) for part in slices]
    targets = np.median([phase for phase in phases if len(phase) == count], axis=0)
    columns, own = [], []
    for part, phase in zip(slices, phases, strict=True):
        distance = np.abs((targets[:, None] - phase + 0.5) % 1 - 0.5)
        nearest = distance.argmin(axis=1) if len(part) != count else np.arange(count)
        best = {int(index): int(distance[nearest == index, index].argmin()) for index in set(nearest)}
        firsts = {int(np.flatnonzero(nearest == index)[at]) for index, at in best.items()}
        columns.append(tuple(part[index] for index in nearest))
        own.append(tuple(t in firsts for t in range(count)))
    odd = [
        f"slice {place + 1} has {len(part)}" for place, part in zip(grid.places, slices, strict=True) if len(part) != count
    ]
    note = f"slices differ in their number of frames ({', '.join(odd)} of {count}): the frames nearest in time stand in"
    return columns, own, [note]


def _phases(part: Slice, slices: Sequence[Slice], key: str) -> Vector:
    """When in the cycle (0..1) each frame of a slice was taken."""
    values = np.array([getattr(frame, key) for frame in part], dtype=float)
    step = float(np.median(np.diff(values))) if len(values) > 1 else 1.0
    interval = part[0].interval
    if key == "trigger" and interval is not None and interval >= values[-1]:
        return values / interval
    if key in ("trigger", "temporal"):
        everything = [getattr(frame, key) for one in slices for frame in one]
        start, cycle = min(everything), max(everything) - min(everything) + step
    else:
        start, cycle = values[0], values[-1] - values[0] + step
    return (values - start) / cycle
