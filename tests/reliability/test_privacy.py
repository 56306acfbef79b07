"""Nothing that identifies a patient leaves with the results: markers in all that goes in, looked for in all that comes out.

What may be found, and where, is :data:`ALLOWED`; why, docs/privacy.md says.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from cardiac_autoseg.cli import annotators, ensemble, evaluate, models, plan_and_preprocess, predict, report, train
from cardiac_autoseg.cli import run as run_matrix
from cardiac_autoseg.cli.predict import main
from cardiac_autoseg.data.identifiers import Identity, general_age, read_identity, spoken, unquoted
from cardiac_autoseg.data.volume import write_volume
from cardiac_autoseg.inference.views import VIEWS
from cardiac_autoseg.phantom import Subject, make_subject
from cardiac_autoseg.phantom.dicom import write_dicom

from .conftest import FULL, Tries
from .privacy_markers import Markers, plant_nifti, plant_study

FILED = "PatientName PatientID PatientBirthDate StudyDate StudyTime AccessionNumber StudyID StudyInstanceUID".split()
ALLOWED = {
    # An archive files an object by patient and study; references name the images that it was made from.
    "*.dcm": {*FILED, "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"},
    # A person has to find what he typed.
    "terminal": {"folder above", "output above", "workspace above"},
    # An index that says where the images are, of a workspace that is not passed on.
    "dataset.json": {"folder above"},
    "preprocessed/files.json": {"folder above"},
    # Where a run was trained, of the same workspace.
    "*/run.json": {"host"},
    # What commands said at the terminal, in the same workspace.
    "*/console.log": {"folder above", "workspace above"},
}
"""Output -> what may be found in it: keywords of elements, or places in words."""
REFERENCES = {"SOPInstanceUID": {"ReferencedSOPInstanceUID"}, "SeriesInstanceUID": {"SeriesInstanceUID", "UID"}}
"""The elements of a SEG or SR in which UIDs of images and series may be; the others may be in that of their own keyword."""

Said = Callable[[], str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path_factory.mktemp("models") / "small", fold="all", name="small", views=VIEWS)


@pytest.fixture(scope="module")
def subject() -> Subject:
    whole = make_subject(5, "NOR", size="small")
    return dataclasses.replace(whole, cine=whole.cine[:20:2])


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


def traces(markers: Markers, text: str, *folders: Path) -> dict[str, set[str]]:
    """What is found where it must not be: output -> what."""
    outputs = {"terminal": markers.found(text)}
    paths = {str(path.relative_to(folder)): path for folder in folders for path in folder.rglob("*")}
    for name, path in paths.items():
        outputs[name] = markers.found(name) | (markers.in_bytes(path.read_bytes()) if path.is_file() else set())
    found = {}
    for name, marks in outputs.items():
        allowed = next((places for pattern, places in ALLOWED.items() if fnmatch(name, pattern)), set())
        places = {markers.places[mark] for mark in marks} - allowed
        if places:
            found[name] = places
        if name.endswith(".dcm"):
            found |= _misplaced(markers, name, pydicom.dcmread(paths[name]))
    return found


def _misplaced(markers: Markers, name: str, item: Dataset) -> dict[str, set[str]]:
    """Markers in elements of a DICOM object that are not theirs."""
    wrong = set()
    for element in item.iterall():
        if element.VR != "SQ" and element.keyword != "PixelData":
            for mark in markers.found(str(element.value)):
                place = markers.places[mark]
                if element.keyword not in REFERENCES.get(place, {place}):
                    wrong.add(f"{place} in {element.keyword}")
    return {f"{name}, element": wrong} if wrong else {}


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


PERSON = {
    "PatientName": "Müller^Anna-Maria^^Dr",
    "PatientID": "0047-11",
    "PatientBirthDate": "19310203",
    "PatientAge": "093Y",
    "AccessionNumber": "A99871",
    "StudyDescription": "heart of Anna",
    "InstitutionName": "St. Elsewhere",
    "ReferringPhysicianName": "House^Gregory",
}
TELLING = (
    *"Müller muller MUELLER_heart Anna anna-maria mueller^anna-maria MÜLLER_ANNA_19310203 0047-11 004711 a99871".split(),
    *("03.02.1931", "1931-02-03 mr", "x_02031931", "st_elsewhere_7", "Dr. House", "20200101", "scan of 01-01-2020"),
)


def small_study(folder: Path, subject: Subject, **elements: Any) -> Path:
    write_dicom(folder, subject, missing_slices=tuple(range(3, 99)), elements=PERSON | elements)
    return folder


@pytest.mark.tries("Privacy", "a folder called after the patient: name, ID, dates, UIDs, in the ways people write them")
def test_names_that_tell_are_known(tmp_path: Path, subject: Subject, tries: Tries) -> None:
    identity = read_identity(small_study(tmp_path / "one", subject))
    telling = (*TELLING, identity.uid, f"MR.{identity.uid}")
    assert [name for name in telling if not identity.names(name)] == []
    harmless = ("study", "study_12", "heart 4", "1931", "case-0047", "Manning", "mri_ann", "SC-HF-I-4")
    assert [name for name in harmless if identity.names(name)] == []
    assert not Identity().names("anything")
    tries.count = len(telling) + len(harmless)


@pytest.mark.tries("Privacy", "cas_predict on folders called after the patient, and on one that fails")
def test_a_case_is_not_called_after_its_patient(
    tmp_path: Path, bundle: Path, subject: Subject, said: Said, tries: Tries
) -> None:
    for name in ("Müller_Anna", "0047-11"):
        small_study(tmp_path / "in" / name, subject, StudyInstanceUID=f"1.2.3.4.5.{len(name)}")
    small_study(tmp_path / "in" / "heart", subject)
    broken = small_study(tmp_path / "in" / "HOUSE", subject)
    for path in sorted(broken.iterdir())[1:]:
        path.write_bytes(path.read_bytes()[:1500])
    out, table, people = tmp_path / "out", tmp_path / "names.csv", tmp_path / "people.csv"
    people.write_text("case,sex\nMüller_Anna,F\nheart,M\n", encoding="utf-8")
    given = ("-i", tmp_path / "in" / "*", "-o", out, "--model", bundle, "--people", people)
    said()
    assert run(*given, "--names", out / "names.csv") == 2
    assert run(*given) == 1
    text = said()
    assert "3 of 4 scans are called after the patient" in text
    leaked = [word for word in ("Müller", "Anna", "0047", "House") if word.lower() in text.replace(str(people), "").lower()]
    assert leaked == []
    names = {path.name.partition(".")[0] for path in out.glob("*.nii.gz")}
    assert len(names) == 3
    assert sum(name.startswith("case_") for name in names) == 2
    written = [path for path in out.rglob("*") if path.suffix != ".dcm"]
    for word in ("Müller", "Anna", "0047", "House", "Elsewhere", "1931", "A99871"):
        assert not [path.name for path in written if word.lower() in path.name.lower()]
        assert not [path.name for path in written if path.suffix != ".gz" and word.encode() in path.read_bytes()]
    # The owner finds his cases again, and nothing is predicted twice for that.
    assert run(*given, "--names", table) == 1
    assert "3 of 4 scans are done" in said()
    assert stat.S_IMODE(table.stat().st_mode) == 0o600
    with table.open(encoding="utf-8", newline="") as stream:
        which = {row["case"]: Path(row["input"]).name for row in csv.DictReader(stream)}
    assert sorted(which.values()) == ["0047-11", "HOUSE", "Müller_Anna", "heart"]
    sexes = {which[name]: json.loads((out / f"{name}.json").read_text())["person"]["sex"] for name in names}
    assert (sexes["Müller_Anna"], sexes["heart"]) == ("F", "M")
    tries.count = 4


@pytest.mark.tries("Privacy", "--keep-identifiers: what it promises is there, and not without it")
def test_identifiers_are_kept_if_asked_for(tmp_path: Path, bundle: Path, subject: Subject, said: Said, tries: Tries) -> None:
    given = small_study(tmp_path / "Müller_Anna", subject, SeriesDescription="Anna cine SA")
    kept, hidden = tmp_path / "kept", tmp_path / "hidden"
    command = ("-i", given, "--model", bundle, "--ed", 1, "--es", 4, "-o")
    assert run(*command, hidden) == 0
    assert "called after the patient" in said()
    assert run(*command, kept, "--keep-identifiers") == 0
    assert "called after the patient" not in said()
    (name,) = (path.stem for path in hidden.glob("case_*.json"))
    records = [json.loads(path.read_text()) for path in (kept / "Müller_Anna.json", hidden / f"{name}.json")]
    assert [record["name"] for record in records] == ["Müller_Anna", name]
    assert [record["input"] for record in records] == ["Müller_Anna", name]
    assert [record["description"] for record in records] == ["Anna cine SA", "… cine SA"]
    assert [record["person"]["age"] for record in records] == [93, 90]
    assert records[0]["numbers"] == records[1]["numbers"]
    for kind in ("seg", "seg_ED", "sr"):
        full, least = (pydicom.dcmread(path) for path in (kept / f"Müller_Anna_{kind}.dcm", hidden / f"{name}_{kind}.dcm"))
        for item in (full, least):
            assert (item.PatientName, item.PatientID, item.PatientBirthDate) == (
                PERSON["PatientName"],
                "0047-11",
                "19310203",
            )
        assert (full.ReferringPhysicianName, full.StudyDescription) == ("House^Gregory", "heart of Anna")
        assert (least.ReferringPhysicianName, "StudyDescription" in least, "PatientAge" in least) == ("", False, False)
        assert b"Elsewhere" not in (kept / f"Müller_Anna_{kind}.dcm").read_bytes(), "nothing of it was ever copied"
    assert run("-i", given, "-o", kept, "--model", bundle, "--keep-identifiers") == 0
    assert "1 of 1 scans are done" in said()
    tries.count = 8


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


@pytest.mark.tries("Privacy", "texts of messages: quoted values, paths, UIDs, words of series descriptions, ages")
def test_texts_are_cleared(tries: Tries) -> None:
    identity = Identity("1.2.3", frozenset({"0047-11", "19310203"}), frozenset({"Müller", "Anna"}))
    cleared = {
        "slice 3 of MÜLLER, ANNA": "slice 3 of …, …",
        "/data/Anna M/x": "… M/x",
        "/home/ward/Miller/scan.nii.gz: damaged": "scan.nii.gz: damaged",
        "no image in 1.2.840.113619.2.5.1762583153": "no image in …",
        "EF 55 %, 12.5 mL/m² at 0.1.0": "EF 55 %, 12.5 mL/m² at 0.1.0",
        "Annamaria": "Annamaria",
        "file 0047-11.dcm": "file ….dcm",
    }
    assert {text: identity.hidden(text) for text in cleared} == cleared
    errors = {
        "invalid literal for int(): 'Anna'": "invalid literal for int(): …",
        'Value "Müller^Anna" is wrong': "Value … is wrong",
        "expected 8192 bytes, not 1000": "expected 8192 bytes, not 1000",
        "bad Müller^Anna there 19310203": "bad … there …",
        "": "ValueError",
    }
    assert {text: unquoted(ValueError(text)) for text in errors} == errors
    descriptions = {
        "cine SA": "cine SA",
        "Kurzachse_12": "Kurzachse_12",
        "Müller Anna cine 4ch": "… cine 4ch",
        "cine_SA_19310203": "cine_SA_…",
        "tfi2d_sax retro iPAT": "tfi2d_sax retro …",
    }
    assert {text: spoken(text) for text in descriptions} == descriptions
    assert [general_age(age) for age in (None, 0.4, 60.97, 89.9, 90.0, 101.0)] == [None, 0, 60, 89, 90, 90]
    tries.count = len(cleared) + len(errors) + len(descriptions) + 6


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
