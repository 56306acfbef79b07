"""Findings: a good result has none, every fault has its own, and the words say where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.inference.statistics import SliceStatistics
from cardiac_autoseg.trust.domain import Domain, build_domain, measure
from cardiac_autoseg.trust.features import frame_features
from cardiac_autoseg.trust.findings import Finding, findings
from cardiac_autoseg.trust.flags import listed

LV, MYO, RV = 3, 2, 1
Inspect = Callable[..., tuple[Finding, ...]]


@pytest.fixture(scope="module")
def domain(scaled_heart: Callable[..., Any], names: dict[str, int]) -> Domain:
    hearts = [scaled_heart(scale, contraction) for scale in (0.7, 1.0, 1.2) for contraction in (0.0, 1.0)]
    return build_domain(measure(heart.image, heart.labels, heart.spacing, names) for heart in hearts)


@pytest.fixture
def inspect(heart: Any, names: dict[str, int], domain: Domain, agreeing: Callable[..., SliceStatistics]) -> Inspect:
    """Findings on labels (T, Z, Y, X) with networks that agree unless others are given."""

    def make(
        labels: np.ndarray,
        image: np.ndarray | None = None,
        statistics: SliceStatistics | None = None,
        spacing: tuple[float, float, float] = heart.spacing,
        ed: int = 0,
        es: int = 0,
        heart_rate: float | None = 60.0,
    ) -> tuple[Finding, ...]:
        image = np.broadcast_to(heart.image, labels.shape) if image is None else image
        known = agreeing(labels, spacing) if statistics is None else statistics
        features = {t: frame_features(labels[t], known, t, image[t], spacing, names, domain) for t in sorted({ed, es})}
        return findings(labels, known, image, spacing, names, features, domain=domain, ed=ed, es=es, heart_rate=heart_rate)

    return make


def codes(found: tuple[Finding, ...]) -> set[str]:
    return {finding.code for finding in found}


@pytest.fixture(scope="module")
def beat(scaled_heart: Callable[..., Any]) -> list[Any]:
    """Twenty hearts of a beat: ED is frame 0, ES frame 10."""
    return [scaled_heart(1.0, np.sin(np.pi * frame / 20) ** 2) for frame in range(20)]


@pytest.fixture
def cine(beat: list[Any]) -> np.ndarray:
    """The beat's labels (20, Z, Y, X)."""
    return np.stack([heart.labels for heart in beat])


def test_a_good_result_has_no_findings(inspect: Inspect, heart: Any) -> None:
    assert inspect(heart.labels[None]) == ()
    assert inspect(heart.labels[None, ::-1], heart.image[None, ::-1]) == ()


def test_a_good_cine_has_no_findings(inspect: Inspect, beat: list[Any], cine: np.ndarray) -> None:
    image = np.stack([heart.image for heart in beat])
    assert inspect(cine, image, ed=0, es=10) == ()
    assert codes(inspect(cine, image, ed=0, es=10, heart_rate=None)) == {"heart_rate"}


@pytest.mark.parametrize("kind", ["constant", "noise", "an empty prediction"])
def test_nothing_found_is_said_and_nothing_else_of_the_heart(inspect: Inspect, heart: Any, kind: str) -> None:
    image = {"constant": np.zeros_like(heart.image), "noise": np.random.default_rng(0).normal(size=heart.image.shape)}
    found = inspect(np.zeros_like(heart.labels)[None], image.get(kind, heart.image)[None])
    assert (found[0].code, found[0].severity) == ("no_heart", "warning")
    assert codes(found) <= {"no_heart", "intensity"}
    assert ("intensity" in codes(found)) == (kind in image)


def test_specks_in_noise_are_no_heart(inspect: Inspect, heart: Any) -> None:
    """What networks may make of an image without a heart: a few small blobs."""
    labels = np.zeros_like(heart.labels)
    labels[3, 10:16, 10:16], labels[7, 60:64, 60:70] = LV, MYO
    found = inspect(labels[None], np.random.default_rng(0).normal(size=(1, *labels.shape)))
    assert {"missing", "few_slices", "heart_size", "intensity"} <= codes(found)


def altered(labels: np.ndarray, kind: str) -> np.ndarray:
    labels = labels.copy()
    if kind == "missing":
        labels[labels == RV] = 0
    elif kind == "gap":
        labels[4] = 0
    elif kind == "misaligned":
        labels[4] = np.roll(labels[4], 12, axis=1)
    elif kind == "anatomy":
        for plane in labels[2:8]:
            plane[2:6, 2:6] = LV
    elif kind == "apex_cut":
        labels = labels[:6]
    elif kind == "base_cut":
        labels = labels[5:]
    elif kind == "few_slices":
        labels[[1, 2, 7, 8]] = 0
    elif kind == "border":
        labels = labels[:, :, :75]
    return labels


@pytest.mark.parametrize("kind", ["missing", "gap", "misaligned", "anatomy", "apex_cut", "base_cut", "few_slices", "border"])
def test_every_fault_is_found(inspect: Inspect, heart: Any, kind: str) -> None:
    labels = altered(heart.labels, kind)
    found = {finding.code: finding for finding in inspect(labels[None], np.resize(heart.image, labels.shape)[None])}
    assert kind in found
    assert found[kind].severity == "warning"
    assert "Frame" not in found[kind].text  # there is only one


@pytest.mark.parametrize("step", [1, -1])
def test_the_cut_end_is_named_whichever_way_the_stack_lies(inspect: Inspect, heart: Any, step: int) -> None:
    labels = heart.labels[:6][::step]
    finding = next(item for item in inspect(labels[None], heart.image[None, :6]) if item.code == "apex_cut")
    assert finding.slice == (5 if step == 1 else 0)
    assert finding.text.startswith(f"Slice {finding.slice + 1},")


@pytest.mark.parametrize("factors", [(2, 1, 1), (0.5, 1, 1), (1, 2, 2), (1, 0.5, 0.5)])
def test_wrong_spacing_is_found(inspect: Inspect, heart: Any, factors: tuple[float, float, float]) -> None:
    spacing = tuple(size * factor for size, factor in zip(heart.spacing, factors, strict=True))
    found = inspect(heart.labels[None], spacing=spacing)
    assert "geometry" in codes(found)
    assert "mm" in next(item.text for item in found if item.code == "geometry")


def test_networks_that_disagree(inspect: Inspect, heart: Any, agreeing: Callable[..., SliceStatistics]) -> None:
    known = agreeing(heart.labels[None], heart.spacing)
    areas = known.areas.copy()
    areas[0, ..., RV] /= 3
    found = inspect(heart.labels[None], statistics=dataclasses.replace(known, areas=areas, overlaps=areas))
    assert codes(found) == {"disagreement"}
    assert "right ventricle 0.83" in found[0].text and "left ventricle" not in found[0].text


def test_doubt_at_the_base_says_what_hangs_on_it(
    inspect: Inspect, heart: Any, agreeing: Callable[..., SliceStatistics]
) -> None:
    known = agreeing(heart.labels[None], heart.spacing)
    areas = known.areas.copy()
    areas[0, :, 1] = 0
    found = inspect(heart.labels[None], statistics=dataclasses.replace(known, areas=areas, overlaps=areas))
    assert codes(found) == {"basal_slice"}
    assert found[0].slice == 1 and "slice 2," in found[0].text
    assert f"{np.count_nonzero(heart.labels[1] == LV) * 0.0225:.0f} mL" in found[0].text


def test_findings_of_two_frames_are_told_once(inspect: Inspect, cine: np.ndarray) -> None:
    found = [finding for finding in inspect(np.where(cine == RV, 0, cine), ed=0, es=10) if finding.code == "missing"]
    assert len(found) == 1
    assert found[0].text.startswith("Frame 1: ") and found[0].text.endswith("The same in frame 11.")


@pytest.mark.parametrize("kind", ["papillary", "slice_flicker", "volume_jump"])
def test_jumps_between_frames(inspect: Inspect, cine: np.ndarray, kind: str) -> None:
    rows, columns = (axis * 1.5 for axis in np.mgrid[:120, :140])
    middle = np.hypot(rows - 90, columns - 110) < 8
    if kind == "papillary":
        for plane in cine[4]:
            plane[middle & (plane == LV)] = MYO
    elif kind == "slice_flicker":
        cine[4, 1] = 0
    else:
        cine[4][np.broadcast_to(middle, cine[4].shape) & (cine[4] == LV)] = 0
        cine[4, 1][cine[4, 1] == LV] = 0
    found = [finding for finding in inspect(cine, ed=0, es=10) if finding.frame == 4]
    assert [finding.code for finding in found] == [kind]
    assert "Frame 5" in found[0].text
    if kind == "slice_flicker":
        assert found[0].slice == 1 and "slice 2" in found[0].text


def test_frames_without_a_heart_are_named(inspect: Inspect, cine: np.ndarray) -> None:
    cine[[3, 19]] = 0
    found = next(finding for finding in inspect(cine, ed=0, es=10) if finding.code == "lost_frame")
    assert "frames 4 and 20" in found.text and found.frame == 3


def test_impossible_function(inspect: Inspect, heart: Any, cine: np.ndarray) -> None:
    still = np.stack([heart.labels, heart.labels])
    assert "ejection_fraction" in codes(inspect(still, ed=0, es=1))
    less_muscle = cine[[0, 10]].copy()
    less_muscle[1][less_muscle[1] == MYO] = np.where(np.arange((less_muscle[1] == MYO).sum()) % 2, MYO, 0)
    assert "myocardium" in codes(inspect(less_muscle, ed=0, es=1))
    right_stays = cine[[0, 10]].copy()
    right_stays[1][right_stays[0] == RV] = RV
    assert "stroke_volume" in codes(inspect(right_stays, ed=0, es=1))


def test_numbers_in_words() -> None:
    assert [listed([3]), listed([1, 2]), listed([1, 2, 5])] == ["3", "1 and 2", "1, 2 and 5"]
