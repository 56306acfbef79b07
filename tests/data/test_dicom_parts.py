"""Parts of DICOM reading by themselves: grids, times, kinds of frame, person and heart rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from cardiac_autoseg.data.dicom_frames import Frame, frames_of, number
from cardiac_autoseg.data.dicom_person import read_heart_rate, read_person
from cardiac_autoseg.data.dicom_series import Stack, why_not
from cardiac_autoseg.data.dicom_stack import regular_grid, time_key


def header(**values: Any) -> Dataset:
    dataset = Dataset()
    dataset.Rows, dataset.Columns = 8, 8
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SeriesInstanceUID = [1.5, 1.25], "1.2"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def frame(**values: Any) -> Frame:
    (one,) = frames_of(Path("x"), header(**values))
    return one


def person(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("along", "places", "spacing"),
    [
        ([0, 8, 16, 24], (0, 1, 2, 3), 8),
        ([-5, 3, 19], (0, 1, 3), 8),
        ([0, 8.05, 15.9, 24.03], (0, 1, 2, 3), 8.01),
        ([0, 8, 13, 24], None, None),
        ([0, 8, 16, 48, 56], None, None),
        ([4], (0,), 0),
    ],
)
def test_regular_grid(along: list[float], places: tuple[int, ...] | None, spacing: float | None) -> None:
    grid = regular_grid(np.array(along, float))
    assert (grid and grid.places) == places
    if grid is not None:
        assert grid.spacing == pytest.approx(spacing)


def test_time_keys() -> None:
    constant = [frame(TriggerTime=100, AcquisitionTime=f"1000{n:02d}", InstanceNumber=n) for n in range(9)]
    assert time_key([tuple(constant)]) == "acquired"
    jitter = [frame(TriggerTime=100 + n, InstanceNumber=n) for n in range(9)]
    assert time_key([tuple(jitter)]) == "instance"
    twice = [frame(TriggerTime=40 * (n // 2), TemporalPositionIdentifier=n) for n in range(18)]
    assert time_key([tuple(twice)]) == "temporal"
    some = [frame(**({"TriggerTime": 40 * n} if n else {}), ContentTime=f"1000{n:02d}") for n in range(9)]
    assert time_key([tuple(some)]) == "content"


@pytest.mark.parametrize(
    ("values", "phase", "flow"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}, False, False),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, True, False),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"]}, True, True),
        ({"SequenceName": "*fl2d1_v150in"}, False, True),
        ({"SequenceName": "*tfi2d1_15"}, False, False),
        ({"PhaseContrast": "YES"}, False, True),
        ({"ComplexImageComponent": "PHASE"}, True, False),
    ],
)
def test_phase_and_flow(values: dict[str, Any], phase: bool, flow: bool) -> None:
    one = frame(**values)
    assert (one.phase, one.flow) == (phase, flow)


def test_frames_without_a_place_do_not_count() -> None:
    assert frames_of(Path("x"), header(ImagePositionPatient=None)) == []
    assert frames_of(Path("x"), header(ImageOrientationPatient=[1, 0, 0, 0.7, 0.7, 0])) == []
    assert frames_of(Path("x"), header(PixelSpacing=[0, 1])) == []
    with pytest.raises(ValueError, match="frames"):
        frames_of(Path("x"), header(NumberOfFrames=10**9))


def test_perfusion_is_no_cine() -> None:
    frames = tuple(
        frame(
            ImagePositionPatient=[0, 0, 8 * z], TriggerTime=120, AcquisitionTime=f"10{t // 60:02d}{t % 60:02d}", EchoTime=1
        )
        for z in range(3)
        for t in range(30)
    )
    assert "1000 ms apart" in str(why_not(Stack(frames)))


@pytest.mark.parametrize(
    ("values", "expected", "notes"),
    [
        ({"PatientSex": "M", "PatientAge": "063Y", "PatientSize": 1.8, "PatientWeight": 80}, ("M", 63, 180, 80), 0),
        ({"PatientSex": "O", "PatientAge": "000Y", "PatientSize": 0, "PatientWeight": 0}, (None, None, None, None), 0),
        ({"PatientAge": "018M", "PatientSize": 82, "PatientWeight": 11}, (None, 1.5, 82, 11), 0),
        ({"PatientSize": 172, "PatientWeight": 70.5}, (None, None, 172, 70.5), 0),
        ({"PatientSize": 17.2, "PatientWeight": 800}, (None, None, None, None), 2),
        ({"PatientSize": 1.72, "PatientWeight": 7}, (None, None, None, None), 1),
        ({"PatientBirthDate": "19500701", "StudyDate": "20000701", "PatientSex": "F "}, ("F", 50, None, None), 0),
        ({"PatientBirthDate": "00000000", "StudyDate": "20120000"}, (None, None, None, None), 0),
        ({"PatientBirthDate": "18000101", "StudyDate": "20200101"}, (None, None, None, None), 1),
    ],
)
def test_person(values: dict[str, Any], expected: tuple[Any, ...], notes: int) -> None:
    with disable_value_validation():  # as the reader does
        one, told = read_person(person(**values))
    assert (one.sex, one.age, one.height_cm, one.weight_kg) == pytest.approx(expected, abs=0.01)
    assert len(told) == notes


@pytest.mark.parametrize(
    ("values", "times", "rate", "notes"),
    [
        ({"HeartRate": 71, "NominalInterval": 900}, None, 71, 0),
        ({"NominalInterval": 800}, None, 75, 0),
        ({"HeartRate": 999, "NominalInterval": 800}, None, 75, 1),
        ({}, [0, 40, 80, 120, 160, 200, 240, 280, 320, 360, 400, 440, 480, 520, 560, 600, 640, 680, 720, 760], 75, 1),
        ({}, [0.0, 1.0], None, 0),
        ({}, None, None, 0),
    ],
)
def test_heart_rate(values: dict[str, Any], times: list[float] | None, rate: float | None, notes: int) -> None:
    found, told = read_heart_rate([frame(**values)], times)
    assert found == pytest.approx(rate)
    assert len(told) == notes


def test_numbers_from_anything() -> None:
    assert [number(value) for value in ("1.5", [2, 3], [], "abc", None, float("nan"), b"x")] == [1.5, 2, *[None] * 5]
