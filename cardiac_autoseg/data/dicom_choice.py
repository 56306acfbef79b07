"""Which stack of a study is the short-axis cine: by geometry and tags first, by descriptions where these leave a choice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from cardiac_autoseg.data.dicom_frames import Frame
from cardiac_autoseg.data.dicom_series import MIN_PHASES, Stack, find_stacks, overlap, positions_along, same_axes, why_not
from cardiac_autoseg.errors import UserError

LONG_AXIS = np.array([0.72, -0.45, -0.52])
"""The usual direction of the heart's long axis: to the patient's left, front and feet (LPS)."""

_USUAL_DEGREES = 40.0
_SHORT = re.compile(r"\b(s?sax|sa|shax|kurzachsen?|kurze achse|short ?ax(is|e)?|petit axe|eje corto|asse corto|korte as)\b")
_LONG = re.compile(
    r"\b(la|lax|hla|vla|[234] ?(ch|cv|kv|ch[ao]mbers?|kammer)|lvot|rvot|(long|lange|grand|horiz|vert) ?a[xc]\w*|langachsen?|"
    r"aort\w*|tra|transv\w*|axial|cor|coronal|sag\w*|radial)\b"
)
_OTHER = re.compile(r"\b(tag\w*|grid|csppamm|q?flow|venc|pc|perf\w*|lge|psir|molli|map\w*|t ?[12]|scout|loc\w*)\b")
_LISTED = 40


def choose_stack(frames: Sequence[Frame], series: str | None = None) -> Stack:
    """The short-axis cine of a study.

    ``series`` is a series that belongs to it, by its number or UID, or several, separated by commas, that are all of it;
    such a stack is taken as it is, whatever it shows. Raises :class:`UserError`, without the name of a file, if there is
    none or more than one, with the list of what there is.
    """
    if series is not None:
        return _asked_for(frames, [name.strip() for name in series.split(",")])
    stacks = find_stacks(frames)
    candidates = [stack for stack in stacks if why_not(stack) is None]
    likely = [stack for stack in candidates if _likeness(stack) > -1]
    if not likely:
        raise UserError(
            "no short-axis cine found among" + _listing(stacks) + "Name a series with --series NUMBER to use it anyway"
        )
    if len({stack.frames[0].study for stack in likely}) > 1:
        raise UserError(
            "short-axis cines of several studies:" + _listing(likely) + "Give one study, or choose with --series NUMBER"
        )
    chosen = likely
    for narrow in (_most_alike, _most_complete, _best_corrected):
        chosen = narrow(chosen)
    if len(chosen) > 1:
        raise UserError("several series may be the short-axis cine:" + _listing(chosen) + "Choose one with --series NUMBER")
    stack = chosen[0]
    _refuse_odd_slices(stack, stacks)
    notes = list(stack.notes)
    if len(likely) > 1:
        others = "; ".join(other.words() for other in likely if other is not stack)
        notes.append(f"chosen as short-axis cine: {stack.words()}; not chosen: {others}")
    if _degrees(stack) > _USUAL_DEGREES and not _SHORT.search(_text(stack)):
        notes.append(
            f"its slices are turned {_degrees(stack):.0f} degrees from the usual short-axis view: check that it is one"
        )
    return dataclasses.replace(stack, notes=tuple(notes))


def _asked_for(frames: Sequence[Frame], names: list[str]) -> Stack:
    """The stack that the user asks for, by numbers or UIDs of series."""
    known = {frame.called: frame.series for frame in frames} | {frame.series: frame.series for frame in frames}
    for name in names:
        if name not in known:
            raise UserError(f"there is no series {name} with images in it, only" + _listing(find_stacks(frames)))
    uids = [known[name] for name in names]
    only = frames if len(uids) == 1 else [frame for frame in frames if frame.series in uids]
    stacks = [stack for stack in find_stacks(only) if set(uids) & set(stack.series)]
    cines = [stack for stack in stacks if why_not(stack) is None] or stacks
    largest = max((len(stack.frames) for stack in cines), default=0)
    chosen = [stack for stack in cines if len(stack.frames) == largest]
    if len(chosen) != 1:
        what = "no single stack of parallel slices:" + _listing(stacks) if stacks else "nothing but phase images"
        raise UserError(f"the series {', '.join(names)} is {what}")
    reason = why_not(chosen[0])
    notes = () if reason is None else (f"used as asked for, though it is no short-axis cine: {reason}",)
    return dataclasses.replace(chosen[0], notes=(*chosen[0].notes, *notes))


def _text(stack: Stack) -> str:
    """The descriptions of a stack's series as plain words, digits apart from letters that they follow."""
    first = stack.frames[0]
    text = re.sub(r"[\W_]+", " ", f"{first.description} {first.protocol}".lower())
    return re.sub(r"(?<=[a-z])(?=\d)", " ", text)


def _degrees(stack: Stack) -> float:
    """Angle between the slices' normal and the usual long axis, 0 to 90 degrees."""
    cosine = abs(stack.frames[0].normal @ LONG_AXIS) / np.linalg.norm(LONG_AXIS)
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def _likeness(stack: Stack) -> float:
    """How much a stack is like a short-axis cine, by orientation, words and kind of image; at -1 or below it is not one."""
    text = _text(stack)
    words = 2 * bool(_SHORT.search(text)) - 2 * bool(_LONG.search(text)) - 4 * bool(_OTHER.search(text))
    original = stack.frames[0].image_type[:2] == ("ORIGINAL", "PRIMARY") or not stack.frames[0].image_type
    return (_degrees(stack) <= _USUAL_DEGREES) + words - 0.5 * (not original)


def _most_alike(stacks: list[Stack]) -> list[Stack]:
    best = max(_likeness(stack) for stack in stacks)
    return [stack for stack in stacks if _likeness(stack) == best]


def _most_complete(stacks: list[Stack]) -> list[Stack]:
    """Without those that have fewer slices than another of about as many frames, or clearly fewer images."""

    def worse(a: Stack, b: Stack) -> bool:
        slices = len(a.slices) < len(b.slices) and b.phases > 0.8 * a.phases
        images = len(a.slices) == len(b.slices) and len(a.frames) < 0.9 * len(b.frames)
        return slices or images

    return [stack for stack in stacks if not any(worse(stack, other) for other in stacks)]


def _best_corrected(stacks: list[Stack]) -> list[Stack]:
    """Of the same images in several versions, those normalised and corrected for distortion."""

    def rank(stack: Stack) -> int:
        kind = set(stack.frames[0].image_type)
        return 2 * bool(kind & {"DIS2D", "DIS3D"}) + ("NORM" in kind)

    best = max(rank(stack) for stack in stacks)
    return [stack for stack in stacks if rank(stack) == best]


def _refuse_odd_slices(stack: Stack, stacks: Sequence[Stack]) -> None:
    """Raise :class:`UserError` if slices that fill or continue the stack have another matrix or pixel spacing."""
    if len(stack.along) < 2:
        return
    first, spacing = stack.frames[0], float(np.median(np.diff(stack.along)))
    low, high = stack.along[0] - 1.5 * spacing, stack.along[-1] + 1.5 * spacing
    for other in stacks:
        one = other.frames[0]
        same = (one.study, one.sequence) == (first.study, first.sequence)
        if not same or one.matrix == first.matrix or other.phases < MIN_PHASES or not same_axes(one, first):
            continue
        along = positions_along(other, stack)
        if not overlap(stack, other) and along.min() > low and along.max() < high:
            sizes = " and ".join("{} x {} of {} x {} mm".format(*frame.matrix) for frame in (first, one))
            raise UserError(
                f"the slices of the short-axis cine differ in matrix or pixel spacing ({sizes}): it is no one stack"
            )


def _listing(stacks: Sequence[Stack]) -> str:
    """The stacks one a line, with the reason against each."""
    lines = []
    for stack in sorted(stacks, key=lambda stack: -len(stack.frames))[:_LISTED]:
        reason = why_not(stack) or ("" if _likeness(stack) > -1 else "no short-axis view by its description and orientation")
        lines.append(f"  {stack.words()}{': ' * bool(reason)}{reason}")
    if len(stacks) > _LISTED:
        lines.append(f"  and {len(stacks) - _LISTED} more")
    return "\n" + "\n".join(lines) + "\n"
