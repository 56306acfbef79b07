"""The fingerprint of real cases against SimpleITK's own shape statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from planning.fingerprint import build_fingerprint
from planning.measure import measure_case
from planning.planner import make_plan

CLASSES = ("background", "RV", "MYO", "LV")


@pytest.mark.realdata
def test_volumes_and_extents_are_those_of_simpleitk(acdc: Path) -> None:
    measured = []
    for path in sorted(acdc.glob("patient00[1-6]/*_gt.nii.gz")):
        labels = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkUInt8)
        image = sitk.ReadImage(str(path).replace("_gt", ""))
        array = sitk.GetArrayFromImage(labels)
        case = measure_case(
            sitk.GetArrayFromImage(image), {"expert": array}, labels.GetSpacing()[::-1], path.name[:-10], CLASSES
        )
        source = case.sources["expert"]
        shapes = sitk.LabelShapeStatisticsImageFilter()
        shapes.Execute(labels)
        for value, name in enumerate(CLASSES[1:], 1):
            assert source.volumes_ml[name] == pytest.approx(shapes.GetPhysicalSize(value) / 1000, rel=1e-5)
        shapes.Execute(labels > 0)
        _, _, _, width, height, depth = shapes.GetBoundingBox(1)
        expected = np.array([height, width]) * labels.GetSpacing()[1::-1]
        assert source.extent_mm == pytest.approx(tuple(expected))
        assert source.label_slices == depth
        measured.append(case)
    found = build_fingerprint("acdc", CLASSES, measured, {case.case_id: case.case_id[:10] for case in measured}, "hash")
    assert found.coverage["expert"].subjects == 6
    plan = make_plan(found, "unet", "cpu")
    assert 96 <= min(plan.patch) <= max(plan.patch) <= 160
