"""The volume of a ventricle over time: end-diastole (ED), end-systole (ES), peak ejection and filling rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.evaluation.smoothing import Array, smooth_curve

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

_LATE_SYSTOLE = 0.55
"""A systole longer than this part of the beat is not seen in hearts, but in frames that run backwards."""


@dataclass(frozen=True)
class Curve:
    """A volume curve of T frames, and what was found in it; made by :func:`volume_curve`.

    ``volumes`` (T,) mL as measured, NaN where there is none; ``smooth`` (T,) mL the curve through them, whose standard error
    is ``error`` mL; ``good`` (T,) the frames that were measured and lie on the curve (not outliers). ``closed`` says that
    the last frame leads back to the first, ``beats`` how many end-systoles there are, ``period`` the frames in a beat (None
    where not a whole beat is seen). ``ed`` and ``es`` are 0-based frames, None where there is none. ``notes`` are in words.
    """

    volumes: Array
    smooth: Array
    error: float
    good: NDArray[np.bool_]
    closed: bool
    beats: int
    period: float | None
    ed: int | None
    es: int | None
    notes: tuple[str, ...]


def volume_curve(volumes: Sequence[float | None] | Array) -> Curve:
    """Smooth LV volumes (T,) in mL over time and find ED and ES. Frames without a volume are None or NaN.

    The volumes are smoothed by :func:`~cardiac_autoseg.evaluation.smoothing.smooth_curve`; frames far off that curve are
    never ED or ES. It closes on itself, last frame to first, unless the step between these two is larger than any within:
    then the end of the cycle is missing.

    ES is the middle of the frames that cannot be told from the smallest volume (two standard errors). ED is, of those that
    cannot be told from the largest (one standard error), the one at which the fall to ES begins: in a slow diastole the
    volume hardly changes for many frames, and its largest noisy value may be any of them. Of several beats the one with the
    largest stroke volume counts. Two volumes are ED and ES by size; one is ED, without ES.
    """
    values = np.array([np.nan if value is None else float(value) for value in volumes], dtype=float)
    values[~np.isfinite(values)] = np.nan
    measured = np.isfinite(values)
    if not measured.any() or not (values[measured] > 0).any():
        return _nothing(values, "no left ventricle in any frame, so no end-diastole or end-systole")
    if measured.sum() == 1:
        only = int(np.flatnonzero(measured)[0])
        curve = _nothing(values, "a single frame: volumes, but no end-systole and no ejection fraction")
        return Curve(**{**vars(curve), "ed": only})
    notes = [f"frames without a volume: {int((~measured).sum())}"] if not measured.all() else []
    smooth, error, weight = smooth_curve(values, closed=False)
    closed = _is_closed(smooth, error)
    if closed:
        open_curve = smooth, error, weight
        smooth, error, weight = smooth_curve(values, closed=True)
        if len(_troughs(smooth, closed=True)) > 1:
            # Several beats seldom end where they began, and a beat joined of two is none.
            closed, (smooth, error, weight) = False, open_curve
    troughs = _troughs(smooth, closed)
    good = measured & (weight > 0.1)
    if (~good & measured).any():
        frames = ", ".join(str(frame + 1) for frame in np.flatnonzero(~good & measured))
        notes.append(f"far off the volume curve, so neither end-diastole nor end-systole: frame {frames}")
    period = _period(troughs, len(values), closed)
    ed, es = _best_beat(smooth, error, good, troughs, closed)
    notes += _remarks(smooth, error, ed, es, len(troughs), closed, period)
    return Curve(values, smooth, error, good, closed, len(troughs), period, ed, es, tuple(notes))


def peak_rates(
    curve: Curve,
    times_ms: Sequence[float] | None = None,
    heart_rate: float | None = None,
    ed: int | None = None,
    es: int | None = None,
) -> tuple[float | None, float | None, tuple[str, ...]]:
    """Peak ejection and peak filling rate in mL/s, both positive, and notes on why one is missing.

    They are the steepest fall from ED to ES and the steepest rise from ES to the next ED (or the last frame) of a cubic
    spline through the smooth curve. ``times_ms`` are the T times of the frames; without them the step between frames is
    that of ``heart_rate`` (beats per minute), if the frames cover a whole beat. ``ed``, ``es`` override those of the curve.
    """
    from scipy.interpolate import CubicSpline  # slow to import, and a single volume does not need it

    ed, es = curve.ed if ed is None else ed, curve.es if es is None else es
    if ed is None or es is None or ed == es or len(curve.smooth) < 5:
        return None, None, ("too few frames for filling and ejection rates",)
    times, note = _frame_times(curve, times_ms, heart_rate)
    if times is None:
        return None, None, (note,)
    count = len(times)
    if _systole(ed, es, count, curve.closed, curve.period) > _LATE_SYSTOLE:
        return None, None, ("no filling and ejection rates, as the order of the frames is in doubt",)
    if curve.closed:
        cycle = times[-1] - times[0] + float(np.median(np.diff(times)))
        spline = CubicSpline(
            np.append(times, times[0] + cycle), np.append(curve.smooth, curve.smooth[0]), bc_type="periodic"
        )
    else:
        cycle = 0.0
        spline = CubicSpline(times, curve.smooth)
    if es < ed and not curve.closed:
        return None, None, ("no ejection rate, as no end-systole follows end-diastole",)
    start, middle = times[ed], times[es] + (cycle if es < ed else 0.0)
    end = times[-1] if curve.period is None else start + curve.period * float(np.median(np.diff(times)))
    end = end if curve.closed else min(end, times[-1])
    ejection = -_steepest(spline, start, middle, -1)
    filling = _steepest(spline, middle, end, 1) if end > middle else None
    notes = () if filling is not None else ("no filling rate, as the frames end at end-systole",)
    return ejection * 1000, filling * 1000 if filling is not None else None, notes


def _nothing(values: Array, note: str) -> Curve:
    return Curve(values, values, 0.0, np.isfinite(values), False, 0, None, None, None, (note,))


def _is_closed(smooth: Array, error: float) -> bool:
    """Whether step or bend from the last frame to the first are like those within."""
    count = len(smooth)
    if count < 5:
        return False
    if smooth[0] >= smooth.max() - error and smooth[0] - smooth[-1] > 3 / count * float(np.ptp(smooth)) + 2 * error:
        # The atria add at most a third of the stroke volume, over a tenth of the cycle or more: a larger last step is a gap.
        return False
    turned = np.concatenate([smooth[-2:], smooth[:2]])
    for order, seam in ((1, turned[1:3]), (2, turned)):
        within = float(np.abs(np.diff(smooth, order)).max())
        if float(np.abs(np.diff(seam, order)).max()) <= 1.5 * within + error:
            return True
    return False


def _troughs(smooth: Array, closed: bool) -> list[int]:
    """The deepest frame of each contraction: at least half as deep as the whole curve; the deepest frame in any case."""
    count, depth = len(smooth), float(np.ptp(smooth))
    if depth <= 0 or count < 5:
        return [int(np.argmin(smooth))]
    turn = int(np.argmax(smooth)) if closed else 0
    turned = np.roll(smooth, -turn)
    edge = [turned[0]] if closed else [turned.max()]
    peaks = prominent_peaks(-np.concatenate([[turned.max()], turned, edge]), 0.5 * depth)
    return sorted((peak - 1 + turn) % count for peak in peaks) or [int(np.argmin(smooth))]


def prominent_peaks(values: Array, prominence: float) -> list[int]:
    """The places of the local maxima of ``values`` (N,), of a flat one its middle, that stand out by ``prominence``.

    A peak stands out by what must at least be descended from it to reach higher ground (or the end). The same as
    ``scipy.signal.find_peaks``, which takes a third of a second to import.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    ends = np.append(starts[1:], len(values))
    found = []
    for start, end in zip(starts[1:-1], ends[1:-1], strict=True):
        height = values[start]
        sides = values[start - 1 :: -1], values[end:]
        if height > max(side[0] for side in sides):
            reached = [side[: int(np.argmax(side > height)) or None] for side in sides]
            if height - max(float(side.min()) for side in reached) >= prominence:
                found.append(int(start + end - 1) // 2)
    return found


def _period(troughs: list[int], count: int, closed: bool) -> float | None:
    """Frames in a beat, None where the curve holds no whole one."""
    if closed:
        return float(count)
    return float(np.mean(np.diff(troughs))) if len(troughs) > 1 else None


def _best_beat(smooth: Array, error: float, good: NDArray[np.bool_], troughs: list[int], closed: bool) -> tuple[int, int]:
    """ED and ES of the beat with the largest stroke volume; ED comes before ES where there are several beats."""
    count = len(smooth)
    beats = []
    for number, trough in enumerate(troughs):
        start = troughs[number - 1] + 1 if number else 0
        before = np.arange(count) if len(troughs) == 1 else np.arange(start, trough)
        if len(before):
            top = int(before[np.argmax(smooth[before])])
            beats.append((smooth[top] - smooth[trough], top, trough))
    _, top, trough = max(beats, key=lambda beat: beat[0])
    first, last = _level(-smooth, trough, 2 * error, closed, top)
    es = _nearest(good, (first + last + 1) // 2 % count, closed, -smooth)
    first, last = _level(smooth, top, error, closed, trough)
    forward = trough > top if not closed else (trough - top) % count <= _LATE_SYSTOLE * count
    ed = _nearest(good, (last if forward else first) % count, closed, smooth)
    return ed, es


def _level(curve: Array, top: int, tolerance: float, closed: bool, stop: int) -> tuple[int, int]:
    """First and last frame around ``top`` at most ``tolerance`` below it; first <= top <= last, not wrapped."""
    count = len(curve)
    ends = []
    for step in (-1, 1):
        frame = top
        while abs(frame + step - top) < count and (frame + step) % count != stop and (closed or 0 <= frame + step < count):
            if curve[(frame + step) % count] < curve[top] - tolerance:
                break
            frame += step
        ends.append(frame)
    return ends[0], ends[1]


def _nearest(good: NDArray[np.bool_], frame: int, closed: bool, height: Array) -> int:
    """The good frame nearest to ``frame``; of two the higher one."""
    count = len(good)
    away = np.abs(np.arange(count) - frame)
    away = np.minimum(away, count - away) if closed else away
    return int(min(np.flatnonzero(good), key=lambda index: (away[index], -height[index])))


def _systole(ed: int, es: int, count: int, closed: bool, period: float | None) -> float:
    """The part of the beat from ED to ES; 0 where it cannot be told."""
    return ((es - ed) % count) / period if period and (closed or es > ed) else 0.0


def _remarks(smooth: Array, error: float, ed: int, es: int, beats: int, closed: bool, period: float | None) -> list[str]:
    """What the reader should know about how ED and ES were found."""
    notes = []
    depth = float(np.ptp(smooth))
    if depth <= max(0.05 * float(np.max(smooth)), 4 * error):
        notes.append("the volume hardly changes over the frames, so end-diastole and end-systole are uncertain")
    if beats > 1:
        notes.append(f"{beats} beats in the frames: the one with the largest stroke volume is measured")
    if not closed and beats == 1 and len(smooth) >= 5:
        notes.append("the frames do not cover a whole heart cycle: the last does not lead back to the first")
    if _systole(ed, es, len(smooth), closed, period) > _LATE_SYSTOLE:
        notes.append("the volume falls for longer than it rises: the frames may run backwards in time")
    return notes


def _frame_times(
    curve: Curve, times_ms: Sequence[float] | None, heart_rate: float | None
) -> tuple[NDArray[np.floating] | None, str]:
    """Times (T,) in ms, from the heart rate if need be; else None and why."""
    count = len(curve.smooth)
    if times_ms is not None:
        times = np.asarray(times_ms, dtype=np.float64)
        if times.shape == (count,) and np.isfinite(times).all() and (np.diff(times) > 0).all():
            return times, ""
    why = "the times of the frames do not increase" if times_ms is not None else "the times of the frames are not known"
    if heart_rate is None or not heart_rate > 0:
        return None, f"no filling and ejection rates, as {why}, nor is the heart rate"
    if curve.period is None:
        return None, f"no filling and ejection rates, as {why} and the frames do not cover a whole heart cycle"
    return np.arange(count) * (60_000.0 / heart_rate / curve.period), ""


def _steepest(spline: CubicSpline, start: float, end: float, sign: int) -> float:
    """The derivative, per ms, that is largest in the direction of ``sign`` between two times in ms."""
    slopes = spline(np.linspace(start, end, 400), 1)
    return float(slopes.max() if sign > 0 else slopes.min())
