"""What a study says of the person and of the heart beat, as far as it is plausible."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from statistics import median

from pydicom.dataset import Dataset

from cardiac_autoseg.data.dicom_frames import Frame, element, number
from cardiac_autoseg.data.scan import Person

_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_BEATS = (25.0, 220.0)


def read_person(header: Dataset) -> tuple[Person, list[str]]:
    """The person by PatientSex, PatientAge (or birth date and study date), PatientSize and PatientWeight, and notes.

    Values that cannot be true become None, with a note; 0 and empty mean "not entered".
    """
    notes: list[str] = []
    sex = str(element(header, "PatientSex") or "").strip().upper()[:1]
    height = number(element(header, "PatientSize")) or None
    weight = number(element(header, "PatientWeight")) or None
    if height is not None:
        # The standard asks for metres; centimetres are a common mistake.
        height = height if height > 3 else 100 * height
        if not 30 <= height <= 250:
            notes.append(f"the header's height of {height:g} cm cannot be true: not used")
            height = None
    if weight is not None and not 1 <= weight <= 400:
        notes.append(f"the header's weight of {weight:g} kg cannot be true: not used")
        weight = None
    if height and weight and not 8 <= weight / (height / 100) ** 2 <= 100:
        notes.append(f"the header's height of {height:g} cm and weight of {weight:g} kg do not fit each other: not used")
        height = weight = None
    age = _age(header)
    if age is not None and not 0 < age <= 120:
        notes.append(f"the header's age of {age:.0f} years cannot be true: not used")
        age = None
    return Person(sex if sex in ("M", "F") else None, age, height, weight), notes


def read_heart_rate(frames: Sequence[Frame], times_ms: Sequence[float] | None) -> tuple[float | None, list[str]]:
    """Beats per minute and notes.

    From the heart rate of the header, else its RR interval, else the times of the frames if these are one whole beat.
    """
    notes: list[str] = []
    for name in ("heart_rate", "interval"):
        values = [value for frame in frames if (value := getattr(frame, name)) is not None]
        if values:
            rate = median(values) if name == "heart_rate" else 60000 / median(values)
            if _BEATS[0] <= rate <= _BEATS[1]:
                return float(rate), notes
            notes.append(f"the header's heart rate of {rate:.0f} per minute cannot be true: not used")
    if times_ms is not None and len(times_ms) > 1:
        rate = 60000 / (len(times_ms) * (times_ms[-1] - times_ms[0]) / (len(times_ms) - 1))
        if _BEATS[0] <= rate <= _BEATS[1]:
            notes.append(f"the heart rate of {rate:.0f} per minute is that of frames that cover one whole beat")
            return rate, notes
    return None, notes


def _age(header: Dataset) -> float | None:
    """Age in years; None if the header does not say it."""
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", str(element(header, "PatientAge") or "").strip().upper())
    if match and int(match[1]):
        return int(match[1]) * _YEARS[match[2] or "Y"]
    born, studied = _date(element(header, "PatientBirthDate")), _date(element(header, "StudyDate"))
    return (studied - born).days / 365.25 if born and studied else None


def _date(value: object) -> date | None:
    text = str(value or "").replace(".", "")
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None
