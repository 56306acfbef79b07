"""The fingerprint against hand-made volumes whose numbers are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import run

import numpy as np
import pytest

from planning.fingerprint import PERCENTILES, CaseMeasurement, Fingerprint, build_fingerprint
from planning.measure import measure_case
from planning.otsu import otsu_threshold
from planning.percentiles import sorted_percentiles

CLASSES = ("background", "RV", "MYO", "LV")


def block(rows: int = 20, columns: int = 30, slices: Sequence[int] = (1, 2), value: int = 3) -> np.ndarray:
    """Labels (4, 64, 80) with a block of ``rows`` x ``columns`` in ``slices``."""
    labels = np.zeros((4, 64, 80), np.uint8)
    for number in slices:
        labels[number, 10 : 10 + rows, 5 : 5 + columns] = value
    return labels


def measure(name: str = "a_1", **labels: np.ndarray) -> CaseMeasurement:
    image = np.random.default_rng(0).normal(100, 5, (4, 64, 80))
    image[:, :8] = 0
    return measure_case(image, labels, (10.0, 1.5, 1.25), name, CLASSES)


def test_numbers_of_a_case() -> None:
    labels = block()
    labels[3, 40, 70] = 1
    case = measure(expert=labels)
    source = case.sources["expert"]
    assert case.shape == (4, 64, 80)
    assert case.spacing == (10.0, 1.5, 1.25)
    assert source.extent_mm == ((40 - 10 + 1) * 1.5, (70 - 5 + 1) * 1.25)
    assert source.label_slices == 3
    voxel = 10.0 * 1.5 * 1.25 / 1000
    assert source.volumes_ml == pytest.approx({"RV": voxel, "MYO": 0.0, "LV": 2 * 20 * 30 * voxel})
    assert source.intensity is not None
    assert source.intensity[3] == pytest.approx(100, abs=1)
    assert list(source.intensity) == sorted(source.intensity)


def test_body_is_what_is_bright() -> None:
    assert measure().intensity[0] > 50, "the dark rows are not body"


def test_empty_labels_are_labels_without_extent() -> None:
    source = measure(expert=block(slices=())).sources["expert"]
    assert source.label_slices == 0
    assert source.extent_mm is None
    assert source.intensity is None
    assert set(source.volumes_ml.values()) == {0.0}


def test_nan_and_constant_images() -> None:
    image = np.full((2, 8, 8), np.nan)
    image[0] = 7.0
    assert set(measure_case(image, {}, (1, 1, 1), "c", CLASSES).intensity) == {7.0}
    with pytest.raises(ValueError, match="no finite voxel"):
        measure_case(np.full((2, 8, 8), np.nan), {}, (1, 1, 1), "c", CLASSES)


@pytest.mark.parametrize(
    ("labels", "spacing", "message"),
    [
        (np.zeros((2, 8, 9), np.uint8), (1, 1, 1), "shape"),
        (np.full((2, 8, 8), 9, np.uint8), (1, 1, 1), "label value 9"),
        (np.zeros((2, 8, 8), np.uint8), (1, 0, 1), "spacing"),
        (np.zeros((2, 8, 8), np.uint8), (1, float("nan"), 1), "spacing"),
    ],
)
def test_bad_cases_are_refused_in_words(labels: np.ndarray, spacing: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_case(np.ones((2, 8, 8)), {"expert": labels}, spacing, "case7", CLASSES)


def mixed() -> list[CaseMeasurement]:
    """Expert on two cases, a non-expert on one of them and on one of his own, nobody on the fourth."""
    return [
        measure("a_1", expert=block(), nonexpert=block(rows=40)),
        measure("a_2", expert=block(rows=10)),
        measure("b_1", nonexpert=block(slices=())),
        measure("c_1"),
    ]


SUBJECTS = {"a_1": "a", "a_2": "a", "b_1": "b", "c_1": "c"}


def test_sources_that_cover_some_of_the_cases() -> None:
    found = build_fingerprint("demo", CLASSES, mixed(), SUBJECTS, "hash")
    assert found.planning_source == "expert"
    expert, other = found.coverage["expert"], found.coverage["nonexpert"]
    assert (expert.cases, expert.subjects, expert.slices, expert.empty) == (2, 1, 4, 0)
    assert (other.cases, other.subjects, other.slices, other.empty) == (2, 2, 2, 1)
    assert found.slices == 16
    assert found.labelled_slices == 8
    assert found.summary["heart_y"].maximum == 30.0, "the planning source's extent, not the other's"
    assert found.summary["spacing_x"].median == 1.25


def test_no_labels_at_all() -> None:
    found = build_fingerprint("demo", CLASSES, [measure("c_1")], {"c_1": "c"}, "hash")
    assert found.planning_source is None
    assert found.coverage == {}
    assert "heart_y" not in found.summary
    assert found.labelled_slices == found.slices == 4


def test_json_round_trip_and_order() -> None:
    found = build_fingerprint("demo", CLASSES, mixed(), SUBJECTS, "hash")
    again = Fingerprint.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert again.hash() == found.hash()
    assert build_fingerprint("demo", CLASSES, mixed()[::-1], SUBJECTS, "hash") == found


def test_hash_follows_what_a_plan_depends_on() -> None:
    found = build_fingerprint("demo", CLASSES, mixed(), SUBJECTS, "hash")
    without = [measure("a_1", expert=block()), *mixed()[1:]]
    assert build_fingerprint("demo", CLASSES, without, SUBJECTS, "other").hash() == found.hash(), "a further source"
    changed = [measure("a_1", expert=block(rows=21)), *mixed()[1:]]
    assert build_fingerprint("demo", CLASSES, changed, SUBJECTS, "hash").hash() != found.hash()


def test_wrong_versions_and_fields_are_refused() -> None:
    values = build_fingerprint("demo", CLASSES, mixed(), SUBJECTS, "hash").to_json()
    with pytest.raises(ValueError, match="version"):
        Fingerprint.from_json({**values, "format_version": 99})
    with pytest.raises(ValueError, match="unknown fields"):
        Fingerprint.from_json({**values, "surprise": 1})
    with pytest.raises(ValueError, match="without a subject"):
        build_fingerprint("demo", CLASSES, mixed(), {}, "hash")
    with pytest.raises(ValueError, match="more than once"):
        build_fingerprint("demo", CLASSES, [*mixed(), *mixed()], SUBJECTS, "hash")
    with pytest.raises(ValueError, match="at least one"):
        build_fingerprint("demo", CLASSES, [], {}, "hash")


def test_otsu_agrees_with_an_exhaustive_search() -> None:
    generator = np.random.default_rng(1)
    values = np.concatenate([generator.normal(10, 2, 3000), generator.normal(40, 5, 1000)])

    def within(threshold: float) -> float:
        parts = values[values <= threshold], values[values > threshold]
        return sum(part.size * part.var() for part in parts)

    best = min(np.linspace(values.min(), values.max(), 1000)[1:-1], key=within)
    found = otsu_threshold(values)
    assert within(found) <= within(best) * 1.01
    assert 14 < found < 32


def test_planning_imports_neither_torch_nor_the_other_package() -> None:
    modules = [path.stem for path in (Path(__file__).parents[2] / "planning").glob("*.py") if path.stem != "__init__"]
    code = f"import sys, {', '.join('planning.' + name for name in modules)}; print(*sys.modules)"
    loaded = run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "cardiac_autoseg", "SimpleITK", "scipy"} & set(loaded)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_sorted_values_give_numpys_percentiles_and_histogram(kind: type) -> None:
    rng = np.random.default_rng(0)
    volumes = [rng.gamma(2, 100, 5000), rng.integers(0, 256, 5000), rng.integers(0, 3, 7), np.ones(1), rng.random(2)]
    for volume in volumes:
        values: np.ndarray = volume.astype(kind)
        ordered = np.sort(values)
        assert np.array_equal(sorted_percentiles(ordered, PERCENTILES), np.percentile(values, PERCENTILES))
        low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
        if high > low:
            counts, edges = np.histogram(np.clip(values, low, high), bins=256, range=(low, high))
            centres = (edges[:-1] + edges[1:]) / 2
            # Otsu's measure, bin by bin.
            between = [
                counts[:cut].sum()
                * counts[cut:].sum()
                * (np.average(centres[:cut], weights=counts[:cut]) - np.average(centres[cut:], weights=counts[cut:])) ** 2
                if counts[:cut].any() and counts[cut:].any()
                else 0
                for cut in range(1, 256)
            ]
            found = int(np.flatnonzero(edges == otsu_threshold(values))[0])
            assert between[found - 1] == pytest.approx(max(between))
