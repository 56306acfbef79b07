"""Every layout gives the right index; label files find their cases; sources can be added and survive a new import."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cardiac_autoseg.data.acdc import import_acdc
from cardiac_autoseg.data.folder import import_folder
from cardiac_autoseg.data.importers import IMPORTERS, add_source, import_and_check, recognise
from cardiac_autoseg.data.index import Case, Dataset, editing, load_dataset, save_dataset
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.data.mnms import import_mnms
from cardiac_autoseg.data.nnunet import import_nnunet
from cardiac_autoseg.data.parsing import class_values, match_labels, parse_name
from cardiac_autoseg.data.volume import read_cine, write_labels, write_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

from .conftest import GEOMETRY, heart, picture

Report = Callable[[str], None]


def by_id(dataset: Dataset) -> dict[str, Case]:
    return {case.id: case for case in dataset.cases}


def test_acdc(acdc_like: Path, workspace: Workspace) -> None:
    for source in (acdc_like, acdc_like / "training"):
        dataset = import_acdc(source, workspace)
        cases = by_id(dataset)
        assert len(cases) == 6
        case = cases["patient001_frame09"]
        assert (case.subject, case.phase, case.frame, case.group, case.image_frame) == ("patient001", "ES", 9, "NOR", None)
        assert (case.height_cm, case.weight_kg) == (180.0, None)
        assert len(dataset.labelled("expert")) == 4
        assert np.array_equal(load_labels(workspace, dataset, case, "expert").array, heart(2))
    assert len(import_acdc(acdc_like / "training" / "patient001", workspace).cases) == 2


def test_acdc_takes_frames_from_the_cine_where_they_have_no_file(acdc_like: Path, workspace: Workspace) -> None:
    folder = acdc_like / "training" / "patient001"
    (folder / "patient001_frame09.nii.gz").unlink()
    write_volume(folder / "patient001_4d.nii.gz", np.stack([picture(k) for k in range(10)]), GEOMETRY)
    case = by_id(import_acdc(acdc_like, workspace))["patient001_frame09"]
    assert case.image_frame == 8
    assert np.array_equal(load_image(workspace, case).array, picture(8))


@pytest.mark.parametrize("text", ["ED: 1\nES: 1\n", "ED: 0\nES: 4\n", "ED: one\n", ""])
def test_acdc_leaves_out_a_patient_with_a_broken_record(acdc_like: Path, workspace: Workspace, text: str) -> None:
    (acdc_like / "training" / "patient002" / "Info.cfg").write_text(text)
    skipped: list[str] = []
    assert len(import_acdc(acdc_like, workspace, skip=skipped.append).cases) == 4
    assert len(skipped) == 1
    assert "Info.cfg" in skipped[0]
    with pytest.raises(UserError, match="patient002"):
        import_acdc(acdc_like, workspace)


def test_mnms(mnms_like: Path, workspace: Workspace) -> None:
    dataset = import_mnms(mnms_like, workspace)
    cases = by_id(dataset)
    assert set(cases) == {f"{code}_{phase}" for code in ("A1B2C3", "D4E5F6", "G7H8I9") for phase in ("ED", "ES")}
    case = cases["D4E5F6_ES"]
    # 0-based in the table.
    assert (case.image_frame, case.frame, case.group, case.height_cm, case.weight_kg) == (3, 4, "NOR", None, 70.0)
    assert {case.subject for case in dataset.labelled("expert")} == {"A1B2C3", "D4E5F6"}
    # LV and RV are the other way round in the files.
    assert np.array_equal(load_labels(workspace, dataset, case, "expert").array, heart(2))
    assert np.array_equal(load_image(workspace, case).array, picture(203))
    assert len(import_mnms(mnms_like / "Training", workspace).cases) == 4


def test_mnms_empty_masks_are_not_labels_wherever_they_lie(mnms_like: Path, workspace: Workspace, report: Report) -> None:
    shutil.move(mnms_like / "Training" / "Unlabeled" / "G7H8I9", mnms_like / "Training" / "Labeled" / "G7H8I9")
    checked = import_and_check("mnms", mnms_like, workspace, "expert", None, report)
    assert {case.subject for case in checked.dataset.labelled("expert")} == {"A1B2C3", "D4E5F6"}
    assert len(checked.dataset.cases) == 6
    assert not checked.left_out


def test_mnms2(mnms2_like: Path, workspace: Workspace) -> None:
    dataset = import_mnms(mnms2_like, workspace, gt="reader")
    cases = by_id(dataset)
    assert set(cases) == {"001_ED", "001_ES", "002_ED", "002_ES"}
    # The first code lost its zeros in the table.
    assert (cases["001_ED"].group, cases["002_ES"].group) == ("NOR", "FALL")
    assert np.array_equal(load_labels(workspace, dataset, cases["002_ED"], "reader").array, heart(3))


def test_mnms_subject_without_a_row_is_left_out(mnms_like: Path, workspace: Workspace) -> None:
    table = mnms_like / "information.csv"
    table.write_text("\n".join(line for line in table.read_text(encoding="utf-8").splitlines() if "D4E5F6" not in line))
    skipped: list[str] = []
    assert len(import_mnms(mnms_like, workspace, skip=skipped.append).cases) == 4
    assert "D4E5F6" in skipped[0]


def test_nnunet_with_a_second_source(nnunet_like: Path, workspace: Workspace, messages: list[str], report: Report) -> None:
    # macOS leaves such files beside the others.
    (nnunet_like / "imagesTr" / "._patient001_frame01_0000.nii.gz").write_bytes(b"\0" * 100)
    dataset = import_and_check("nnunet", nnunet_like, workspace, "expert", "my name", report).dataset
    assert len(dataset.cases) == 4
    assert not any("LEFT OUT" in message for message in messages)
    assert dataset.name == "my name"
    assert dataset.sources["student"].values == {0: "background", 1: "RV", 2: "MYO", 3: "LV"}
    assert [case.id for case in dataset.labelled("student")] == ["patient001_frame08"]
    cases = by_id(dataset)
    assert {case.subject for case in dataset.cases} == {"patient001", "patient002"}
    # nnU-Net records no phase; frame 8 has the larger cavity here.
    assert (cases["patient002_frame08"].phase, cases["patient002_frame01"].phase) == ("ED", "ES")
    assert any("ED and ES of 2 subjects" in message for message in messages)


def test_nnunet_refuses_what_is_no_heart_and_several_channels(nnunet_like: Path, workspace: Workspace) -> None:
    write_volume(nnunet_like / "imagesTr" / "patient001_frame01_0001.nii.gz", picture(1), GEOMETRY)
    skipped: list[str] = []
    assert len(import_nnunet(nnunet_like, workspace, skip=skipped.append).cases) == 3
    assert "more than one channel" in skipped[0]
    path = nnunet_like / "dataset.json"
    for labels, word in (({"background": 0, "liver": 1}, "'liver'"), ({"background": 0, "RV": [1, 2]}, "one whole number")):
        path.write_text(json.dumps({"labels": labels}))
        with pytest.raises(UserError, match=word):
            import_nnunet(nnunet_like, workspace)
    path.write_text(json.dumps({"labels": {"background": 0, "RV": 1}, "file_ending": ".png"}))
    with pytest.raises(UserError, match=r"\.png"):
        import_nnunet(nnunet_like, workspace)


def test_folder(folder_like: Path, workspace: Workspace) -> None:
    dataset = import_folder(folder_like, workspace)
    cases = by_id(dataset)
    assert set(cases) == {"a_first", "a_second", "b_ED", "b_ES"}
    assert (cases["a_first"].subject, cases["a_first"].phase, cases["a_first"].height_cm) == ("A", "ED", 171.5)
    assert (cases["b_ES"].subject, cases["b_ES"].image_frame, cases["b_ES"].frame) == ("B", 2, 3)
    assert np.array_equal(load_image(workspace, cases["b_ES"]).array, picture(33))
    assert np.array_equal(load_labels(workspace, dataset, cases["b_ES"], "two").array, heart(1))
    assert [case.id for case in dataset.labelled("one")] == ["a_first", "a_second"]
    assert dataset.sources["two"].values[1] == "LV"


def test_folder_without_a_table(folder_like: Path, workspace: Workspace, report: Report) -> None:
    (folder_like / "cases.csv").unlink()
    checked = import_and_check("folder", folder_like, workspace, "expert", None, report)
    # Nothing says which frame of b is meant.
    assert [case.id for case in checked.dataset.cases] == ["a_first", "a_second"]
    assert any("4D with 3 frames" in message for message in checked.left_out)


def test_recognise(
    acdc_like: Path, mnms_like: Path, mnms2_like: Path, nnunet_like: Path, folder_like: Path, tmp_path: Path
) -> None:
    layouts = [recognise(path) for path in (acdc_like, mnms_like, mnms2_like, nnunet_like, folder_like)]
    assert layouts == ["acdc", "mnms", "mnms", "nnunet", "folder"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError) as caught:
        recognise(tmp_path / "nothing")
    assert all(name in str(caught.value) for name in (*IMPORTERS, "Info.cfg", "External code", "imagesTr", "images/"))
    with pytest.raises(UserError, match="not a folder"):
        recognise(tmp_path / "absent")


def test_images_stay_where_they_are(acdc_like: Path, workspace: Workspace, report: Report) -> None:
    import_and_check("auto", acdc_like, workspace, "expert", None, report)
    assert [path.name for path in workspace.root.iterdir()] == ["dataset.json"]
    loaded = load_dataset(workspace.dataset)
    assert all(Path(case.image).is_absolute() for case in loaded.cases)
    # A workspace that holds its data can be moved as a whole.
    inside = Workspace(acdc_like)
    assert not Path(import_acdc(acdc_like, inside).cases[0].image).is_absolute()


@pytest.fixture
def imported(acdc_like: Path, workspace: Workspace) -> Dataset:
    return import_and_check("acdc", acdc_like, workspace, "expert", None, lambda _: None).dataset


def test_add_source_that_covers_some_cases(imported: Dataset, workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "student" / "deep"
    for name in ("patient001_frame02", "PATIENT002_frame09_gt", "patient003_frame02-seg", "patient999_frame01"):
        write_labels(folder / f"{name}.nii.gz", heart(1), GEOMETRY)
    checked = add_source(workspace, "nonexpert1", tmp_path / "student", lambda _: None, simulated=True, note="30 minutes")
    saved = load_dataset(workspace.dataset)
    assert saved == checked.dataset
    assert {case.id for case in saved.labelled("nonexpert1")} == {
        "patient001_frame02",
        "patient002_frame09",
        "patient003_frame02",
    }
    assert saved.sources["nonexpert1"].simulated
    assert saved.sources["nonexpert1"].note == "30 minutes"
    assert len(checked.left_out) == 1
    assert "patient999_frame01.nii.gz" in checked.left_out[0]
    assert [case.labels.get("expert") for case in saved.cases] == [case.labels.get("expert") for case in imported.cases]


def test_a_source_can_grow_and_survives_a_new_import(
    imported: Dataset, workspace: Workspace, acdc_like: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    for count, name in enumerate(("patient001_frame02", "patient001_frame09"), 1):
        write_labels(folder / f"{name}.nii.gz", heart(count), GEOMETRY)
        add_source(workspace, "student", folder, lambda _: None)
        assert len(load_dataset(workspace.dataset).labelled("student")) == count
    before = load_dataset(workspace.dataset)
    import_and_check("acdc", acdc_like, workspace, "expert", None, lambda _: None)
    assert load_dataset(workspace.dataset) == before
    with pytest.raises(UserError, match="labels from elsewhere"):
        add_source(workspace, "expert", folder, lambda _: None)
    assert load_dataset(workspace.dataset) == before
    assert imported.sources.keys() < before.sources.keys()


def test_a_source_of_links_can_be_given_again(imported: Dataset, workspace: Workspace, tmp_path: Path) -> None:
    write_labels(tmp_path / "real" / "x.nii.gz", heart(1), GEOMETRY)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / f"{imported.cases[0].id}.nii.gz").symlink_to(tmp_path / "real" / "x.nii.gz")
    for _ in range(2):
        assert len(add_source(workspace, "linked", tmp_path / "links", lambda _: None).dataset.labelled("linked")) == 1


def test_a_workspace_of_another_data_set_is_not_overwritten(
    imported: Dataset, workspace: Workspace, folder_like: Path
) -> None:
    with pytest.raises(UserError, match="another data set"):
        import_and_check("folder", folder_like, workspace, "expert", None, lambda _: None)
    assert load_dataset(workspace.dataset) == imported


def test_add_source_with_4d_files_of_the_whole_cine(mnms_like: Path, workspace: Workspace, tmp_path: Path) -> None:
    import_and_check("mnms", mnms_like, workspace, "expert", None, lambda _: None)
    write_labels(tmp_path / "reader" / "A1B2C3_sa_gt.nii.gz", np.stack([heart(k) for k in (1, 2, 3, 1)]), GEOMETRY)
    write_labels(tmp_path / "reader" / "D4E5F6_ED.nii.gz", heart(2), GEOMETRY)
    dataset = add_source(workspace, "reader", tmp_path / "reader", lambda _: None).dataset
    cases = by_id(dataset)
    assert {case.id for case in dataset.labelled("reader")} == {"A1B2C3_ED", "A1B2C3_ES", "D4E5F6_ED"}
    assert np.array_equal(load_labels(workspace, dataset, cases["A1B2C3_ED"], "reader").array, heart(2))
    assert np.array_equal(load_labels(workspace, dataset, cases["D4E5F6_ED"], "reader").array, heart(2))


def test_add_source_refuses_what_cannot_be_meant(imported: Dataset, workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    write_labels(folder / "other.nii.gz", heart(1), GEOMETRY)
    (tmp_path / "void").mkdir()
    for name, directory, word in (
        ("x", folder, "none of the 1 files"),
        ("x", tmp_path / "void", "holds no"),
        ("x", tmp_path / "absent", "not a folder"),
        ("a/b", folder, "cannot be the name"),
    ):
        with pytest.raises(UserError, match=word):
            add_source(workspace, name, directory, lambda _: None)
    assert load_dataset(workspace.dataset) == imported


def test_two_files_for_a_case_are_not_guessed_between() -> None:
    cases = [Case(id="p_ED", subject="p", image="p_ED.nii.gz"), Case(id="q_ED", subject="q", image="q_0000.nii.gz")]
    match = match_labels([Path("a/p_ED.nii.gz"), Path("b/p_ED_gt.nii.gz"), Path("q_mask.nii")], cases)
    assert match.found == {"q_ED": (Path("q_mask.nii"), None)}
    assert len(match.unmatched) == 1
    assert "2 files for case p_ED" in match.unmatched[0]
    twice = match_labels([Path("p_ED_seg.nii.gz")], [cases[0], dataclasses.replace(cases[0], id="p_ED_seg")])
    assert twice.found == {"p_ED_seg": (Path("p_ED_seg.nii.gz"), None)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("patient001_frame01", ("patient001", None, 1)),
        ("X_ED", ("X", "ED", None)),
        ("a-b_es", ("a-b", "ES", None)),
        ("001_SA_ES", ("001", "ES", None)),
        ("frame01", ("frame01", None, None)),
        ("somebody", ("somebody", None, None)),
    ],
)
def test_subject_and_phase_from_names(name: str, expected: tuple[str, str | None, int | None]) -> None:
    assert parse_name(name) == expected


def test_class_values_by_name_in_both_directions() -> None:
    path = Path("labels.json")
    assert class_values({"1": "RV", "2": "Myocardium", "3": "left ventricle"}, path) == {
        0: "background",
        1: "RV",
        2: "MYO",
        3: "LV",
    }
    assert class_values({"background": 0, "LV_cavity": 500, "RV": 600}, path) == {0: "background", 500: "LV", 600: "RV"}
    for mapping in ({"LV": 1, "LVC": 2}, {"LV": 1, "RV": 1}, {"LV": 0}, {"background": 3, "LV": 1}, {}, {"LV": "two"}):
        with pytest.raises(UserError, match=r"labels\.json"):
            class_values(mapping, path)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody else, which root alone may")
def test_a_folder_that_may_not_be_read_is_a_user_error(imported: Dataset, workspace: Workspace, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(UserError, match="permissions"):
            recognise(tmp_path / "acdc_like")
        with pytest.raises(UserError, match="permissions"):
            import_and_check("acdc", tmp_path / "acdc_like", workspace, "expert", None, lambda _: None)
    finally:
        os.seteuid(0)
    assert load_dataset(workspace.dataset) == imported


@pytest.mark.realdata
def test_acdc_itself(acdc: Path, workspace: Workspace) -> None:
    dataset = import_acdc(acdc, workspace)
    assert len(dataset.cases) == 200
    assert len(dataset.labelled("expert")) == 200
    groups = [case.group for case in dataset.cases if case.phase == "ED"]
    assert {name: groups.count(name) for name in groups} == dict.fromkeys(("DCM", "HCM", "MINF", "NOR", "RV"), 20)
    # ED is not always the first frame; frames are counted from 1.
    case = by_id(dataset)["patient090_frame04"]
    assert (case.phase, case.frame) == ("ED", 4)
    cine = read_cine(acdc / "patient090" / "patient090_4d.nii.gz")
    assert np.array_equal(cine.array[3], load_image(workspace, case).array)


def test_sources_added_at_once_are_all_kept(imported: Dataset, workspace: Workspace, tmp_path: Path) -> None:
    write_labels(tmp_path / "other" / "patient001_frame02.nii.gz", heart(), GEOMETRY)
    with ThreadPoolExecutor(1) as pool:
        with editing(workspace.dataset):
            adding = pool.submit(add_source, workspace, "other", tmp_path / "other", lambda _: None)
            with pytest.raises(TimeoutError):
                adding.result(0.3)
            meanwhile = {**imported.sources, "third": imported.sources["expert"]}
            save_dataset(workspace.dataset, dataclasses.replace(imported, sources=meanwhile))
        adding.result(30)
    assert load_dataset(workspace.dataset).sources.keys() == {"expert", "other", "third"}
