"""The Sunnybrook series SC-HF-I-4: order, geometry and pixels against other programs and other elements of the headers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from cardiac_autoseg.data.dicom import is_dicom_input, read_study
from cardiac_autoseg.data.scan import Scan

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def folder() -> Path:
    data = Path(os.environ.get("CAS_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    path = data / "sunnybrook" / "SC-HF-I-4"
    if not path.is_dir():
        pytest.skip("Sunnybrook data not here (set CAS_TEST_DATA)")
    return path


@pytest.fixture(scope="module")
def scan(folder: Path) -> Scan:
    return read_study(folder)


def test_what_the_series_says(folder: Path, scan: Scan) -> None:
    assert is_dicom_input(folder)
    assert scan.array.shape == (20, 10, 256, 256)
    # Slice locations in the headers are 5.3 mm apart, positions 8 mm.
    assert scan.geometry.spacing == pytest.approx((1.2891, 1.2891, 8.0), abs=1e-3)
    assert scan.heart_rate == 65
    assert scan.times_ms is not None
    assert (scan.times_ms[0], scan.times_ms[-1]) == (10, 886)
    assert np.diff(scan.times_ms) == pytest.approx(46, abs=1.1)
    assert scan.notes == ()
    # Dates of the anonymised headers are no dates.
    assert (scan.person.sex, scan.person.age, scan.person.height_cm) == (None, None, None)


def test_order_agrees_with_instance_numbers(scan: Scan) -> None:
    # The scanner counted from the last slice, frames within a slice; the reader does not look at this number here.
    for t, row in enumerate(scan.instances):
        for z, item in enumerate(row):
            assert item is not None
            image = pydicom.dcmread(item.path)
            assert int(image.InstanceNumber) == (9 - z) * 20 + t + 1
            if (t + z) % 7 == 0:
                assert np.array_equal(scan.array[t, z], image.pixel_array)


def test_geometry_agrees_with_itk(scan: Scan, tmp_path: Path) -> None:
    for index, item in enumerate(scan.instances[7]):
        assert item is not None
        # Names that sort otherwise: ITK has to order the slices by their positions.
        (tmp_path / f"{index * 7 % 10}.dcm").symlink_to(item.path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(image), scan.array[7])
    assert image.GetSpacing() == pytest.approx(scan.geometry.spacing, abs=1e-3)
    assert image.GetOrigin() == pytest.approx(scan.geometry.origin, abs=1e-6)
    assert image.GetDirection() == pytest.approx(scan.geometry.direction, abs=1e-4)
