"""Simulated annotators: biased as told, nested, repeatable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from cardiac_autoseg.annotation.profile import BUILT_IN, Profile, load_profile
from cardiac_autoseg.annotation.simulate import simulate_case
from cardiac_autoseg.phantom import make_subject

RV, MYO, LV = 1, 2, 3
SPACING = (10.0, 1.3, 1.3)
Phantom = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]


def _simulate(labels: np.ndarray, case: str = "case", person: int = 1, **fields: Any) -> np.ndarray:
    return simulate_case(labels, SPACING, Profile(**fields), person, case)


def _circles(slices: int = 40) -> np.ndarray:
    """Circles of known radii, shifted by parts of a pixel so that pixel steps average out."""
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:96, :96] - 47.5) * SPACING[1]
    labels = np.zeros((slices, 96, 96), np.uint8)
    for part in labels:
        dy, dx = rng.uniform(-1, 1, 2)
        radius = np.hypot(y - dy, x - dx)
        part[(np.hypot(y - dy, x - dx + 28) < 26)] = RV
        part[radius < 32] = MYO
        part[radius < 22] = LV
    return labels


def _radius(mask: np.ndarray) -> float:
    """Mean over slices of the radius of the circle of equal area, mm."""
    return float(np.sqrt(mask.sum(axis=(1, 2)) * SPACING[1] ** 2 / np.pi).mean())


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """ED and ES labels, and spacing."""
    subject = make_subject(5, "NOR", size="small", whole_cycle=False)
    return subject.labels_ed, subject.labels_es, subject.geometry.spacing_zyx


@pytest.mark.parametrize("offset", [-2.0, -1.0, 0.7, 2.0])
def test_offset_moves_each_contour_by_that_much(offset: float) -> None:
    labels = _circles()
    epi = _simulate(labels, epicardium_mm=offset)
    endo = _simulate(labels, endocardium_mm=offset)
    assert _radius(epi >= MYO) - _radius(labels >= MYO) == pytest.approx(offset, abs=0.2)
    assert _radius(endo == LV) - _radius(labels == LV) == pytest.approx(offset, abs=0.2)
    # Each leaves the other contour alone.
    assert np.array_equal(epi == LV, labels == LV)
    assert np.array_equal(endo >= MYO, labels >= MYO)


# Whole pixels: a straight edge along the grid cannot move by less.
@pytest.mark.parametrize("offset", [-2.6, 2.6])
def test_rv_offset_moves_the_free_wall_but_not_the_septum(offset: float) -> None:
    labels = _circles()
    drawn = _simulate(labels, rv_mm=offset)
    # The free wall in the rows around the middle of the RV.
    edge = [(part[:, 44:52] == RV).argmax(axis=2).mean() * SPACING[1] for part in (labels, drawn)]
    assert edge[0] - edge[1] == pytest.approx(offset, abs=0.3)
    assert np.array_equal(drawn >= MYO, labels >= MYO)
    septum = ndimage.binary_dilation(labels >= MYO, np.ones((1, 3, 3))) & (labels == RV)
    # At the insertion points the free wall is near; between them nothing moves.
    assert (drawn[:, 40:56][septum[:, 40:56]] == RV).all()


def test_shrunken_wall_leaves_no_gap_to_the_rv() -> None:
    labels = _circles(3)
    drawn = _simulate(labels, epicardium_mm=-3.0)
    septum = (labels == MYO) & ndimage.binary_dilation(labels == RV, np.ones((1, 3, 3)))
    assert (drawn[septum] == RV).mean() > 0.85
    assert ((drawn == RV) & (labels == 0)).sum() == 0


def test_zero_profile_is_identity(phantom: Phantom) -> None:
    ed, es, spacing = phantom
    for labels in (ed, es, np.zeros_like(ed)):
        drawn = simulate_case(labels, spacing, Profile(), 1, "case", ed_labels=ed)
        assert np.array_equal(drawn, labels)
        assert drawn is not labels
    # Vanishing offsets run the whole drawing and must not change anything either.
    vanishing = Profile(jitter_sd_mm=1e-9, person_sd_mm=1e-9, rv_outflow_mm=1e-9, papillary_share=1e-9)
    assert np.array_equal(simulate_case(ed, spacing, vanishing, 1, "case"), ed)


def test_profile_person_and_case_decide(phantom: Phantom) -> None:
    labels, _, spacing = phantom
    novice, trained = load_profile("novice"), load_profile("trained")
    first, again, person, case, profile = (
        simulate_case(labels, spacing, *who)
        for who in [(novice, 1, "a"), (novice, 1, "a"), (novice, 2, "a"), (novice, 1, "b"), (trained, 1, "a")]
    )
    assert np.array_equal(first, again)
    for other in (person, case, profile):
        assert not np.array_equal(first, other)


def test_one_choice_does_not_disturb_another(phantom: Phantom) -> None:
    labels, _, spacing = phantom
    plain, dropped = (
        simulate_case(labels, spacing, Profile(jitter_sd_mm=1.0, mood_sd_mm=1.0, drop_apical=chance), 1, "a")
        for chance in (0, 1)
    )
    kept = (dropped > 0).any(axis=(1, 2))
    assert np.array_equal(plain[kept] == LV, dropped[kept] == LV)


@pytest.mark.parametrize("name", BUILT_IN)
def test_myocardium_stays_closed_around_the_cavity(name: str, phantom: Phantom) -> None:
    labels, _, spacing = phantom
    in_plane = np.zeros((3, 3, 3), bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    for case in range(6):
        drawn = simulate_case(labels, spacing, load_profile(name), 1, str(case))
        touched = ndimage.binary_dilation(drawn == LV, in_plane) & (drawn != LV)
        assert set(np.unique(drawn[touched])) <= {MYO}


def test_jitter_has_its_size_and_no_bias() -> None:
    labels = _circles()
    drawn = _simulate(labels, jitter_sd_mm=1.0)
    assert _radius(drawn >= MYO) == pytest.approx(_radius(labels >= MYO), abs=0.2)
    # Along one ray the contour's place has the standard deviation asked for.
    edge = (drawn[:, 48, 48:] >= MYO).sum(axis=1) * SPACING[1]
    assert 0.6 < edge.std() < 1.5


def test_persons_and_moods_have_their_size() -> None:
    labels = _circles(6)
    cases = [f"case{index}" for index in range(30)]

    def radii(sd: str, persons: list[int], cases: list[str]) -> np.ndarray:
        return np.array(
            [_radius(_simulate(labels, case, person, **{sd: 1.0}) == LV) for person in persons for case in cases]
        )

    assert np.ptp(radii("person_sd_mm", [1], cases)) == 0
    assert 0.6 < radii("person_sd_mm", list(range(30)), ["a"]).std() < 1.4
    assert 0.6 < radii("mood_sd_mm", [1], cases).std() < 1.4


def test_ed_and_es_share_half_a_mood() -> None:
    labels = _circles(4)
    profile = Profile(mood_sd_mm=1.5)
    pairs = [
        [_radius(simulate_case(labels, SPACING, profile, 1, f"{s}{phase}", subject=str(s)) == LV) for phase in ("ED", "ES")]
        for s in range(60)
    ]
    assert 0.2 < np.corrcoef(np.array(pairs).T)[0, 1] < 0.8


def _tapered() -> np.ndarray:
    labels = np.zeros((8, 40, 48), np.uint8)
    for index in range(2, 6):
        labels[index, 10 : 32 - index, 2:10] = RV
        labels[index, 10 : 32 - index, 10:30] = MYO
        labels[index, 14 : 28 - index, 14:26] = LV
    return labels


def test_end_slices_are_dropped_and_added_as_often_as_told() -> None:
    labels = _tapered()
    chances: dict[str, Any] = {"drop_basal": 0.3, "add_basal": 0.2, "drop_apical": 0.5, "add_apical": 0.4}
    for stack, base, apex, beyond in ((labels, 2, 5, (1, 6)), (labels[::-1], 5, 2, (6, 1))):
        drawn = np.stack([_simulate(stack, str(case), **chances) for case in range(200)])
        for structure in (LV, RV):
            has = (drawn == structure).any(axis=(2, 3)).mean(axis=0)
            assert has[base] == pytest.approx(0.7, abs=0.1)
            assert has[beyond[0]] == pytest.approx(0.2, abs=0.1)
            assert has[apex] == pytest.approx(0.5, abs=0.1)
            assert has[beyond[1]] == pytest.approx(0.4, abs=0.1)
        assert (drawn[:, 3:5] == stack[3:5]).all()
        assert not drawn[:, [0, 7]].any()


def test_added_slice_is_its_neighbour_drawn_in() -> None:
    labels = _tapered()
    drawn = _simulate(labels, add_basal=1.0, add_apical=1.0)
    for new, neighbour in ((1, 2), (6, 5)):
        assert (drawn[new] > 0).sum() < (labels[neighbour] > 0).sum()
        assert not (drawn[new] > 0)[labels[neighbour] == 0].any()
        assert {RV, MYO, LV} <= set(np.unique(drawn[new]))


def test_rv_base_and_outflow_change_only_their_place() -> None:
    labels = _circles(12)
    labels[6:] = np.where(np.mgrid[:96, :96][0] > 80, 0, labels[6:])  # so that the base is first
    labels[8:][labels[8:] == RV] = 0
    base = _simulate(labels, rv_base_mm=-3.0)
    changed = (base != labels).any(axis=(1, 2))
    assert changed[:4].all()
    assert not changed[4:].any()
    tract = _simulate(labels, rv_outflow_mm=-4.0)
    changed = (tract != labels).any(axis=(1, 2))
    assert changed[:6].all()
    assert not changed[6:].any()
    rows = np.flatnonzero((tract != labels).any(axis=(0, 2)))
    assert rows.max() <= 49


def test_papillary_muscles_are_a_share_of_the_cavity_and_touch_its_wall() -> None:
    labels = _circles(9)
    drawn = _simulate(labels, papillary_share=0.1)
    counted = (labels == LV) & (drawn == MYO)
    assert not counted[:3].any() or not counted[-3:].any()
    shares = counted.sum(axis=(1, 2)) / (labels == LV).sum(axis=(1, 2))
    assert sorted(set(shares.round(2))) == [0.0, 0.1]
    for part, before in zip(counted, labels, strict=True):
        parts, number = ndimage.label(part)
        assert number <= 2
        for index in range(1, number + 1):
            assert (ndimage.binary_dilation(parts == index) & (before == MYO)).any()
            # On the free wall: the RV is at low x.
            assert np.nonzero(parts == index)[1].mean() > 44
    assert np.array_equal(drawn >= MYO, labels >= MYO)


def test_misjudged_es_lies_between_es_and_ed(phantom: Phantom) -> None:
    ed, es, spacing = phantom

    def volume(fraction: float) -> int:
        profile = Profile(es_misjudged=1.0, es_fraction=fraction)
        return int((simulate_case(es, spacing, profile, 1, "es", ed_labels=ed) == LV).sum())

    both = (es > 0).any(axis=(1, 2)) & (ed > 0).any(axis=(1, 2))
    volumes = [volume(fraction) for fraction in (0.0, 0.3, 0.7, 1.0)]
    assert volumes[0] == (es == LV).sum()
    assert sorted(set(volumes)) == volumes
    assert volumes[-1] == pytest.approx((ed[both] == LV).sum(), rel=0.03)
    # Without the ED labels, as for an ED frame, nothing is misjudged.
    assert np.array_equal(simulate_case(es, spacing, Profile(es_misjudged=1.0, es_fraction=0.5), 1, "es"), es)


def test_polygon_has_that_many_corners() -> None:
    labels = _circles(20)
    sides = {n: _radius(_simulate(labels, polygon_vertices=n) >= MYO) for n in (4, 8, 16)}
    for n, radius in sides.items():
        # A regular polygon inscribed in a circle has the area n/2 sin(2 pi/n) r^2.
        assert radius == pytest.approx(32 * np.sqrt(n / (2 * np.pi) * np.sin(2 * np.pi / n)), abs=0.4)
    fine = _simulate(labels, polygon_vertices=100)
    assert all(_dice(fine == value, labels == value) > 0.98 for value in (RV, MYO, LV))


def test_slips_shift_whole_structures_as_often_as_told() -> None:
    labels = _circles(200)
    drawn = _simulate(labels, slip=0.2, slip_mm=8.0)
    for structures in ((LV,), (MYO, LV)):
        moved = []
        for before, after in zip(labels, drawn, strict=True):
            centres = [np.argwhere(np.isin(part, structures)).mean(axis=0) for part in (before, after)]
            moved.append(np.hypot(*(centres[1] - centres[0])) * SPACING[1])
        assert np.mean(np.array(moved) > 1) == pytest.approx(0.2, abs=0.08)
        assert np.mean([m for m in moved if m > 1]) == pytest.approx(8.0, abs=0.7)


def test_novice_is_biased_where_beginners_are() -> None:
    subjects = [make_subject(seed, "NOR", size="small", whole_cycle=False) for seed in range(4)]
    dice: dict[str, np.ndarray] = {}
    ends = {"drop_basal": 0.0, "drop_apical": 0.0, "add_basal": 0.0, "add_apical": 0.0}
    for name in BUILT_IN:
        # A forgotten slice of the small phantom's six is a seventh of the LV: look at the contours alone.
        profile = Profile(**{**load_profile(name).to_json(), **ends})
        scores = [
            [
                _dice(simulate_case(s.labels_ed, s.geometry.spacing_zyx, profile, 1, str(i)) == v, s.labels_ed == v)
                for v in (RV, MYO, LV)
            ]
            for i, s in enumerate(subjects)
        ]
        dice[name] = np.mean(scores, axis=0)
    assert (dice["novice"] < dice["trained"]).all()
    assert dice["novice"][2] - max(dice["novice"][:2]) > 0.03
    assert dice["trained"].min() > 0.85
