"""What cases are called, what ``--keep-identifiers`` keeps, and how messages are cleared of what identifies."""

from __future__ import annotations

import csv
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest

from cardiac_autoseg.cli.predict import main
from cardiac_autoseg.data.identifiers import Identity, general_age, read_identity, spoken, unquoted
from cardiac_autoseg.phantom import Subject
from cardiac_autoseg.phantom.dicom import write_dicom

from .conftest import Tries

Said = Callable[[], str]

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


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    return lambda: "\n".join(capfd.readouterr())


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--device", "cpu"])


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
