"""``cas_annotators`` finds what was planted in a source, writes a page that stands alone, and says what went wrong."""

from __future__ import annotations

import csv
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.cli import annotators
from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source, load_dataset, save_dataset
from cardiac_autoseg.data.volume import write_labels, write_volume
from cardiac_autoseg.phantom import geometry
from cardiac_autoseg.phantom.subject import itk_geometry
from cardiac_autoseg.workspace import Workspace

PLANTED = {
    "thick": ("epicardium", 2.0),
    "thin": ("epicardium", -1.0),
    "wide": ("endocardium", 2.0),
    "narrow": ("endocardium", -1.0),
    "big_rv": ("RV", 2.0),
    "small_rv": ("RV", -1.0),
    "same": ("epicardium", 0.0),
}
SUBJECTS = 3


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    """The planting of the benchmark: analytic contours, no estimator of the product."""
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "planted_bias.py"))


@pytest.fixture(scope="module")
def frames(bench: dict[str, Any]) -> list[Any]:
    """Phantom patients at ED and ES, pixels of 1.4 mm."""
    return list(bench["frames"](1.4, SUBJECTS))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, bench: dict[str, Any], frames: list[Any]) -> Path:
    """A workspace whose expert drew the truth and whose other sources drew one contour too far out or in."""
    root = tmp_path_factory.mktemp("planted")
    cases = []
    for frame in frames:
        place, name = itk_geometry(frame.scan), frame.meta.case_id
        drawings: dict[str, dict[str, float]] = {"expert": {}} | {source: dict([plant]) for source, plant in PLANTED.items()}
        for source, plant in drawings.items():
            write_labels(root / source / f"{name}.nii.gz", bench["draw"](frame, plant), place)
        image = np.array([60, 190, 90, 200], np.float32)[bench["draw"](frame, {})]
        write_volume(root / "images" / f"{name}.nii.gz", image, place)
        labels = {source: LabelRef(f"{source}/{name}.nii.gz") for source in drawings}
        image_name = f"images/{name}.nii.gz"
        cases.append(Case(name, frame.meta.subject, image_name, phase=frame.phase, group=frame.meta.group, labels=labels))
    values = {value: label for label, value in LABELS.items()}
    sources = {source: Source(values, simulated=source != "expert") for source in ("expert", *PLANTED)}
    save_dataset(Workspace(root).dataset, Dataset("phantom", tuple(cases), sources))
    return root


@pytest.fixture(scope="module")
def found(planted: Path) -> dict[str, Any]:
    """agreement.json of all sources against the expert."""
    assert annotators.main(["-w", str(planted)]) == 0
    values: dict[str, Any] = json.loads((planted / "reports" / "annotators" / "agreement.json").read_text())
    return values


def pair(found: dict[str, Any], source: str) -> dict[str, Any]:
    (row,) = [row for row in found["pairs"] if (row["first"], row["second"]) == ("expert", source)]
    return dict(row)


def bias(found: dict[str, Any], source: str, index: str) -> float:
    return next(float(row["bias"]) for row in pair(found, source)["indices"] if row["index"] == index)


@pytest.mark.parametrize("source", PLANTED)
def test_planted_offset_is_recovered(found: dict[str, Any], source: str) -> None:
    contour, offset = PLANTED[source]
    rows = [row for row in pair(found, source)["contours"] if row["contour"] == contour and row["level"] == "all"]
    assert [row["phase"] for row in rows] == ["ED", "ES", "all"]
    for row in rows:
        assert row["offset_mm_mean"] == pytest.approx(offset, abs=0.2)
        assert row["pointwise_mm_mean"] == pytest.approx(offset, abs=0.2)
    levels = [row for row in pair(found, source)["contours"] if row["contour"] == contour and row["phase"] == "all"]
    assert all(row["offset_mm_mean"] == pytest.approx(offset, abs=0.2) for row in levels)


def test_untouched_contours_stay(found: dict[str, Any]) -> None:
    for source, contour in (("thick", "endocardium"), ("wide", "epicardium"), ("small_rv", "epicardium")):
        rows = [row for row in pair(found, source)["contours"] if row["contour"] == contour]
        assert all(row["offset_mm_mean"] == pytest.approx(0, abs=1e-9) for row in rows)


@pytest.mark.parametrize(("source", "sign"), [("thick", 1.0), ("wide", -1.0)])
def test_effect_on_mass_is_that_of_the_geometry(
    found: dict[str, Any], bench: dict[str, Any], frames: list[Any], source: str, sign: float
) -> None:
    contour, offset = PLANTED[source]
    changes = [bench["expected_change"](frame, contour, offset) for frame in frames if frame.phase == "ED"]
    expected = sign * 1.05 * float(np.mean(changes))
    assert abs(expected) > 10
    assert bias(found, source, "LV_mass") == pytest.approx(expected, rel=0.03)
    assert bias(found, "same", "LV_mass") == 0


@pytest.mark.parametrize("source", ["wide", "narrow"])
def test_effect_on_ejection_fraction_is_that_of_the_geometry(
    found: dict[str, Any], bench: dict[str, Any], frames: list[Any], source: str
) -> None:
    contour, offset = PLANTED[source]
    volumes: dict[str, dict[str, tuple[float, float]]] = {}
    for frame in frames:
        sections = geometry.radii(frame.anatomy, frame.scan.slice_positions(), bench["CONTRACTIONS"][frame.phase]).areas()
        volume = float(sections[2].sum()) * frame.scan.spacing[0] / 1000
        change = bench["expected_change"](frame, contour, offset)
        volumes.setdefault(frame.meta.subject, {})[frame.phase] = (volume, volume + change)
    fractions = [[100 * (1 - v["ES"][side] / v["ED"][side]) for side in (0, 1)] for v in volumes.values()]
    expected = float(np.mean([after - before for before, after in fractions]))
    assert abs(expected) > 0.5
    assert bias(found, source, "LV_EF") == pytest.approx(expected, abs=0.3)
    assert bias(found, "thick", "LV_EF") == 0


def test_page_stands_alone_and_says_simulated(found: dict[str, Any], planted: Path) -> None:
    page = (planted / "reports" / "annotators" / "annotators.html").read_text(encoding="utf-8")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses and all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"https?://|url\(|@import|<link|<iframe", page)
    assert "SIMULATED" in re.findall(r"<title>(.*)</title>", page)[0]
    assert re.search(r"thick draws the LV epicardium (1\.9|2\.0)\d mm further out than expert \(95 % CI", page)
    assert re.search(r"mm apart in the mean, thick on balance 2\.\d mm further out", page)
    assert re.search(r"mm apart in the mean, thin on balance 1\.\d mm further in", page)
    assert len(found["pairs"]) == len(PLANTED)


def test_tables_hold_the_rows_of_the_cases(found: dict[str, Any], planted: Path) -> None:
    folder = planted / "reports" / "annotators"
    assert found["sources"]["thick"] == {"simulated": True, "note": "", "derived": "", "n_cases": 2 * SUBJECTS}
    sizes = {"contours": 12, "slices": 3, "overlap": 12}
    for name, size in sizes.items():
        rows = list(csv.DictReader((folder / f"{name}.csv").open()))
        assert len(rows) == len(PLANTED) * 2 * SUBJECTS * size
        assert {row["first"] for row in rows} == {"expert"}
    rows = list(csv.DictReader((folder / "contours.csv").open()))
    own = [
        float(row["offset_mm"])
        for row in rows
        if (row["second"], row["contour"], row["level"]) == ("thick", "epicardium", "all")
    ]
    summary = [row for row in pair(found, "thick")["contours"] if (row["contour"], row["level"]) == ("epicardium", "all")]
    assert np.mean(own) == pytest.approx(summary[-1]["offset_mm_mean"])
    assert {"second_value", "first_value"} <= set((folder / "patients.csv").read_text().splitlines()[0].split(","))


def test_named_sources_reference_and_json(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["thick", "thin", "--reference", "thin", "-w", str(planted), "-o", str(tmp_path / "out"), "--json"]
    assert annotators.main(arguments) == 0
    values = json.loads(capsys.readouterr().out)
    assert [(row["first"], row["second"]) for row in values["pairs"]] == [("thin", "thick")]
    rows = [row for row in values["pairs"][0]["contours"] if (row["contour"], row["level"]) == ("epicardium", "all")]
    assert rows[-1]["offset_mm_mean"] == pytest.approx(3.0, abs=0.2)
    assert values == json.loads((tmp_path / "out" / "agreement.json").read_text())


def test_unreadable_label_is_left_out(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = load_dataset(planted / "dataset.json")
    for case in dataset.cases:
        for source, ref in case.labels.items():
            case.labels[source] = LabelRef(str(planted / ref.path))
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    dataset.cases[0].labels["thick"] = LabelRef(str(broken))
    save_dataset(tmp_path / "dataset.json", dataset)
    assert annotators.main(["thick", "-w", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "broken.nii.gz" in said.err and "thick draws the LV epicardium" in said.out
    values = json.loads((tmp_path / "reports" / "annotators" / "agreement.json").read_text())
    assert [row["case_id"] for row in values["pairs"][0]["failed"]] == [dataset.cases[0].id]
    assert values["pairs"][0]["n_cases"] == 2 * SUBJECTS - 1
    # Its images are not there either: the page says so, and is written all the same.
    assert "is left out" in (tmp_path / "reports" / "annotators" / "annotators.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], "no label source 'nobody'"),
        (["expert"], "no two sources"),
        (["thick", "--reference", "nobody"], "no label source 'nobody'"),
        (["--suspects", "nobody"], "no label source 'nobody'"),
        (["--suspects", "thick"], "cas_plan_and_preprocess"),
    ],
)
def test_user_errors(planted: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert annotators.main([*arguments, "-w", str(planted)]) == 2
    assert words in capsys.readouterr().err


def test_suspects_without_out_of_fold_predictions(prepared_workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert annotators.main(["--suspects", "expert", "-w", str(prepared_workspace)]) == 2
    assert "cas_train" in capsys.readouterr().err


def test_top_suspects_are_printed(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cardiac_autoseg.annotation import suspects
    from cardiac_autoseg.report import suspects as page

    listed = [
        suspects.Suspect("p1_ED", "p1", "ED", number, "mid", "LV", "missing", 9.0 - number, f"reason {number}.", 1.0)
        for number in range(12)
    ]
    monkeypatch.setattr(suspects, "find_suspects", lambda *_, **__: listed)
    monkeypatch.setattr(page, "write_suspects", lambda *given: given[-1] / "suspects.html")
    assert annotators.main(["--suspects", "thick", "-w", str(planted), "-o", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert "p1_ED, slice 1:" in lines[0] and "reason 0." in lines[0]
    assert str(tmp_path / "suspects.html") in lines[-1]


def test_suspects_as_json_and_cases_that_fail(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cardiac_autoseg.annotation import suspects

    one = suspects.Suspect("patient001_ED", "patient001", "ED", 2, "mid", "LV", "missing", 9.0, "not drawn.", 1.0)

    def find(*given: Any, problem: Callable[[str], None]) -> list[Any]:
        given[3]("looking")
        problem("case patient002_ES left out: broken")
        return [one]

    monkeypatch.setattr(suspects, "find_suspects", find)
    assert annotators.main(["--suspects", "thick", "-w", str(planted), "-o", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert [(row["case"], row["slice"], row["kind"]) for row in values["suspects"]] == [("patient001_ED", 3, "missing")]
    assert values["failed"] == ["case patient002_ES left out: broken"]
    assert "looking" in said.err and "patient002_ES left out" in said.err
    assert values["suspects"] == json.loads((tmp_path / "suspects.json").read_text())["suspects"]
