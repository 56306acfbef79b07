"""From a study to everything a person opens: the files are there, and say the same thing."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

import cardiac_autoseg.inference.model as model_module
from cardiac_autoseg.cli.predict import main
from cardiac_autoseg.data.volume import write_volume
from cardiac_autoseg.inference.predictor import predict
from cardiac_autoseg.phantom import Subject, make_subject
from cardiac_autoseg.phantom.dicom import write_dicom


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> NDArray[np.uint8]:
    """Networks that know the truth of ``subject``: labels (T, Z, Y, X) of every frame."""
    from cardiac_autoseg.phantom import render

    frames = [float(subject.acquisition.contractions()[frame]) for frame in subject.frame_numbers]
    truth = np.asarray(render(subject.anatomy, subject.acquisition, frames)[1])

    def knowing(groups: Any, array: NDArray[Any], *args: Any, **options: Any) -> Any:
        found = predict(groups, array, *args, **options)
        values = np.array(truth if array.shape == truth.shape else np.zeros(array.shape, np.uint8))
        return type(found)(values, found.statistics, found.probabilities)

    monkeypatch.setattr(model_module, "predict", knowing)
    return truth


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--device", "cpu"])


def test_study_to_everything(
    tmp_path: Path, small_bundle: Path, subject: Subject, perfect: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    write_dicom(tmp_path / "study", subject)
    out = tmp_path / "out"
    capsys.readouterr()
    assert run("-i", tmp_path / "study", "-o", out, "--model", small_bundle, "--slicer", "--json", "--heart-rate", 60) == 0
    said = capsys.readouterr()
    (record,) = json.loads(said.out)
    if sys.platform == "linux":
        assert "the first slice was through a network" in said.err
    names = {path.name for path in out.iterdir()}
    expected = {"study.nii.gz", "study.html", "study.json", "study_seg.dcm", "study_seg_ED.dcm", "study_seg_ES.dcm"}
    expected |= {"study_sr.dcm", "study_ED.seg.nrrd", "study_ES.seg.nrrd", "index.html", "measurements.csv"}
    assert names == expected | {"prediction.json", "labels_itksnap.txt", "labels_slicer.ctbl"}
    # Labels, whichever way the slices were sorted, and numbers that follow from them.
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "study.nii.gz")))
    np.testing.assert_array_equal(labels, perfect)
    voxel = float(np.prod(subject.geometry.spacing)) / 1000
    volumes = (labels == 3).sum((1, 2, 3)) * voxel
    np.testing.assert_allclose(record["volumes_ml"]["LV"], volumes, rtol=1e-3)
    numbers = {name: item["value"] for name, item in record["numbers"].items()}
    assert numbers["LV_EDV"] == pytest.approx(volumes[record["ed_frame"] - 1], rel=1e-3)
    assert numbers["LV_EF"] == pytest.approx(100 * (1 - numbers["LV_ESV"] / numbers["LV_EDV"]), rel=1e-3)
    assert abs(record["ed_frame"] - 1 - subject.ed_frame) <= 1
    assert abs(record["es_frame"] - 1 - subject.es_frame) <= 1
    assert record["heart_rate"] == 60
    assert numbers["LV_CO"] == pytest.approx(0.06 * numbers["LV_SV"], rel=1e-3)
    # The table, the report and the page say the same.
    with (out / "measurements.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["LV_EF (%)"]) == pytest.approx(numbers["LV_EF"], rel=1e-3)
    text = str(pydicom.dcmread(out / "study_sr.dcm"))
    assert f"{numbers['LV_EDV']:.1f}"[:4] in text
    assert pydicom.dcmread(out / "study_seg.dcm").SegmentSequence[2].SegmentLabel
    assert "not a medical device" in (out / "study.html").read_text()
    assert 'href="study.html"' in (out / "index.html").read_text()


def test_zip_of_a_study_is_its_folder(tmp_path: Path, small_bundle: Path, subject: Subject) -> None:
    files = write_dicom(tmp_path / "study", subject)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    assert run("-i", tmp_path / "study", tmp_path / "packed.zip", "-o", tmp_path / "out", "--model", small_bundle) == 0
    first, second = (sitk.ReadImage(str(tmp_path / "out" / f"{name}.nii.gz")) for name in ("study", "packed"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(second))
    assert first.GetOrigin() == second.GetOrigin()


def test_one_bad_case_is_named_on_the_index_and_the_others_go_on(
    tmp_path: Path, small_bundle: Path, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(tmp_path / "in" / "good.nii.gz", subject.cine[:3], subject.geometry)
    (tmp_path / "in" / "bad.nii.gz").write_bytes(b"no image")
    arguments = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--model", small_bundle)
    assert run(*arguments) == 1
    assert "bad.nii.gz: FAILED" in capsys.readouterr().err
    page = (tmp_path / "out" / "index.html").read_text()
    assert "bad" in page
    assert "failed" in page
    assert 'href="good.html"' in page
    # Done again, the good one is kept and still on the index.
    kept = (tmp_path / "out" / "good.html").stat().st_mtime_ns
    assert run(*arguments) == 1
    assert (tmp_path / "out" / "good.html").stat().st_mtime_ns == kept
    assert 'href="good.html"' in (tmp_path / "out" / "index.html").read_text()


def test_a_case_without_its_page_is_done_again(tmp_path: Path, small_bundle: Path, subject: Subject) -> None:
    write_volume(tmp_path / "a.nii.gz", subject.image_ed, subject.geometry)
    arguments = ("-i", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--model", small_bundle)
    assert run(*arguments, "--labels-only") == 0
    assert not (tmp_path / "out" / "a.html").exists()
    assert run(*arguments) == 0
    assert (tmp_path / "out" / "a.html").exists()
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert record["ed_frame"] is record["es_frame"] is None, "a single volume may be of any phase"
    assert record["numbers"]["LV_volume"]["value"] >= 0
    assert "LV_EF" not in record["numbers"] or record["numbers"]["LV_EF"]["value"] is None


def test_given_frames_and_person_are_used(tmp_path: Path, small_bundle: Path, subject: Subject, perfect: object) -> None:
    del perfect
    write_volume(tmp_path / "a.nii.gz", subject.cine, subject.geometry)
    given = ("--ed", 3, "--es", 5, "--sex", "F", "--height", 165, "--weight", 60)
    base = ("-i", tmp_path / "a.nii.gz", "--model", small_bundle)
    assert run(*base, "-o", tmp_path / "out", *given) == 0
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (record["ed_frame"], record["es_frame"], record["ed_es"]) == (3, 5, "given")
    assert record["person"]["sex"] == "F"
    body = (165 * 60 / 3600) ** 0.5  # Mosteller 1987
    indexed = record["numbers"]["LV_EDVi"]
    assert indexed["value"] == pytest.approx(record["numbers"]["LV_EDV"]["value"] / body, rel=1e-3)
    assert run(*base, "-o", tmp_path / "other", "--es", 99) == 2
    assert run(*base, "-o", tmp_path / "other", "--ed", 3, "--es", 3) == 2


def test_two_cases_take_a_table(tmp_path: Path, small_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate("ab"):
        other = make_subject(seed, "NOR", size="small", whole_cycle=False)
        write_volume(tmp_path / "in" / f"{name}.nii.gz", other.image_ed, other.geometry)
    (tmp_path / "people.csv").write_text("case,sex,heart_rate\na,M,55\n")
    arguments = ("-i", tmp_path / "in", "-o", tmp_path / "out", "--model", small_bundle)
    assert run(*arguments, "--sex", "M") == 2
    assert "use a table" in capsys.readouterr().err
    assert run(*arguments, "--people", tmp_path / "people.csv") == 0
    records = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in "ab"}
    assert records["a"]["person"]["sex"] == "M"
    assert records["a"]["heart_rate"] == 55
    assert records["b"]["person"]["sex"] is None


def test_results_of_another_scan_of_the_same_name_are_not_taken_for_it(
    tmp_path: Path, small_bundle: Path, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, image in (("anna", subject.image_ed), ("bert", subject.image_es)):
        write_volume(tmp_path / folder / "scan.nii.gz", image, subject.geometry)
    options = ("-o", tmp_path / "out", "--model", small_bundle, "--labels-only")
    assert run("-i", tmp_path / "anna", *options) == 0
    assert run("-i", tmp_path / "bert", *options) == 2
    assert "another scan" in capsys.readouterr().err
    assert run("-i", tmp_path / "bert", *options, "--overwrite") == 0
    assert run("-i", tmp_path / "bert", *options) == 0
    assert run("-i", tmp_path / "anna", *options) == 2
    # Labels that a person corrected, with a tool that keeps no description, are theirs.
    labels = tmp_path / "out" / "scan.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4), np.uint8)), str(labels))
    kept = labels.read_bytes()
    assert run("-i", tmp_path / "anna", *options) == 0
    assert labels.read_bytes() == kept


def test_results_of_another_model_are_not_taken_for_this_ones(
    tmp_path: Path, small_bundle: Path, subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        write_volume(tmp_path / "in" / f"{name}.nii.gz", subject.image_ed, subject.geometry)
    options = ("-o", tmp_path / "out", "--model", small_bundle, "--labels-only")
    assert run("-i", tmp_path / "in" / "a.nii.gz", *options) == 0
    assert run("-i", tmp_path / "in" / "b.nii.gz", *options, "--fast") == 0
    capsys.readouterr()
    assert run("-i", tmp_path / "in", *options) == 2, "b is of --fast"
    assert "another model" in capsys.readouterr().err
    assert run("-i", tmp_path / "in" / "a.nii.gz", *options) == 0


def test_done_again_leaves_nothing_of_the_time_before(
    tmp_path: Path, small_bundle: Path, subject: Subject, perfect: object
) -> None:
    del perfect
    write_volume(tmp_path / "a.nii.gz", subject.cine, subject.geometry)
    arguments = ("-i", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "--model", small_bundle)

    def names() -> set[str]:
        return {path.name for path in (tmp_path / "out").glob("a*")}

    assert run(*arguments) == 0
    assert run(*arguments, "--slicer") == 0
    assert names() == {"a.nii.gz", "a.json", "a.html", "a_ED.seg.nrrd", "a_ES.seg.nrrd"}
    assert run(*arguments, "--save-probabilities") == 0
    assert "a_ED.seg.nrrd" in names(), "what is asked for later is added"
    assert run(*arguments, "--labels-only", "--overwrite") == 0
    assert names() == {"a.nii.gz"}
    assert run(*arguments, "--labels-only", "--slicer") == 2


def test_a_case_whose_dicom_objects_cannot_be_made_is_delivered(
    tmp_path: Path, small_bundle: Path, subject: Subject, perfect: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cardiac_autoseg.data.dicom_sr as dicom_sr

    del perfect

    def broken(*_arguments: object, **_options: object) -> None:
        raise ValueError("no study date")

    monkeypatch.setattr(dicom_sr, "write_sr", broken)
    write_dicom(tmp_path / "study", subject)
    assert run("-i", tmp_path / "study", "-o", tmp_path / "out", "--model", small_bundle) == 0
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    assert any("no study date" in note for note in record["notes"])
    assert (tmp_path / "out" / "study_seg.dcm").is_file()
    assert (tmp_path / "out" / "study.nii.gz").is_file()


def test_what_is_finished_is_listed_when_interrupted(
    tmp_path: Path, small_bundle: Path, subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cardiac_autoseg.delivery.pipeline as pipeline

    for name in "ab":
        write_volume(tmp_path / "in" / f"{name}.nii.gz", subject.image_ed, subject.geometry)
    original = pipeline._segment

    def interrupted(job: Any, item: Any, *others: Any) -> Any:
        if item.name == "b":
            raise KeyboardInterrupt
        return original(job, item, *others)

    monkeypatch.setattr(pipeline, "_segment", interrupted)
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out", "--model", small_bundle) == 130
    assert 'href="a.html"' in (tmp_path / "out" / "index.html").read_text()
