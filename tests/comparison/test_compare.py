"""Planted effects come out as planted, with the verdicts they deserve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.comparison.collect import Selection
from cardiac_autoseg.comparison.compare import compare
from cardiac_autoseg.comparison.margins import declare
from cardiac_autoseg.comparison.result import ComparisonResult, EndpointResult, to_json, write_tables
from cardiac_autoseg.comparison.robustness import share_ci
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import read_evaluation
from cardiac_autoseg.files import read_json, write_json
from cardiac_autoseg.report.compare_words import missing_sentence
from cardiac_autoseg.workspace import RunKey

EFFECTS = {"novice": {"RV": -0.10, "mass": 12.0, "apex": -0.05}}
Make = Callable[..., Any]


def compared(made: Any, **selection: Any) -> ComparisonResult:
    return compare(made.workspace, Selection(**selection), declare(made.workspace.margins))


def row_of(result: ComparisonResult, source: str, endpoint: str) -> EndpointResult:
    return next(row for row in result.of(source) if row.comparison.endpoint == endpoint)


@pytest.fixture
def grid(make_runs: Make) -> Any:
    """Two architectures, three sources, three folds of ten patients each."""
    return make_runs(30, EFFECTS, ("unet", "enet"), ("expert", "novice", "trained"))


def test_planted_effects_and_their_verdicts(grid: Any) -> None:
    result = compared(grid)
    assert result.collected.sources == ("novice", "trained")
    for phase in ("ED", "ES"):
        rv, lv = (row_of(result, "novice", f"dice {name} {phase}").comparison for name in ("RV", "LV"))
        assert rv.mean == pytest.approx(-0.10, abs=0.005)
        assert rv.ci95[0] < rv.mean < rv.ci95[1] < rv.ci95[0] + 0.01
        assert (rv.verdict, rv.n) == ("different", 30)
        assert lv.mean == pytest.approx(0.0, abs=0.005)
        assert lv.verdict == "equivalent"
        assert lv.power > 0.99
    mass = row_of(result, "novice", "LV_mass")
    assert mass.comparison.mean == pytest.approx(12.0, abs=1.0)
    assert mass.comparison.verdict == "different"
    assert mass.source_mean - mass.baseline_mean == pytest.approx(mass.comparison.mean)
    assert row_of(result, "novice", "LV_EF").comparison.verdict == "equivalent"
    assert {row.comparison.verdict for row in result.of("trained")} <= {"equivalent", "different but within the margin"}


def test_a_difference_is_the_mean_over_patients_of_the_mean_over_architectures(grid: Any) -> None:
    """Recomputed from the evaluation files with nothing of the code under test."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for key, folder in grid.workspace.runs():
        for row in read_evaluation(folder / "validation").cases:
            if (row["structure"], row["phase"]) == ("MYO", "ES"):
                values.setdefault((key.architecture, key.gt), {}).setdefault(row["subject"], []).append(row["dice"])
    differences = [
        np.mean([values[name, "novice"][subject][0] - values[name, "expert"][subject][0] for name in ("unet", "enet")])
        for subject in values["unet", "expert"]
    ]
    found = row_of(compared(grid), "novice", "dice MYO ES").comparison
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.sd == pytest.approx(np.std(differences, ddof=1))


def test_architectures_alone_levels_groups_and_mixed_model(grid: Any) -> None:
    result = compared(grid)
    alone = {
        row.architecture: row.comparison.mean
        for row in result.architectures
        if row.source == "novice" and row.comparison.endpoint == "dice RV ED"
    }
    assert set(alone) == {"unet", "enet"}
    assert np.mean(list(alone.values())) == pytest.approx(row_of(result, "novice", "dice RV ED").comparison.mean)
    levels = {row.endpoint: row for row in result.levels if row.source == "novice"}
    assert levels["level LV ED apex"].mean == pytest.approx(-0.05, abs=0.005)
    assert levels["level LV ED base"].mean == pytest.approx(0.0, abs=0.005)
    groups = [row for row in result.subgroups if row.source == "novice" and row.endpoint == "dice RV ED"]
    assert [(row.part, row.n) for row in groups] == [("DCM", 10), ("HCM", 10), ("NOR", 10)]
    total = sum(row.n * row.mean for row in groups) / 30
    assert total == pytest.approx(row_of(result, "novice", "dice RV ED").comparison.mean)
    mixed = {(row.endpoint, row.effect.source): row.effect for row in result.mixed}
    assert mixed["dice RV ED", "novice"].estimate == pytest.approx(-0.10, abs=0.005)
    assert mixed["LV_mass", "novice"].ci95[0] < 12.0 < mixed["LV_mass", "novice"].ci95[1]


def test_errors_against_the_reference(make_runs: Make) -> None:
    made = make_runs(24, {"novice": {"LV_EDV": 30.0}}, ("unet",), ("expert", "novice"))
    result = compared(made)
    found = next(row for row in result.errors if row.comparison.endpoint == "error LV_EDV")
    # Errors of about 3 mL become errors of about 30.
    assert found.comparison.mean == pytest.approx(found.source_mean - found.baseline_mean)
    assert 24 < found.comparison.mean < 30
    agreement = {row.who: row.limits.bias for row in result.agreement if row.index == "LV_EDV"}
    assert agreement["novice"] - agreement["expert"] == pytest.approx(row_of(result, "novice", "LV_EDV").comparison.mean)


def test_reclassification_counts_patients(make_runs: Make) -> None:
    made = make_runs(12, {"novice": {"LV_ESV": 30.0}}, ("unet",), ("expert", "novice"))
    result = compared(made)
    rows = [row for row in result.patients if row["endpoint"] == "LV_EF"]
    classes = [[int(np.digitize(row[side], (40, 55))) for row in rows] for side in ("source_value", "baseline_value")]
    found = next(row for row in result.reclassification if row.index == "LV_EF")
    assert found.n == 12
    assert found.changed == sum(a != b for a, b in zip(*classes, strict=True)) > 6
    assert sum(map(sum, found.table)) == 12


def test_seeds_are_averaged_and_are_the_control_arm(make_runs: Make) -> None:
    made = make_runs(15, EFFECTS, ("unet",), ("expert", "novice"))
    assert row_of(compared(made), "novice", "dice RV ED").comparison.seed_sd is None
    for source in ("expert", "novice"):
        for fold in range(3):
            made.run("unet", source, fold, range(15)[fold::3], seed=1)
    result = compared(made)
    found = row_of(result, "novice", "dice RV ED").comparison
    assert found.n == 15  # a patient counts once
    means = []
    for source in ("expert", "novice"):
        scores: dict[int, dict[str, float]] = {0: {}, 1: {}}
        for key, folder in made.workspace.runs():
            if key.gt == source:
                rows = read_evaluation(folder / "validation").cases
                scores[key.seed] |= {
                    row["subject"]: row["dice"] for row in rows if (row["structure"], row["phase"]) == ("RV", "ED")
                }
        means.append(np.mean([scores[1][subject] - scores[0][subject] for subject in scores[0]]))
    assert found.seed_sd == pytest.approx(np.sqrt(np.mean(np.square(means)) / 2))
    assert found.beyond_seeds is True
    assert row_of(result, "novice", "dice LV ED").comparison.beyond_seeds is False


def test_twins_are_one_person(make_runs: Make) -> None:
    made = make_runs(12, EFFECTS, ("unet",), ("expert", "novice"), twins={9: 3})
    result = compared(made)
    assert row_of(result, "novice", "dice RV ED").comparison.n == 11
    rows = {row["patient"]: row for row in result.patients if row["endpoint"] == "dice RV ED"}
    assert "patient009" not in rows
    values = []
    for fold in range(3):
        folder = made.workspace.run(RunKey("unet", "novice", "ce_dice", str(fold), 0))
        values += [
            row["dice"]
            for row in read_evaluation(folder / "validation").cases
            if row["subject"] in ("patient003", "patient009") and (row["structure"], row["phase"]) == ("RV", "ED")
        ]
    assert len(values) == 2
    assert rows["patient003"]["source_value"] == pytest.approx(np.mean(values))


def test_undefined_ejection_fraction_is_counted_not_hidden(make_runs: Make) -> None:
    made = make_runs(12, EFFECTS, ("unet",), ("expert", "novice"))
    path = made.workspace.run(RunKey("unet", "novice", "ce_dice", "0", 0)) / "validation" / "evaluation.json"
    values = read_json(path)
    next(row for row in values["patients"] if row["index"] == "RV_EF")["prediction"] = None
    write_json(path, values)
    result = compared(made)
    found = row_of(result, "novice", "RV_EF")
    assert (found.comparison.n, found.missing) == (11, 1)
    assert "RVEF 1" in missing_sentence(result, "novice")


def test_robust_training_wins_back_a_planted_share(make_runs: Make) -> None:
    # gce halves the loss of Dice of the RV; training on all sources wins all of it back.
    made = make_runs(24, EFFECTS | {"novice gce": {"RV": -0.05}}, ("unet",), ("expert", "novice"))
    for fold in range(3):
        subjects = range(24)[fold::3]
        made.run("unet", "novice", fold, subjects, loss="gce")
        made.run("unet", "all:expert+novice", fold, subjects)
    result = compared(made)
    assert result.collected.loss == "ce_dice"
    found = {(row.method, row.endpoint): row for row in result.robustness}
    half, whole = found["gce", "dice RV ED"], found["--gt all:expert+novice", "dice RV ED"]
    assert half.share == pytest.approx(0.5, abs=0.06)
    assert half.share_ci95 is not None and half.share_ci95[0] < 0.5 < half.share_ci95[1]
    assert whole.share == pytest.approx(1.0, abs=0.06)
    # No gap in LV, so no share of it.
    assert found["gce", "dice LV ED"].share is None
    # The main table knows nothing of these runs.
    assert row_of(result, "novice", "dice RV ED").comparison.mean == pytest.approx(-0.1, abs=0.01)


def test_partial_folds_use_the_common_patients_and_say_so(make_runs: Make) -> None:
    made = make_runs(12, EFFECTS, ("unet",), ("expert",))
    made.run("unet", "novice", 0, range(12)[0::3])
    result = compared(made)
    assert row_of(result, "novice", "dice RV ED").comparison.n == 4
    assert any("4 patients are compared; 8 more are left out" in note for note in result.notes)


def test_tables_hold_every_number(grid: Any, tmp_path: Path) -> None:
    result = compared(grid)
    write_tables(tmp_path, result)
    values = read_json(tmp_path / "comparison.json")
    assert len(values["endpoints"]) == 26
    assert values["simulated"] == ["novice", "trained"]
    assert values["margins"]["values"]["dice"] == 0.02
    lines = (tmp_path / "endpoints.csv").read_text().splitlines()
    assert len(lines) == 27
    assert {"source", "endpoint", "mean", "ci95_low", "p_holm", "p_tost", "verdict", "power"} <= set(lines[0].split(","))
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 19
    assert not (tmp_path / "robustness.csv").exists()
    assert to_json(result)["endpoints"][0]["endpoint"] == "dice LV ED"


def test_nothing_to_compare(make_runs: Make) -> None:
    made = make_runs(6, {}, ("unet",), ("expert",))
    with pytest.raises(UserError, match=r"nothing to compare.*scored runs are of: expert"):
        compared(made)
    made.run("unet", "novice", 1, [0])
    with pytest.raises(UserError, match=r"nothing to compare.*fewer than two patients"):
        compared(made)


def test_a_simulated_reference_is_named(make_runs: Make) -> None:
    made = make_runs(12, {}, ("unet",), ("expert", "novice"))
    for _, folder in made.workspace.runs():
        path = folder / "validation" / "evaluation.json"
        write_json(path, {**read_json(path), "reference": "trained"})
    assert compared(made).simulated == ("novice", "trained")


def test_a_run_validated_again_after_the_margins_was_finished_before(make_runs: Make) -> None:
    made = make_runs(12)
    for gt in ("expert", "novice"):
        made.run(
            "unet",
            gt,
            0,
            range(12),
            started="2020-01-01T00:00:00+00:00",
            seconds={"train": 3000.0, "validate": 600.0},
            updated="2100-01-01T00:00:00+00:00",
        )
    timing = compared(made).timing
    assert timing.finished_before == timing.runs == 2
    assert timing.first_finished == timing.last_finished == "2020-01-01T01:00:00+00:00"


def test_seeds_are_those_of_the_compared_architectures(make_runs: Make) -> None:
    """The mean over architectures varies less from seed to seed than the one architecture that is compared."""
    made = make_runs(12)
    for seed in (0, 1):
        made.run("unet", "expert", 0, range(12), seed=seed)
        made.run("unet", "novice", 0, range(12), seed=seed)
    alone = row_of(compared(made), "novice", "dice RV ED").comparison
    for seed in (0, 1):
        for gt in ("expert", "trained"):
            made.run("enet", gt, 0, range(12), seed=seed)
    both = row_of(compared(made), "novice", "dice RV ED").comparison
    assert alone.seed_sd == both.seed_sd is not None


def test_the_share_of_resamples_without_a_gap_is_not_turned_round() -> None:
    """Everyone wins, so a negative share could only come from a resample whose gap is below 0."""
    gap = np.array([0.5, 0.001, -0.002, 0.001, -0.001, 0.002])
    won = np.abs(gap)
    low, high = share_ci(won, gap)
    assert 0 < low <= high
