"""The check: each thing that can be wrong with a case is found, said, and never stops the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cardiac_autoseg.data.acdc import import_acdc
from cardiac_autoseg.data.check import Checked, check_dataset, looks_swapped
from cardiac_autoseg.data.check_across import join_twins
from cardiac_autoseg.data.importers import import_and_check
from cardiac_autoseg.data.index import LABELS, Case, Dataset
from cardiac_autoseg.data.load import load_image, load_labels, require_same_geometry
from cardiac_autoseg.data.summary import PHASES, coverage_table
from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

from .conftest import GEOMETRY, heart, picture

IMAGE = "patient001/patient001_frame02.nii.gz"
LABEL = "patient001/patient001_frame02_gt.nii.gz"


def check(root: Path, workspace: Workspace) -> Checked:
    return check_dataset(workspace, import_acdc(root, workspace), lambda _: None)


def test_a_sound_data_set_passes(acdc_like: Path, workspace: Workspace) -> None:
    dataset = import_acdc(acdc_like, workspace)
    checked = check_dataset(workspace, dataset, lambda _: None)
    assert checked == Checked(dataset, (), ())


def with_spacing(x: float, y: float, z: float) -> Geometry:
    return dataclasses.replace(GEOMETRY, spacing=(x, y, z))


NAN = np.where(np.arange(960).reshape(3, 16, 20) == 5, np.nan, 1.0).astype(np.float32) * picture(0)


@pytest.mark.parametrize(
    ("image", "geometry", "word"),
    [
        (NAN, GEOMETRY, "1 NaN or infinite"),
        (np.full((3, 16, 20), 7, np.int16), GEOMETRY, "blank"),
        (picture(1), with_spacing(8, 1.5, 1.5), "another axis"),
        (picture(1), with_spacing(1.5, 8, 1.5), "another axis"),
        (np.stack([picture(1), picture(2)]), GEOMETRY, "4D with 2 frames"),
    ],
)
def test_unusable_images_are_left_out_and_nothing_else(
    acdc_like: Path, workspace: Workspace, image: np.ndarray, geometry: Geometry, word: str
) -> None:
    path = acdc_like / "training" / IMAGE
    write_volume(path, image, geometry)
    checked = check(acdc_like, workspace)
    assert len(checked.dataset.cases) == 5
    assert len(checked.left_out) == 1
    assert word in checked.left_out[0]
    assert str(path) in checked.left_out[0]


@pytest.mark.parametrize(
    ("geometry", "word"),
    [
        (with_spacing(1, 1, 1), "lost its spacing"),
        (with_spacing(0.01, 0.01, 8), "not plausible"),
        (with_spacing(1.5, 1.5, 80), "not plausible"),
        (with_spacing(2.4, 2.4, 2.1), "closer than pixels"),
        (with_spacing(1, 2, 8), "far from square"),
    ],
)
def test_odd_spacing_is_a_warning(acdc_like: Path, workspace: Workspace, geometry: Geometry, word: str) -> None:
    write_volume(acdc_like / "training" / IMAGE, picture(1), geometry)
    write_labels(acdc_like / "training" / LABEL, heart(), geometry)
    checked = check(acdc_like, workspace)
    assert not checked.left_out
    assert len(checked.warnings) == 1
    assert word in checked.warnings[0]


@pytest.mark.parametrize(
    ("labels", "geometry", "word"),
    [
        (heart() + 3, GEOMETRY, "4, 5, 6"),
        (heart()[:, :-1], dataclasses.replace(GEOMETRY, size=(20, 15, 3)), "size (20, 16, 3) against (20, 15, 3)"),
        (
            heart(),
            dataclasses.replace(GEOMETRY, origin=(0.0, 5.0, 0.0)),
            "5 mm apart: origin (0, 0, 0) against (0, 5, 0) mm",
        ),
        (heart(), with_spacing(1.5, 1.5, 10), "spacing (1.5, 1.5, 8) against (1.5, 1.5, 10) mm"),
        (heart(), dataclasses.replace(GEOMETRY, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)), "direction"),
    ],
)
def test_unusable_labels_are_left_out_but_the_case_stays(
    acdc_like: Path, workspace: Workspace, labels: np.ndarray, geometry: Geometry, word: str
) -> None:
    path = acdc_like / "training" / LABEL
    write_labels(path, labels, geometry)
    checked = check(acdc_like, workspace)
    assert len(checked.dataset.cases) == 6
    assert len(checked.dataset.labelled("expert")) == 3
    assert len(checked.left_out) == 1
    assert word in checked.left_out[0]
    assert str(path) in checked.left_out[0]


def test_rounding_in_headers_is_nothing_and_a_small_shift_a_warning(acdc_like: Path, workspace: Workspace) -> None:
    path = acdc_like / "training" / LABEL
    for shift, warnings in ((0.001, 0), (0.5, 1)):
        write_labels(path, heart(), dataclasses.replace(GEOMETRY, origin=(shift, 0.0, 0.0)))
        checked = check(acdc_like, workspace)
        assert len(checked.dataset.labelled("expert")) == 4
        assert len(checked.warnings) == warnings
        # What the check lets pass, the later steps must take.
        case = checked.dataset.cases[0]
        labels = load_labels(workspace, checked.dataset, case, "expert")
        require_same_geometry(load_image(workspace, case), labels, case, "expert")


def test_empty_and_incomplete_labels(acdc_like: Path, workspace: Workspace) -> None:
    write_labels(acdc_like / "training" / LABEL, np.zeros_like(heart()), GEOMETRY)
    second = heart(2)
    second[second == 1] = 0
    write_labels(acdc_like / "training" / "patient002/patient002_frame09_gt.nii.gz", second, GEOMETRY)
    checked = check(acdc_like, workspace)
    assert len(checked.dataset.labelled("expert")) == 3
    assert not checked.left_out
    assert ["empty" in message or "no RV anywhere" in message for message in checked.warnings] == [True, True]


def test_a_truncated_file_and_a_directory_in_its_place(acdc_like: Path, workspace: Workspace) -> None:
    path = acdc_like / "training" / IMAGE
    path.write_bytes(path.read_bytes()[:200])
    label = acdc_like / "training" / "patient002/patient002_frame09_gt.nii.gz"
    label.write_bytes(label.read_bytes()[:100])
    checked = check(acdc_like, workspace)
    assert (len(checked.dataset.cases), len(checked.dataset.labelled("expert"))) == (5, 2)
    assert all("cut short" in message for message in checked.left_out)


def test_one_person_under_two_names_is_kept_together(acdc_like: Path, workspace: Workspace) -> None:
    # As patient074 and patient076 of ACDC.
    for frame in ("02", "09"):
        source = acdc_like / "training" / f"patient001/patient001_frame{frame}.nii.gz"
        (acdc_like / "training" / f"patient003/patient003_frame{frame}.nii.gz").write_bytes(source.read_bytes())
    checked = check(acdc_like, workspace)
    twins = {case.id: case.twin_of for case in checked.dataset.cases if case.twin_of}
    assert twins == {"patient003_frame02": "patient001", "patient003_frame09": "patient001"}
    assert {case.person for case in checked.dataset.cases} == {"patient001", "patient002"}
    assert len(checked.dataset.cases) == 6
    assert sum("one person" in message for message in checked.warnings) == 2


def test_duplicates_within_a_subject_and_of_ids(acdc_like: Path, workspace: Workspace) -> None:
    dataset = import_acdc(acdc_like, workspace)
    first = dataset.cases[0]
    doubled = dataclasses.replace(
        dataset, cases=(*dataset.cases, first, dataclasses.replace(first, id="again", subject="PATIENT001"))
    )
    checked = check_dataset(workspace, doubled, lambda _: None)
    assert len(checked.dataset.cases) == 7
    assert "same case id" in checked.left_out[0]
    assert any("upper and lower case" in message for message in checked.warnings)
    twice = dataclasses.replace(dataset, cases=(*dataset.cases, dataclasses.replace(first, id="again", group="RV")))
    warnings = "\n".join(check_dataset(workspace, twice, lambda _: None).warnings)
    assert all(word in warnings for word in ("same image as case", "2 cases are ED", "several groups (NOR, RV)"))


def test_a_phase_alone_is_warned_of(acdc_like: Path, workspace: Workspace) -> None:
    dataset = import_acdc(acdc_like, workspace)
    checked = check_dataset(workspace, dataclasses.replace(dataset, cases=dataset.cases[1:]), lambda _: None)
    assert checked.warnings == ("subject patient001: only ES; EF needs both ED and ES",)


def test_swapped_ventricles_are_noticed(acdc_like: Path, workspace: Workspace) -> None:
    assert not looks_swapped(heart(), LABELS)
    swapped = np.array([0, 3, 2, 1], np.uint8)[heart()]
    assert looks_swapped(swapped, LABELS)
    assert not looks_swapped(np.zeros_like(swapped), LABELS)
    for path in acdc_like.rglob("*_gt.nii.gz"):
        write_labels(path, swapped, GEOMETRY)
    assert any("in 4 of 4 cases" in message and "labels.json" in message for message in check(acdc_like, workspace).warnings)


def test_identical_sources_are_noticed(acdc_like: Path, workspace: Workspace) -> None:
    dataset = import_acdc(acdc_like, workspace)
    cases = [dataclasses.replace(case, labels={**case.labels, "b": case.labels["expert"]}) for case in dataset.cases[:4]]
    doubled = Dataset("x", tuple(cases), {**dataset.sources, "b": dataset.sources["expert"]})
    assert check_dataset(workspace, doubled, lambda _: None).warnings == (
        "sources b and expert are identical in all 4 cases they share; same files?",
    )


def test_nothing_usable_writes_nothing(acdc_like: Path, workspace: Workspace) -> None:
    for path in acdc_like.rglob("*.nii.gz"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no case is usable"):
        import_and_check("acdc", acdc_like, workspace, "expert", None, lambda _: None)
    assert not workspace.dataset.exists()


def test_table(acdc_like: Path, workspace: Workspace) -> None:
    lines = coverage_table(import_acdc(acdc_like, workspace)).splitlines()
    assert lines[1].split() == ["images", "6", "3", "3", "3"]
    assert lines[2].split() == ["expert", "4", "2", "2", "2", "67", "%"]
    assert lines[3] == "groups (subjects): DCM 1, NOR 2"


def test_one_image_in_common_makes_two_subjects_one_person() -> None:
    """For all their cases, and for the twins of twins."""
    twins = {"b_ED": "a", "c_ES": "b"}
    cases = [Case(f"{name}_{phase}", name, "", twin_of=twins.get(f"{name}_{phase}")) for name in "abcd" for phase in PHASES]
    persons = {(case.subject, case.person) for case in join_twins(cases)}
    assert persons == {("a", "a"), ("b", "a"), ("c", "a"), ("d", "d")}
