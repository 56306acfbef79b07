"""Two sources compared: slices at the ends, levels, patients as the unit, and cases that cannot be compared."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from cardiac_autoseg.annotation.agreement import Agreement, choose_pairs, compare_sources, gather
from cardiac_autoseg.annotation.agreement_case import SLICE_COUNTS, CaseAgreement, compare_case, count_slices
from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source
from cardiac_autoseg.data.volume import Geometry, write_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.results import CaseMeta, Row
from cardiac_autoseg.evaluation.surface import surface_distances
from cardiac_autoseg.workspace import Workspace

SPACING = (10.0, 1.4, 1.4)


def drawn(text: str) -> NDArray[np.bool_]:
    return np.array([letter == "x" for letter in text])


def heart(slices: int = 6, moved: float = 0.0, empty: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """A tapering heart (8, 60, 60), base in slice 1; ``moved`` mm is added to the epicardial radius; some slices empty."""
    labels = np.zeros((8, 60, 60), np.uint8)
    y, x = (np.mgrid[:60, :60] - 30) * SPACING[1]
    for index in range(1, 1 + slices):
        if index not in empty:
            radius = 26 - 2.5 * index
            labels[index][np.hypot(y, x + 20) < radius - 4] = LABELS["RV"]
            labels[index][np.hypot(y, x - 6) < radius + moved] = LABELS["MYO"]
            labels[index][np.hypot(y, x - 6) < radius - 8] = LABELS["LV"]
    return labels


def compare(first: NDArray[np.uint8], second: NDArray[np.uint8], case: str = "a_ED") -> CaseAgreement:
    subject, phase = case.split("_")
    return compare_case(first, second, SPACING, CaseMeta(case, subject, phase, "NOR"), LABELS)


def find(rows: tuple[Row, ...], **columns: str) -> Row:
    (row,) = [row for row in rows if all(row[name] == value for name, value in columns.items())]
    return row


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("-xxxx-", "-xxxx-", {}),
        ("-xxxx-", "--xxx-", {"missed_base": 1}),
        ("-xxxx-", "-xx---", {"missed_apex": 2}),
        ("-xxxx-", "xxxxxx", {"added_base": 1, "added_apex": 1}),
        ("-xxxx-", "-x-xx-", {"missed_middle": 1}),
        ("-x-xx-", "-xxxx-", {"added_middle": 1}),
        ("xxx---", "-xxxx-", {"missed_base": 1, "added_apex": 2}),
        ("------", "------", {}),
    ],
)
def test_slices_missed_and_added(first: str, second: str, expected: dict[str, int]) -> None:
    row = count_slices(drawn(first), drawn(second))
    assert {name: row[name] for name in SLICE_COUNTS if row[name]} == expected
    assert (row["first_slices"], row["second_slices"]) == (first.count("x"), second.count("x"))
    assert row["first_slices"] - row["second_slices"] == sum(
        row[name] * (1 if name.startswith("missed") else -1) for name in SLICE_COUNTS
    )


def test_structure_that_one_never_drew_is_not_counted_in_slices() -> None:
    assert all(count_slices(drawn("xx"), drawn("--"))[name] is None for name in SLICE_COUNTS)


@pytest.mark.parametrize("turned", [False, True])
def test_base_is_the_larger_end_whichever_way_the_stack_runs(turned: bool) -> None:
    first, second = heart(), heart(empty=(1,))
    if turned:
        first, second = first[::-1].copy(), second[::-1].copy()
    row = find(compare(first, second).slices, structure="LV")
    assert (row["missed_base"], row["missed_apex"]) == (1, 0)
    backward = find(compare(second, first).slices, structure="LV")
    assert (backward["added_base"], backward["missed_base"]) == (1, 0)


def test_levels_hold_all_distances_and_the_offset_where_it_is() -> None:
    first, second = heart(), heart()
    second[5:7] = heart(moved=3.0)[5:7]
    found = compare(first, second)
    levels = [find(found.overlap, structure="MYO", level=level) for level in ("base", "mid", "apex")]
    whole = surface_distances(second == LABELS["MYO"], first == LABELS["MYO"], SPACING)
    assert whole is not None
    assert max(row["hd"] for row in levels) == whole.hd == find(found.overlap, structure="MYO", level="all")["hd"]
    assert levels[2]["assd"] > levels[1]["assd"]
    assert find(found.contours, contour="epicardium", level="base")["offset_mm"] == 0
    assert find(found.contours, contour="epicardium", level="apex")["offset_mm"] == pytest.approx(3.0, abs=0.15)
    assert find(found.contours, contour="epicardium", level="all")["offset_mm"] == pytest.approx(0.8, abs=0.3)


def test_patient_is_the_unit_and_the_interval_is_students() -> None:
    offsets = {"a": (1.0, 3.0), "b": (0.5, 0.5), "c": (-1.0, 0.0), "d": (2.0, 1.0)}
    cases = [
        compare(heart(), heart(moved=offset), f"{subject}_{phase}")
        for subject, pair in offsets.items()
        for phase, offset in zip(("ED", "ES"), pair, strict=True)
    ]
    found = gather("x", "y", cases)
    row = find(found.summaries["contours"], contour="epicardium", level="all", phase="all")
    values = {
        subject: np.mean(
            [
                r["offset_mm"]
                for r in found.contours
                if (r["subject"], r["contour"], r["level"]) == (subject, "epicardium", "all")
            ]
        )
        for subject in offsets
    }
    low, high = stats.ttest_1samp(list(values.values()), 0).confidence_interval(0.95)
    assert row["offset_mm_mean"] == pytest.approx(np.mean(list(values.values())))
    assert row["offset_mm_ci"] == pytest.approx((low, high))
    assert (row["n_patients"], row["n_cases"]) == (4, 8)
    assert find(found.summaries["contours"], contour="epicardium", level="all", phase="ES")["n_cases"] == 4
    assert values["a"] == pytest.approx(2.0, abs=0.15)


def test_shares_of_cases_with_missed_slices() -> None:
    cases = [compare(heart(), heart(slices=6 - (number < 2)), f"p{number}_ED") for number in range(5)]
    row = find(gather("x", "y", cases).summaries["slices"], structure="RV", phase="ED")
    assert row["missed_apex_share"] == pytest.approx(0.4)
    assert 0 <= row["missed_apex_share_ci"][0] < 0.4 < row["missed_apex_share_ci"][1] <= 1
    assert row["missed_apex_mean"] == pytest.approx(0.4)
    assert row["missed_base_share"] == 0


def test_disagreements_are_ordered_and_told_apart() -> None:
    second = heart(slices=5)
    second[3] = heart(moved=4.0)[3]
    rows = gather("x", "y", [compare(heart(), second)]).disagreements
    assert find(tuple(row for row in rows if row["kind"] == "missed"), contour="RV")["slice"] == 7
    moved = [row for row in rows if row["kind"] == "moved"]
    assert (moved[0]["contour"], moved[0]["slice"]) == ("epicardium", 4)
    assert moved[0]["distance_mm"] == pytest.approx(4.0, abs=0.3)


def test_empty_labels_do_not_stop_the_comparison() -> None:
    nothing = np.zeros_like(heart())
    found = gather(
        "x", "y", [compare(nothing, heart()), compare(heart(), nothing, "b_ED"), compare(nothing, nothing, "c_ED")]
    )
    row = find(found.summaries["slices"], structure="LV", phase="all")
    assert row["n_undefined"] == 2
    assert find(found.summaries["contours"], contour="RV", level="all", phase="all")["offset_mm_mean"] is None


def test_pairs() -> None:
    assert choose_pairs(["a", "expert", "b"], "expert") == [("expert", "a"), ("expert", "b"), ("a", "b")]
    assert choose_pairs(["a"], "expert") == [("expert", "a")]
    many = [f"s{number}" for number in range(6)]
    assert choose_pairs(many, "s0") == [("s0", name) for name in many[1:]]
    four = choose_pairs(many[:4], "s0")
    assert {frozenset(pair) for pair in four} == {frozenset(pair) for pair in itertools.combinations(many[:4], 2)}


def source_folder(root: Path) -> tuple[Workspace, Dataset]:
    """Three cases of two sources, of which one file lies elsewhere and one cannot be read."""
    geometry = Geometry(size=(60, 60, 8), spacing=(1.4, 1.4, 10.0))
    elsewhere = Geometry(size=(60, 60, 8), spacing=(1.4, 1.4, 10.0), origin=(30.0, 0.0, 0.0))
    cases = []
    for number in range(4):
        for source in ("expert", "novice"):
            place = elsewhere if (number, source) == (1, "novice") else geometry
            write_labels(root / source / f"{number}.nii.gz", heart(moved=2.0 * (source == "novice")), place)
        names = {name: LabelRef(f"{name}/{number}.nii.gz") for name in ("expert", "novice")}
        cases.append(Case(f"p{number}_ED", f"p{number}", f"{number}.nii.gz", phase="ED", labels=names))
    (root / "novice" / "2.nii.gz").write_bytes(b"no image")
    del cases[3].labels["novice"]
    values = {value: name for name, value in LABELS.items()}
    sources = {"expert": Source(values), "novice": Source(values), "idle": Source(values)}
    return Workspace(root), Dataset("made up", tuple(cases), sources)


def test_unreadable_cases_are_reported_and_left_out(tmp_path: Path) -> None:
    lines: list[str] = []
    found: Agreement = compare_sources(*source_folder(tmp_path), "expert", "novice", lines.append)
    assert [row["case_id"] for row in found.evaluation.cases][::3] == ["p0_ED"]
    assert {row["case_id"] for row in found.evaluation.failed} == {"p1_ED", "p2_ED"}
    assert len(lines) == 2 and "same place" in lines[0] and "2.nii.gz" in lines[1]


def test_sources_without_common_cases_are_refused(tmp_path: Path) -> None:
    workspace, dataset = source_folder(tmp_path)
    with pytest.raises(UserError, match="no case in common"):
        compare_sources(workspace, dataset, "expert", "idle", print)
    with pytest.raises(UserError, match="no label source"):
        compare_sources(workspace, dataset, "expert", "nobody", print)
