"""Label tables: 3D Slicer's and ITK-SNAP's files hold the labels, in place, with the names and colours of the tool."""

from __future__ import annotations

import re
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK as sitk

from cardiac_autoseg.colors import STRUCTURE_COLORS, rgb
from cardiac_autoseg.data.geometry import Geometry, geometry_difference
from cardiac_autoseg.data.label_tables import write_itksnap_labels, write_slicer_colors, write_slicer_segmentation
from cardiac_autoseg.data.volume import from_sitk, read_volume, write_labels

NAMES = {"RV": 1, "MYO": 2, "LV": 3}


def oblique() -> Geometry:
    direction, _ = np.linalg.qr(np.array([[0.7, -0.3, 0.6], [0.7, 0.3, -0.6], [0.1, 0.9, 0.4]]))
    return Geometry((7, 5, 4), (1.2891, 1.31, 8.05), (-28.7592, -199.666, 111.184), tuple(direction.ravel()))


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4, (4, 5, 7)).astype(np.uint8)


def test_segmentation_is_in_the_place_of_the_nifti(labels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "ed.seg.nrrd"
    write_slicer_segmentation(path, labels, oblique(), NAMES)
    write_labels(tmp_path / "ed.nii.gz", labels, oblique())
    image = from_sitk(sitk.ReadImage(str(path)))
    assert np.array_equal(image.array, labels)
    assert geometry_difference(image.geometry, oblique(), 1e-4) is None
    # NIfTI keeps its geometry in single precision.
    assert geometry_difference(image.geometry, read_volume(tmp_path / "ed.nii.gz").geometry, 1e-4) is None


def test_segments_have_names_colours_and_values(labels: np.ndarray, tmp_path: Path) -> None:
    labels[labels == 2] = 0
    labels[0] = 0
    write_slicer_segmentation(tmp_path / "ed.seg.nrrd", labels, oblique(), NAMES | {"background": 0})
    data, header = nrrd.read(str(tmp_path / "ed.seg.nrrd"))
    assert np.array_equal(data.transpose(2, 1, 0), labels)
    assert header["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert [header[f"Segment{i}_Name"] for i in range(3)] == ["RV cavity", "LV myocardium", "LV cavity"]
    assert "Segment3_Name" not in header
    for index, name in enumerate(("RV", "MYO", "LV")):
        assert int(header[f"Segment{index}_LabelValue"]) == NAMES[name]
        shown = np.array(header[f"Segment{index}_Color"].split(), float) * 255
        assert np.allclose(shown, rgb(name, NAMES), atol=0.01)
        tags = header[f"Segment{index}_Tags"]
        assert re.fullmatch(r"TerminologyEntry:[^~]+~SCT\^\d+\^[^~]+~SCT\^\d+\^[^~]+~\^\^~[^~]+~\^\^~\^\^\|", tags)
    first = [int(v) for v in header["Segment0_Extent"].split()]
    filled = np.argwhere(data == 1)
    assert first == [int(v) for axis in range(3) for v in (filled[:, axis].min(), filled[:, axis].max())]
    assert header["Segment1_Extent"] == "0 -1 0 -1 0 -1"


def test_labels_of_another_shape_are_refused(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fit"):
        write_slicer_segmentation(tmp_path / "ed.seg.nrrd", labels[:2], oblique(), NAMES)
    assert not list(tmp_path.iterdir())


def test_itksnap_labels(tmp_path: Path) -> None:
    write_itksnap_labels(tmp_path / "a.label", NAMES)
    lines = (tmp_path / "a.label").read_text().splitlines()
    assert lines[1] == "# ITK-SnAP Label Description File"
    found = {}
    for line in lines:
        if not line.startswith("#"):
            match = re.fullmatch(r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([0-9.]+)\s+([01])\s+([01])\s+"(.*)"', line)
            assert match is not None, line
            found[int(match[1])] = ((int(match[2]), int(match[3]), int(match[4])), match[8])
    assert found[0] == ((0, 0, 0), "Clear Label")
    assert found[3] == (rgb("LV", NAMES), "LV cavity") and len(found) == 4


def test_slicer_colors(tmp_path: Path) -> None:
    write_slicer_colors(tmp_path / "a.ctbl", NAMES | {"left atrium": 4})
    rows = [line.split() for line in (tmp_path / "a.ctbl").read_text().splitlines() if not line.startswith("#")]
    assert [row[:2] for row in rows] == [
        ["0", "background"],
        ["1", "RV_cavity"],
        ["2", "LV_myocardium"],
        ["3", "LV_cavity"],
        ["4", "left_atrium"],
    ]
    assert all(len(row) == 6 for row in rows)
    assert "#{:02x}{:02x}{:02x}".format(*map(int, rows[2][2:5])) == STRUCTURE_COLORS["MYO"]
