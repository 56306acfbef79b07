"""Nothing that identifies a patient leaves with the results: markers in all that goes in, looked for in all that comes out.

What may be found, and where, is ``ALLOWED`` in privacy_traces.py; why, docs/privacy.md says.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import json
import platform
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from cardiac_autoseg.cli import annotators, ensemble, evaluate, models, plan_and_preprocess, predict, report, train
from cardiac_autoseg.cli import run as run_matrix
from cardiac_autoseg.cli.predict import main
from cardiac_autoseg.data.volume import write_volume
from cardiac_autoseg.phantom import Subject
from cardiac_autoseg.phantom.dicom import write_dicom

from .conftest import FULL, Tries
from .privacy_markers import Markers, plant_nifti, plant_study
from .privacy_traces import traces

Said = Callable[[], str]


@pytest.fixture
def markers() -> Markers:
    return Markers()


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Iterator[Said]:
    """All that was printed, and warned of, since it was last asked for."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def text() -> str:
            told = "\n".join(str(item.message) for item in caught)
            caught.clear()
            return "\n".join([*capfd.readouterr(), told])

        yield text


def study(folder: Path, subject: Subject, markers: Markers, numeric: bool = True, **options: Any) -> Path:
    write_dicom(folder, subject, missing_slices=tuple(range(3, 99)), **options)
    plant_study(folder, markers, numeric, every=1 if FULL else 20)
    return folder


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--device", "cpu"])


@pytest.mark.tries("Privacy", "a marker in every text element of a DICOM study, and in the folders above it")
@pytest.mark.parametrize("form", ["folder", "zip", "words for numbers", "enhanced"])
def test_of_a_study_nothing_is_left(
    tmp_path: Path, bundle: Path, subject: Subject, markers: Markers, said: Said, tries: Tries, form: str
) -> None:
    place = tmp_path / markers.word("folder above")
    burnt = {"BurnedInAnnotation": "YES"} if form == "folder" else {}
    options = {"enhanced": form == "enhanced", "elements": burnt}
    given = study(place / "study", subject, markers, form != "words for numbers", **options)
    if form == "zip":
        with zipfile.ZipFile(place / "study.zip", "w") as archive:
            for path in given.iterdir():
                archive.write(path, f"{markers.word('folder in the zip')}/{path.name}")
        given = place / "study.zip"
    out = tmp_path / "out"
    wanted = ("--slicer", "--save-probabilities", "--json", "--ed", 1, "--es", 4)
    said()
    assert run("-i", given, "-o", out, "--model", bundle, *wanted) == 0
    text = said()
    assert (out / "study_seg.dcm").is_file()
    assert (out / "study_sr.dcm").is_file()
    assert traces(markers, text, out) == {}
    record = json.loads((out / "study.json").read_text())
    assert any("writing in the images" in note for note in record["notes"]) == (form == "folder")
    tries.count = len(markers.places)


def other_patient(place: Path, subject: Subject, markers: Markers) -> Path:
    """A folder of two patients' short-axis cines."""
    study(place, subject, markers)
    seed = dataclasses.replace(subject.acquisition, seed=99)
    study(place / "more", dataclasses.replace(subject, acquisition=seed), markers)
    return place


def damaged(place: Path, subject: Subject, markers: Markers) -> Path:
    """A study with a file cut short, one without pixels, and one whose header is noise; named as files in archives are."""
    files = sorted(study(place, subject, markers).iterdir())
    for number, path in enumerate(files):
        path.rename(path.with_name(f"{markers.word('file')}.{number}.dcm") if number > 2 else path)
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-2000])
    files[1].write_bytes(content[: len(content) // 3])
    files[2].write_bytes(content[:200] + bytes(reversed(content[200:])))
    return place


def series_to_choose(place: Path, subject: Subject, markers: Markers) -> Path:
    """A study in which two series may be meant."""
    return study(place, subject, markers, copies=1)


def without_cine(place: Path, subject: Subject, markers: Markers) -> Path:
    """A study without a short-axis cine."""
    write_dicom(place, subject, distractors=True)
    for path in place.iterdir():
        if pydicom.dcmread(path, stop_before_pixels=True).SeriesNumber not in (43, 44, 45, 53, 54, 55):
            path.unlink()
    plant_study(place, markers, description="of the heart", every=20)
    return place


def without_place(place: Path, subject: Subject, markers: Markers) -> Path:
    """A study whose UID is missing, so that no DICOM objects can be made."""
    return study(place, subject, markers, elements={"StudyInstanceUID": None})


def unpacked(place: Path, subject: Subject, markers: Markers) -> Path:
    """Images in a compression that does not exist."""
    for path in study(place, subject, markers).iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0"))
    return place


FAULTS = (other_patient, damaged, series_to_choose, without_cine, without_place, unpacked)


@pytest.mark.tries("Privacy", "the same in studies that fail, or are read with warnings")
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_messages_tell_nobody(
    tmp_path: Path,
    bundle: Path,
    subject: Subject,
    markers: Markers,
    said: Said,
    tries: Tries,
    fault: Callable[[Path, Subject, Markers], Path],
) -> None:
    place = fault(tmp_path / markers.word("folder above") / "study", subject, markers)
    out = tmp_path / "out"
    said()
    code = run("-i", place, "-o", out, "--model", bundle, "--json", "--ed", 1, "--es", 4)
    assert code == (0 if fault in (damaged, without_place) else 2)
    text = said()
    assert "Traceback" not in text
    assert traces(markers, text, out) == {}
    assert "study" in (out / "index.html").read_text()
    tries.count = len(markers.places)


@pytest.mark.tries("Privacy", "a marker in every text of a NIfTI header, in an extension, and in the folders above")
def test_of_a_nifti_header_nothing_is_left(
    tmp_path: Path, bundle: Path, subject: Subject, markers: Markers, said: Said, tries: Tries
) -> None:
    place, out = tmp_path / markers.word("folder above"), tmp_path / markers.word("output above") / "out"
    for name, image in (("cine", subject.cine), ("volume", subject.image_ed)):
        write_volume(place / f"{name}.nii.gz", image, subject.geometry)
        plant_nifti(place / f"{name}.nii.gz", markers)
    (place / "broken.nii.gz").write_bytes((place / "cine.nii.gz").read_bytes()[:900])
    (place / "wrong.nii.gz").write_bytes(f"{markers.word('no NIfTI')} is no NIfTI".encode())
    said()
    command = ("-i", place, "-o", out, "--model", bundle, "--slicer", "--json", "--save-probabilities")
    assert run(*command) == 1
    text = said()
    assert traces(markers, text, out) == {}
    assert "broken" in (out / "index.html").read_text()
    assert str(place / "broken.nii.gz") in text, "at the terminal the file is named so that it is found"
    assert (out / "cine_ED.seg.nrrd").is_file() or (out / "volume.seg.nrrd").is_file()
    assert run(*command) == 1
    assert "2 of 4 scans are done" in said()
    tries.count = len(markers.places)


@pytest.mark.tries("Privacy", "a workspace made of marked NIfTI files below a marked folder: import to report and bundle")
def test_of_a_data_set_nothing_leaves_with_bundle_and_report(
    tmp_path: Path, phantom_data: Path, markers: Markers, said: Said, tries: Tries, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = markers.word("host")
    monkeypatch.setattr(platform, "node", lambda: host)
    data = tmp_path / markers.word("folder above") / "training"
    shutil.copytree(phantom_data, data)
    for path in data.rglob("*.nii.gz"):
        plant_nifti(path, markers)
    work, out = tmp_path / markers.word("workspace above") / "heart", tmp_path / "out"
    predicted = tmp_path / "predicted"
    trained = (run_matrix, "--arch", "unet", "--folds", 0) if FULL else (train, "unet", 0)
    said()
    for command, *arguments in (
        (plan_and_preprocess, data, "--target", "cpu", "--gflops", 0.5),
        (*trained, "--steps", 2),
        (ensemble, "--zip", "--licence", "none"),
        (evaluate, predicted, "--gt", "expert"),
        (report,),
        (annotators, "--suspects", "expert"),
        (models, "list", "--json"),
    ):
        if command is evaluate:
            # One prediction is damaged, and so is the record of a run: what is said of it is on pages.
            shutil.copytree(next(work.rglob("validation")), predicted, ignore=shutil.ignore_patterns("*.json", "*.csv"))
            next(predicted.glob("*.nii.gz")).write_bytes(b"damaged")
            broken = next((work / "runs").rglob("run.json")).parent
            (shutil.copytree(broken, broken.with_name("fold1_seed0")) / "run.json").write_text("{")
            shutil.copytree(work / "models" / "best", work / "models" / "second")
            (work / "models" / "second" / "evaluation.json").write_text("{")
        code = command.main([*map(str, arguments), "-w", str(work)])
        assert code == (1 if command is evaluate else 0), (command.__name__, said())
    given = next(data.rglob("*_frame01.nii.gz"))
    assert predict.main(["-i", str(given), "-o", str(out), "-w", str(work), "--device", "cpu"]) == 0
    assert traces(markers, said(), work, out, predicted) == {}
    (weights,) = (path.name for path in (work / "models" / "best").glob("*.safetensors"))
    subjects = {path.name for path in data.iterdir() if path.is_dir()}
    with zipfile.ZipFile(work / "models" / "best.zip") as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    assert {Path(name).name for name in packed} == {"bundle.json", "quality.json", "MODEL_CARD.md", "LICENSE", weights}
    for name, content in packed.items():
        assert not [subject for subject in subjects if subject.encode() in content], name
    tries.count = len(markers.places)


def test_the_search_finds_what_is_planted(tmp_path: Path, subject: Subject, markers: Markers) -> None:
    files = [path.read_bytes() for path in sorted(study(tmp_path / "study", subject, markers).iterdir())]
    found = {mark for content in files for mark in markers.in_bytes(content)}
    assert found == markers.places.keys()
    word = markers.word("here")
    picture = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 20, b"iTXt") + zlib.compress(word.encode()).ljust(24)
    packed = io.BytesIO()
    np.savez_compressed(packed, text=np.array([word]))
    for content in (
        word.lower().encode(),
        b"x" + word.encode("utf-16-le"),
        gzip.compress(word.encode()),
        packed.getvalue(),
        picture,
        b"data:image/png;base64," + base64.b64encode(picture),
    ):
        assert markers.in_bytes(content) == {word}
