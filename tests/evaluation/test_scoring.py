"""Scoring of cases and the tables made from them."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from medpy.metric import binary
from scipy import ndimage

from cardiac_autoseg.data.volume import read_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.clinical import clinical_indices
from cardiac_autoseg.evaluation.evaluate import (
    CaseMeta,
    Evaluation,
    evaluate_arrays,
    evaluate_case,
    read_evaluation,
    summarise,
    write_evaluation,
)

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
SPACING = (8.0, 1.5, 1.25)
META = CaseMeta("patient001_frame01", "patient001", "ED", "NOR")


def heart(scale: float = 1.0, shape: tuple[int, int, int] = (9, 48, 52)) -> np.ndarray:
    """A crude heart: nested ellipsoids with an RV beside them."""
    z, y, x = np.meshgrid(*(np.arange(size) - size / 2 for size in shape), indexing="ij")
    labels = np.zeros(shape, np.uint8)
    labels[(z / 4) ** 2 + (y / (13 * scale)) ** 2 + ((x + 13) / (9 * scale)) ** 2 < 1] = 1
    labels[(z / 4) ** 2 + (y / 14) ** 2 + ((x - 4) / 14) ** 2 < 1] = 2
    labels[(z / 3.5) ** 2 + (y / (10 * scale)) ** 2 + ((x - 4) / (10 * scale)) ** 2 < 1] = 3
    return labels


def ml(labels: np.ndarray, value: int) -> float:
    return float((labels == value).sum() * np.prod(SPACING) / 1000)


def cohort(patients: int = 8) -> Evaluation:
    """Patients of varied contraction, predicted with varied error."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(patients):
        for phase, scale in (("ED", 1.0), ("ES", rng.uniform(0.6, 0.9))):
            meta = CaseMeta(f"p{number}_{phase}", f"p{number}", phase, "NOR")
            cases.append((meta, heart(scale + rng.uniform(-0.05, 0.05)), heart(scale), SPACING))
    return evaluate_arrays(cases, LABELS, "expert")


def test_scores_of_a_case_as_medpy() -> None:
    reference = heart()
    prediction = np.roll(heart(0.9), 2, axis=1)
    result = evaluate_case(prediction, reference, SPACING, META, LABELS)
    assert [score.structure for score in result.structures] == ["RV", "MYO", "LV"]
    for score in result.structures:
        masks = prediction == LABELS[score.structure], reference == LABELS[score.structure]
        assert score.dice == pytest.approx(binary.dc(*masks))
        assert score.hd == pytest.approx(binary.hd(*masks, SPACING))
        assert score.hd95 == pytest.approx(binary.hd95(*masks, SPACING))
        assert score.assd == pytest.approx(binary.assd(*masks, SPACING))
        assert (score.prediction_ml, score.reference_ml) == pytest.approx(tuple(mask.sum() * 0.015 for mask in masks))
        assert not score.missed


@pytest.mark.realdata
def test_real_labels_as_medpy(acdc: Path) -> None:
    files = sorted((acdc / "patient001").glob("*_gt.nii.gz"))
    values = {value: name for name, value in LABELS.items()}
    ed, es = (read_labels(file, values, LABELS) for file in files)
    spacing = ed.geometry.spacing_zyx
    result = evaluate_case(es.array, ed.array, spacing, META, LABELS)
    for score in result.structures:
        masks = es.array == LABELS[score.structure], ed.array == LABELS[score.structure]
        assert score.dice == pytest.approx(binary.dc(*masks), rel=1e-12)
        assert score.hd == pytest.approx(binary.hd(*masks, spacing), rel=1e-9)
        assert score.hd95 == pytest.approx(binary.hd95(*masks, spacing), rel=1e-9)
        assert score.assd == pytest.approx(binary.assd(*masks, spacing), rel=1e-9)
    # ACDC puts patient 1 into the group DCM: diastolic volume above 100 mL/m2 (2.2 m2 here), EF below 40 %.
    lv = result.structures[2]
    assert lv.reference_ml > 220
    assert 0 < 100 * (lv.reference_ml - lv.prediction_ml) / lv.reference_ml < 40


@pytest.mark.realdata
def test_a_real_case_is_scored_quickly(acdc: Path) -> None:
    files = sorted((acdc / "patient001").glob("*_gt.nii.gz"))
    values = {value: name for name, value in LABELS.items()}
    ed, es = (read_labels(file, values, LABELS) for file in files)
    times = []
    for _ in range(5):
        start = time.process_time()
        evaluate_case(es.array, ed.array, ed.geometry.spacing_zyx, META, LABELS)
        times.append(time.process_time() - start)
    assert min(times) < 0.1  # 0.012 s alone on a core; room for a busy machine


def test_perfect_prediction() -> None:
    result = evaluate_case(heart(), heart(), SPACING, META, LABELS)
    for score in result.structures:
        assert (score.dice, score.hd, score.hd95, score.assd) == (1.0, 0.0, 0.0, 0.0)


def test_empty_structures_are_counted_not_dropped() -> None:
    reference = heart()
    without_rv = np.where(reference == 1, 0, reference).astype(np.uint8)
    metas = [CaseMeta(f"p{number}", f"p{number}", "ED") for number in range(4)]
    evaluation = evaluate_arrays(
        [
            (metas[0], without_rv, reference, SPACING),  # missed
            (metas[1], reference, without_rv, SPACING),  # invented
            (metas[2], without_rv, without_rv, SPACING),  # rightly absent
            (metas[3], np.roll(reference, 1, axis=1), reference, SPACING),
        ],
        LABELS,
    )
    rows = [row for row in evaluation.cases if row["structure"] == "RV"]
    assert [row["dice"] for row in rows[:3]] == [0.0, 0.0, 1.0]
    assert [row["hd"] for row in rows[:3]] == [None, None, 0.0]
    assert [row["missed"] for row in rows] == [True, True, False, False]
    summary = next(row for row in evaluation.summary if row["structure"] == "RV" and row["phase"] == "all")
    assert (summary["n"], summary["n_missed"], summary["n_both_empty"]) == (4, 2, 1)
    assert summary["dice_mean"] == pytest.approx((0 + 0 + 1 + rows[3]["dice"]) / 4)
    assert summary["hd_mean"] == pytest.approx(rows[3]["hd"] / 2)
    assert evaluation.mean_dice == pytest.approx(np.mean([row["dice"] for row in evaluation.cases]))


def test_wholly_empty_volumes() -> None:
    empty = np.zeros((4, 6, 6), np.uint8)
    result = evaluate_case(empty, empty, SPACING, META, LABELS)
    assert [(score.dice, score.hd, score.missed) for score in result.structures] == [(1.0, 0.0, False)] * 3
    assert result.levels == ()
    missed = evaluate_case(np.zeros_like(heart()), heart(), SPACING, META, LABELS)
    assert all(score.missed and score.dice == 0 and score.hd95 is None for score in missed.structures)
    assert {score.level for score in missed.levels} == {"base", "mid", "apex"}


def test_padding_changes_nothing() -> None:
    prediction, reference = heart(0.9), heart()
    padding = ((3, 1), (10, 4), (0, 30))
    padded = evaluate_case(np.pad(prediction, padding), np.pad(reference, padding), SPACING, META, LABELS)
    assert padded == evaluate_case(prediction, reference, SPACING, META, LABELS)


def test_swapping_changes_only_the_sides() -> None:
    first, second = heart(0.8), np.roll(heart(), 1, axis=2)
    forward = evaluate_case(first, second, SPACING, META, LABELS)
    backward = evaluate_case(second, first, SPACING, META, LABELS)
    for a, b in zip(forward.structures, backward.structures, strict=True):
        assert (a.dice, a.hd, a.hd95, a.prediction_ml) == (b.dice, b.hd, b.hd95, b.reference_ml)
        assert a.assd == pytest.approx(b.assd)


def test_other_class_names_and_values() -> None:
    labels = {"background": 0, "scar": 5}
    reference = np.zeros((3, 8, 8), np.uint8)
    reference[1, 2:6, 2:6] = 5
    result = evaluate_case(reference, reference, SPACING, META, labels)
    assert [(score.structure, score.dice) for score in result.structures] == [("scar", 1.0)]
    assert summarise([result]).patients == ()


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (heart()[:-1], "shape"),
        (np.where(heart() == 3, 9, heart()).astype(np.uint8), r"values \[9\]"),
        (heart().astype(np.float32), "float32"),
        (heart()[0], "shape"),
        (-heart().astype(np.int16), "values"),
    ],
)
def test_wrong_predictions_are_named_and_do_not_stop_others(prediction: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        evaluate_case(prediction, heart(), SPACING, META, LABELS)
    good = CaseMeta("patient002_frame01", "patient002", "ED")
    evaluation = evaluate_arrays([(META, prediction, heart(), SPACING), (good, heart(), heart(), SPACING)], LABELS)
    assert [row["case_id"] for row in evaluation.failed] == [META.case_id]
    assert {row["case_id"] for row in evaluation.cases} == {good.case_id}


def test_nothing_scored_is_an_error() -> None:
    with pytest.raises(UserError, match="no case"):
        evaluate_arrays([(META, heart()[:-1], heart(), SPACING)], LABELS)


def test_clinical_indices() -> None:
    ed, es = {"LV": 150.0, "RV": 160.0, "MYO": 100.0}, {"LV": 60.0, "RV": 80.0, "MYO": 110.0}
    assert clinical_indices(ed, es) == pytest.approx(
        {
            "LV_EDV": 150,
            "LV_ESV": 60,
            "LV_SV": 90,
            "LV_EF": 60,
            "LV_mass": 105,
            "RV_EDV": 160,
            "RV_ESV": 80,
            "RV_SV": 80,
            "RV_EF": 50,
        }
    )
    assert clinical_indices(None, es) == {"LV_ESV": 60.0, "RV_ESV": 80.0}
    assert clinical_indices({"LV": 0.0}, {"LV": 5.0})["LV_EF"] is None


def test_patients_and_agreement() -> None:
    evaluation = cohort()
    rows = {(row["subject"], row["index"]): row for row in evaluation.patients}
    assert len(rows) == 8 * 9
    ed = heart()
    assert rows["p0", "LV_EDV"]["reference"] == pytest.approx(ml(ed, 3))
    assert rows["p0", "LV_mass"]["reference"] == pytest.approx(1.05 * ml(ed, 2))
    assert rows["p0", "LV_EF"]["unit"] == "%"
    pairs = np.array([[row["prediction"], row["reference"]] for (_, index), row in rows.items() if index == "LV_EF"])
    agreement = next(row for row in evaluation.agreement if row["index"] == "LV_EF")
    difference = pairs[:, 0] - pairs[:, 1]
    assert agreement["n"] == 8
    assert agreement["bias"] == pytest.approx(difference.mean())
    assert agreement["sd"] == pytest.approx(difference.std(ddof=1))
    assert agreement["loa_high"] == pytest.approx(difference.mean() + 1.96 * difference.std(ddof=1))
    assert agreement["mae"] == pytest.approx(np.abs(difference).mean())
    assert agreement["pearson_r"] == pytest.approx(np.corrcoef(pairs.T)[0, 1])
    assert [row["index"] for row in evaluation.reclassification] == ["LV_EF", "RV_EF"]
    assert sum(map(sum, evaluation.reclassification[0]["table"])) == 8


def test_undefined_ef_is_counted() -> None:
    full, empty = heart(), np.zeros_like(heart())
    cases = [
        (CaseMeta(f"p{number}_{phase}", f"p{number}", phase), empty if number == 0 else full, full, SPACING)
        for number in range(3)
        for phase in ("ED", "ES")
    ]
    row = next(row for row in evaluate_arrays(cases, LABELS).agreement if row["index"] == "LV_EF")
    assert (row["n"], row["n_missed"]) == (2, 1)


def test_cases_without_phase_or_twice_are_noted() -> None:
    cases = [
        (CaseMeta("a", "p0", "ED"), heart(0.8), heart(), SPACING),
        (CaseMeta("b", "p0", "ED"), heart(), heart(), SPACING),
        (CaseMeta("c", "p0", None), heart(), heart(), SPACING),
    ]
    evaluation = evaluate_arrays(cases, LABELS)
    assert len(evaluation.notes) == 2
    assert {row["phase"]: row["n"] for row in evaluation.summary if row["structure"] == "LV"} == {"ED": 2, "all": 3}
    edv = next(row for row in evaluation.patients if row["index"] == "LV_EDV")
    assert edv["prediction"] == pytest.approx(ml(heart(0.8), 3))


def test_order_of_cases_does_not_matter() -> None:
    results = [
        evaluate_case(heart(0.7 + 0.1 * number), heart(), SPACING, CaseMeta(f"c{number}", f"p{number}", "ED"), LABELS)
        for number in range(3)
    ]
    assert summarise(results) == summarise(results[::-1])


def test_files_round_trip(tmp_path: Path) -> None:
    evaluation = cohort(3)
    write_evaluation(tmp_path, evaluation)
    # JSON that any parser reads: no NaN.
    text = (tmp_path / "evaluation.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    again = read_evaluation(tmp_path)
    assert json.loads(json.dumps(again.to_json())) == json.loads(json.dumps(evaluation.to_json()))
    assert again.reference == "expert"
    for name, count in (("cases", 18), ("patients", 27), ("agreement", 9), ("levels", 54)):
        with (tmp_path / f"{name}.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == count
    with (tmp_path / "agreement.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert float(first["bias_ci_low"]) <= float(first["bias"]) <= float(first["bias_ci_high"])
    assert "bias_ci" not in first


def test_keys_that_the_report_relies_on() -> None:
    values = cohort(2).to_json()
    expected = {
        "cases": "case_id subject phase group structure dice hd hd95 assd missed prediction_ml reference_ml",
        "summary": "structure phase n n_missed dice_mean dice_sd dice_median hd_mean hd95_mean assd_mean",
        "patients": "subject group index unit prediction reference",
        "agreement": "index unit n bias bias_ci sd loa_low loa_high loa_low_ci loa_high_ci pearson_r icc mae",
        "levels": "case_id subject phase level structure dice slices",
    }
    for table, keys in expected.items():
        assert set(keys.split()) <= set(values[table][0])
    assert isinstance(values["mean_dice"], float)


def test_broken_evaluations_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_evaluation(tmp_path / "evaluation.json")
    for text in ("[]", "{}", '{"format_version": 1}', "{"):
        (tmp_path / "evaluation.json").write_text(text)
        with pytest.raises(UserError):
            read_evaluation(tmp_path)


def test_one_patient_gives_none_where_statistics_are_undefined() -> None:
    evaluation = cohort(1)
    row = next(row for row in evaluation.agreement if row["index"] == "LV_EDV")
    assert row["n"] == 1
    assert row["sd"] is row["icc"] is row["pearson_r"] is row["bias_ci"] is None
    assert all(
        not (isinstance(value, float) and math.isnan(value)) for entry in evaluation.agreement for value in entry.values()
    )


def test_results_are_immutable() -> None:
    result = evaluate_case(heart(), heart(), SPACING, META, LABELS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.meta = META  # type: ignore[misc]


def test_torch_is_not_imported() -> None:
    code = "import sys, cardiac_autoseg.evaluation.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_stray_component_far_away_moves_hd_not_hd95() -> None:
    reference = heart()
    prediction = reference.copy()
    prediction[-1, -1, -1] = 3
    clean, stray = (
        evaluate_case(labels, reference, SPACING, META, LABELS).structures[2] for labels in (reference, prediction)
    )
    assert clean.hd == 0
    assert stray.hd is not None
    distance = ndimage.distance_transform_edt(reference != 3, sampling=SPACING)[-1, -1, -1]
    assert stray.hd == pytest.approx(distance)
    assert stray.hd95 == 0
