"""A study as it leaves the scanner, read as a :class:`~cardiac_autoseg.data.scan.Scan`. See docs/dicom.md."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from pydicom.dataset import Dataset

from cardiac_autoseg.data.dicom_choice import choose_stack
from cardiac_autoseg.data.dicom_files import Files, files_of, is_dicom_input, open_files, read_header
from cardiac_autoseg.data.dicom_frames import Frame, element, frames_of, is_mr_image
from cardiac_autoseg.data.dicom_person import read_heart_rate, read_person
from cardiac_autoseg.data.dicom_pixels import load_pixels
from cardiac_autoseg.data.dicom_series import Stack
from cardiac_autoseg.data.dicom_stack import Ordered, order
from cardiac_autoseg.data.identifiers import unquoted
from cardiac_autoseg.data.scan import Instance, Scan
from cardiac_autoseg.errors import UserError

__all__ = ["is_dicom_input", "read_study"]

BURNED_IN = (
    "there may be writing in the images themselves (BurnedInAnnotation is YES): look at the pictures of a page before it is"
    " passed on"
)


def read_study(path: Path, series: str | None = None) -> Scan:
    """The short-axis cine of a DICOM study: a folder, searched recursively, a .zip, or one multi-frame file.

    ``series`` is the number or UID of the series to take (or several, separated by commas, that form one stack), else
    it is found. What had to be decided is in the scan's notes. Raises :class:`UserError`, naming ``path`` and what to do, if
    there is no DICOM, no short-axis cine or more than one, if its slices form no stack, or a decoder is missing.
    """
    path = Path(path)
    with open_files(path) as files:
        frames, notes = _find(files)
        while True:
            if not frames:
                reason = "; ".join(notes) or "no DICOM files"
                raise UserError(f"{path} holds no MR images that can be used ({reason}): give the folder of a whole study")
            stack, ordered = _order(path, frames, series, notes)
            array, broken = load_pixels(files, ordered.frames, (ordered.geometry.shape[1], ordered.geometry.shape[2]))
            if not broken:
                break
            # Damaged pixels show only here. Without these files another stack may be the most complete.
            frames = [frame for frame in frames if frame.path not in broken]
            notes.append(_damage(broken))
        header = _header(files, stack.frames[0])
        person, person_notes = read_person(header)
        if str(element(header, "BurnedInAnnotation") or "").strip().upper() == "YES":
            person_notes.append(BURNED_IN)
    times, rate, time_notes = _times(stack, ordered)
    first = stack.frames[0]
    return Scan(
        name=_name(path),
        source=path,
        array=array,
        geometry=ordered.geometry,
        times_ms=times,
        heart_rate=rate,
        person=person,
        instances=_instances(ordered),
        description=first.description or first.protocol,
        notes=(*notes, *stack.notes, *ordered.notes, *time_notes, *person_notes),
    )


def _find(files: Files) -> tuple[list[Frame], list[str]]:
    """All frames of MR images in the files, each once, and notes on files that are damaged or say no position."""
    frames: dict[tuple[str, int], Frame] = {}
    damaged: dict[Path, str] = {}
    copies = placeless = 0
    for path in files_of(files):
        try:
            header = read_header(files, path)
            if header is None or not is_mr_image(header):
                continue
            new = frames_of(path, header)
        except Exception as error:  # there is no end to how a header can be wrong
            damaged[path] = unquoted(error)
            continue
        placeless += not new
        copies += any((frame.uid, frame.number) in frames for frame in new)
        for frame in new:
            frames.setdefault((frame.uid or str(path), frame.number), frame)
    notes = [_damage(damaged)] if damaged else []
    if placeless:
        notes.append(f"{placeless} image(s) do not say where they lie")
    if copies:
        notes.append(f"{copies} file(s) are copies of others")
    return _numbered(list(frames.values())), notes


def _numbered(frames: list[Frame]) -> list[Frame]:
    """The frames, with a mark for each series whose number another has too, as messages name series by their numbers."""
    series = sorted({(frame.series_number, frame.series) for frame in frames})
    counts = Counter(number for number, _ in series)
    if max(counts.values(), default=1) == 1:
        return frames
    letters = {
        uid: [one for number, one in series if number == own].index(uid) + 1 for own, uid in series if counts[own] > 1
    }
    return [dataclasses.replace(frame, twin=letters.get(frame.series, 0)) for frame in frames]


def _order(path: Path, frames: list[Frame], series: str | None, notes: list[str]) -> tuple[Stack, Ordered]:
    """The stack to read, ordered; what goes wrong is told with the path."""
    told = f" ({'; '.join(notes)})" if notes else ""
    try:
        stack = choose_stack(frames, series)
    except UserError as error:
        raise UserError(f"{path}: {error}{told}") from error
    try:
        return stack, order(stack.frames)
    except UserError as error:
        raise UserError(
            f"{path}, series {stack.words()}: {error}{told}; export the series again, or choose another with --series"
        ) from error


def _times(stack: Stack, ordered: Ordered) -> tuple[tuple[float, ...] | None, float | None, list[str]]:
    """Times of the frames in ms, heart rate in beats per minute, and notes."""
    times, count = ordered.times_ms, len(ordered.frames)
    rate, notes = read_heart_rate(stack.frames, times)
    if times is None and rate is not None and count > 1:
        times = tuple(60000 / rate * index / count for index in range(count))
        notes.append("the frames' times are not in the headers: they are spread evenly over one beat")
    return times, rate, notes


def _instances(ordered: Ordered) -> tuple[tuple[Instance | None, ...], ...]:
    """The source of each slice of each frame, None for those that stand in for a missing one."""
    rows = zip(ordered.frames, ordered.own, strict=True)
    return tuple(
        tuple(
            Instance(frame.path, frame.uid, frame.number) if frame is not None and own else None
            for frame, own in zip(frames, owns, strict=True)
        )
        for frames, owns in rows
    )


def _header(files: Files, frame: Frame) -> Dataset:
    header = read_header(files, frame.path)
    assert header is not None  # it was read before
    return header


def _damage(broken: dict[Path, str]) -> str:
    path, reason = next(iter(broken.items()))
    return f"{len(broken)} damaged file(s) left out, the first {path.name}: {reason}"


def _name(path: Path) -> str:
    """The name of the folder, or of the file without its suffix."""
    whole = path.resolve()
    return whole.name if whole.is_dir() else whole.stem
