"""The stacks of parallel slices in a study, each from one or several series, and why one cannot be a short-axis cine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np

from cardiac_autoseg.data.dicom_frames import Frame, Vector
from cardiac_autoseg.data.dicom_stack import SAME_SLICE_MM, Slice, by_position, positions, regular_grid
from cardiac_autoseg.data.identifiers import spoken

MIN_SLICES, MIN_PHASES = 3, 8
MAX_STEP_MS = 200.0
"""Frames farther apart do not show the phases of one beat: a perfusion series has one image per beat."""

_SAME_AXIS_DEGREES = 1.0


@dataclass(frozen=True)
class Stack:
    """Frames of parallel slices that belong together, from one or several series."""

    frames: tuple[Frame, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def slices(self) -> list[Slice]:
        """The frames of each slice, in the order of positions."""
        return by_position(self.frames)

    @cached_property
    def along(self) -> Vector:
        """Position of each slice along the normal, (Z,) mm."""
        return positions(self.slices)

    @property
    def phases(self) -> int:
        """The usual number of frames of a slice."""
        return int(median(len(part) for part in self.slices))

    @property
    def series(self) -> tuple[str, ...]:
        """The UIDs of its series."""
        return tuple(dict.fromkeys(frame.series for frame in self.frames))

    @property
    def started(self) -> tuple[float, int]:
        """When its first frame was acquired (seconds of the day), and the series number."""
        times = [frame.acquired for frame in self.frames if frame.acquired is not None]
        return min(times, default=0.0), min(frame.series_number for frame in self.frames)

    def words(self) -> str:
        """The stack in words, for a list of choices."""
        first = self.frames[0]
        more = f" and {len(self.series) - 1} more series" if len(self.series) > 1 else ""
        text = spoken(first.description or first.protocol) or "no description"
        return f'{first.called}{more} "{text}", {len(self.slices)} slices x {self.phases} frames'


def find_stacks(frames: Sequence[Frame]) -> list[Stack]:
    """All stacks in ``frames``: of the same study, frame of reference, orientation, matrix and kind of acquisition.

    Several series are one stack if their slices do not overlap and lie on one regular grid, or if each holds one phase of
    the same slices. A single slice that was scanned again replaces the earlier one. Phase images are left out.
    """
    groups: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    directions, references = _directions(frames), _references(frames)
    for frame in frames:
        if not frame.phase or frame.flow:
            direction = directions[frame.orientation]
            place = references[frame.series]
            groups[frame.study, place, direction, frame.matrix, frame.sequence, frame.flow].append(frame)
    return [stack for group in groups.values() for stack in _merge(_by_series(group))]


def why_not(stack: Stack) -> str | None:
    """Why a stack cannot be a short-axis cine, in words; None if it can."""
    if any(frame.flow for frame in stack.frames):
        return "phase-contrast images"
    if len(stack.slices) < MIN_SLICES:
        return f"{len(stack.slices)} slice position(s), a stack has {MIN_SLICES} or more"
    if stack.phases < MIN_PHASES:
        return f"{stack.phases} image(s) per slice, a cine has {MIN_PHASES} or more"
    if any(_changes(part, "inversion_time") or _changes(part, "echo_time") for part in stack.slices):
        return "inversion or echo times change within a slice, as in mapping"
    step = _step(stack)
    if step is not None and step > MAX_STEP_MS:
        return f"its images are {step:.0f} ms apart, too far for the phases of one heart beat"
    first = stack.frames[0]
    told = first.interval or first.heart_rate or (first.cardiac_images or 0) >= MIN_PHASES or first.temporal is not None
    if step is None and not told:
        return "nothing in it says that its images are phases of the heart beat"
    return None


def same_axes(a: Frame, b: Frame) -> bool:
    """Whether rows and columns of two frames have the same directions, to a degree."""
    limit = np.cos(np.radians(_SAME_AXIS_DEGREES))
    axes = zip(np.reshape(a.orientation, (2, 3)), np.reshape(b.orientation, (2, 3)), strict=True)
    return all(p @ q > limit for p, q in axes)


def _directions(frames: Sequence[Frame]) -> dict[tuple[float, ...], int]:
    """A number for each orientation, the same where they agree to a degree."""
    known: dict[tuple[float, ...], int] = {}
    firsts: list[Frame] = []
    for frame in frames:
        if frame.orientation not in known:
            index = next((index for index, first in enumerate(firsts) if same_axes(frame, first)), len(firsts))
            known[frame.orientation] = index
            if index == len(firsts):
                firsts.append(frame)
    return known


def _references(frames: Sequence[Frame]) -> dict[str, str]:
    """The frame of reference of each series; "" where its images disagree, as some programs make one up for every image."""
    found: dict[str, set[str]] = defaultdict(set)
    for frame in frames:
        found[frame.series].add(frame.reference)
    return {series: min(names) if len(names) == 1 else "" for series, names in found.items()}


def _by_series(frames: Sequence[Frame]) -> list[Stack]:
    groups: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[frame.series].append(frame)
    return sorted((Stack(tuple(group)) for group in groups.values()), key=lambda stack: stack.started)


def _merge(units: list[Stack]) -> list[Stack]:
    """Join the series of one kind of acquisition, in the order of their times, to stacks."""
    still = [unit for unit in units if unit.phases < MIN_PHASES]
    cines = [unit for unit in units if unit.phases >= MIN_PHASES]
    union = Stack(tuple(frame for unit in still for frame in unit.frames)) if len(still) >= MIN_PHASES else None
    if union is not None and why_not(union) is None:
        cines, still = [*cines, union], []
    sets: list[list[Stack]] = []
    for unit in cines:
        free = (members for members in sets if not any(overlap(unit, member) for member in members))
        members = next(free, None)
        if members is None:
            sets.append([unit])
        else:
            members.append(unit)
    joined = [stack for members in sets for stack in _joined(members)]
    return _with_repeats(joined) + still


def _joined(members: list[Stack]) -> list[Stack]:
    """One stack of several series, or several if they do not lie on one grid and are stacks themselves."""
    union = Stack(tuple(frame for member in members for frame in member.frames))
    whole = [member for member in members if len(member.slices) >= MIN_SLICES]
    if len(members) == 1 or not whole or regular_grid(union.along) is not None:
        return [union]
    rest = [frame for member in members if member not in whole for frame in member.frames]
    return whole + ([Stack(tuple(rest))] if rest else [])


def _with_repeats(stacks: list[Stack]) -> list[Stack]:
    """Put single slices that were scanned again into the stack that they repeat, unless they have fewer frames."""
    if len(stacks) < 2:
        return stacks
    main, *others = sorted(stacks, key=lambda stack: -len(stack.slices))
    kept = []
    for other in others:
        single = all(len(Stack(part).series) == 1 for part in other.slices) and len(other.series) == len(other.slices)
        if not (
            single and 2 * len(other.slices) <= len(main.slices) and all(_nearest(main, z) is not None for z in other.along)
        ):
            kept.append(other)
            continue
        for part, along in zip(other.slices, other.along, strict=True):
            place = _nearest(main, along)
            if place is not None and len(part) >= len(main.slices[place]):
                slices = [part if index == place else old for index, old in enumerate(main.slices)]
                note = f"slice {place + 1} was scanned again: the later images are used"
                main = Stack(tuple(frame for one in slices for frame in one), (*main.notes, note))
    return [main, *kept]


def _nearest(stack: Stack, along: float) -> int | None:
    """Index of the slice of ``stack`` at this position, if there is one."""
    distance = np.abs(stack.along - along)
    place = int(distance.argmin())
    return place if distance[place] < _reach(stack) else None


def overlap(a: Stack, b: Stack) -> bool:
    """Whether two stacks of the same orientation show the same slice."""
    distance = np.abs(a.along[:, None] - positions_along(b, a))
    return bool((distance < min(_reach(a), _reach(b))).any())


def positions_along(stack: Stack, other: Stack) -> Vector:
    """Positions of the slices of ``stack`` along the normal of ``other``, (Z,) mm."""
    normal = other.frames[0].normal
    return np.array([np.dot(part[0].position, normal) for part in stack.slices])


def _reach(stack: Stack) -> float:
    """Slices closer than this, half a slice's thickness in mm, are the same."""
    return max((stack.frames[0].thickness or 4.0) / 2, SAME_SLICE_MM)


def _changes(part: Slice, name: str) -> bool:
    values = {round(value, 1) for frame in part if (value := getattr(frame, name)) is not None}
    return len(values) > 2


def _step(stack: Stack) -> float | None:
    """Median time in ms between the frames of a slice by trigger times, else by acquisition times; None if unknown."""
    for name, unit in (("trigger", 1.0), ("acquired", 1000.0)):
        steps = []
        for part in stack.slices:
            values = sorted({value * unit for frame in part if (value := getattr(frame, name)) is not None})
            if len(values) >= len(part) / 2 and len(values) > 1:
                steps.append(float(np.median(np.diff(values))))
        if steps and median(steps) >= 10:
            return median(steps)
    return None
