"""Folds: grouped, stratified, deterministic."""

from __future__ import annotations

import json
import random
from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from planning.splits import Splits, few_folds, make_splits, subset

GROUPS = ("NOR", "DCM", "HCM", "MINF", "RV")


def cohort(counts: tuple[int, ...], seed: int = 0) -> dict[str, str | None]:
    names: list[str | None] = [group for group, count in zip(GROUPS, counts, strict=False) for _ in range(count)]
    random.Random(seed).shuffle(names)
    return {f"patient{number:03d}": group for number, group in enumerate(names, 1)}


COHORTS = [(20, 20, 20, 20, 20), (7, 3, 11, 1, 2), (5,), (2, 2, 1)]


@pytest.mark.parametrize("counts", COHORTS)
def test_every_subject_validates_once_and_is_never_on_both_sides(counts: tuple[int, ...]) -> None:
    subjects = cohort(counts)
    splits = make_splits(subjects)
    validated = [subject for fold in range(5) for subject in splits.val(fold)]
    assert sorted(validated) == sorted(subjects)
    for fold in range(5):
        assert not set(splits.train(fold)) & set(splits.val(fold))
        assert set(splits.train(fold)) | set(splits.val(fold)) == set(subjects)


@pytest.mark.parametrize("counts", COHORTS)
def test_groups_and_sizes_differ_by_at_most_one(counts: tuple[int, ...]) -> None:
    subjects = cohort(counts)
    splits = make_splits(subjects)
    for group in {*subjects.values()}:
        per_fold = [sum(subjects[subject] == group for subject in splits.val(fold)) for fold in range(5)]
        assert max(per_fold) - min(per_fold) <= 1
    sizes = [len(splits.val(fold)) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("counts", COHORTS[:2])
def test_balance_is_no_worse_than_sklearns(counts: tuple[int, ...]) -> None:
    subjects = cohort(counts)
    names, groups = np.array(list(subjects)), np.array([str(group) for group in subjects.values()])

    def spread(folds: list[list[str]]) -> int:
        tables = [Counter(str(subjects[subject]) for subject in fold) for fold in folds]
        return sum(max(t[g] for t in tables) - min(t[g] for t in tables) for g in set(groups))

    peer = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(names, groups, names)
    theirs = spread([list(names[val]) for _, val in peer])
    splits = make_splits(subjects)
    assert spread([list(splits.val(fold)) for fold in range(5)]) <= theirs


def test_order_does_not_matter_and_the_seed_does() -> None:
    subjects = cohort(COHORTS[0])
    shuffled = dict(random.Random(3).sample(list(subjects.items()), len(subjects)))
    assert make_splits(shuffled, seed=7) == make_splits(subjects, seed=7)
    assert make_splits(subjects, seed=8).hash() != make_splits(subjects, seed=7).hash()


def test_subjects_without_a_group_are_a_group() -> None:
    subjects = {**cohort((5, 5)), **{f"x{number}": None for number in range(10)}}
    splits = make_splits(subjects)
    assert [sum(subjects[subject] is None for subject in splits.val(fold)) for fold in range(5)] == [2] * 5


def test_fold_all_trains_on_everyone() -> None:
    splits = make_splits(cohort((5, 5)))
    assert splits.val("all") == ()
    assert len(splits.train("all")) == 10
    assert splits.train("3") == splits.train(3)
    with pytest.raises(ValueError, match="no fold 5"):
        splits.train(5)


def test_json_round_trip() -> None:
    splits = make_splits(cohort(COHORTS[1]))
    values = json.loads(json.dumps(splits.to_json()))
    assert set(values["folds"][0]) == {"train", "val"}
    assert Splits.from_json(values) == splits
    assert Splits.from_json(values).hash() == splits.hash()


def test_damaged_files_are_refused_in_words() -> None:
    values = make_splits(cohort((5, 5))).to_json()
    leak = json.loads(json.dumps(values))
    leak["folds"][0]["train"].append(leak["folds"][0]["val"][0])
    with pytest.raises(ValueError, match="in training and in validation"):
        Splits.from_json(leak)
    twice = json.loads(json.dumps(values))
    twice["folds"][1]["val"].append(twice["folds"][0]["val"][0])
    with pytest.raises(ValueError, match="more than once"):
        Splits.from_json(twice)
    lost = json.loads(json.dumps(values))
    lost["folds"][0]["train"].pop()
    with pytest.raises(ValueError, match="disagree"):
        Splits.from_json(lost)
    with pytest.raises(ValueError, match="version"):
        Splits.from_json({**values, "format_version": 0})
    with pytest.raises(ValueError, match="version"):
        Splits.from_json([values])  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fewer_subjects_than_folds_are_left_out_one_by_one(count: int) -> None:
    splits = make_splits(cohort((count,)))
    assert splits.folds == count
    assert all(len(splits.val(fold)) == 1 for fold in range(count))
    assert Splits.from_json(json.loads(json.dumps(splits.to_json()))) == splits
    assert len(splits.train("all")) == count
    assert few_folds(splits).startswith("one subject" if count == 1 else f"{count} subjects: {count} folds instead of 5")


def test_nothing_to_split() -> None:
    with pytest.raises(ValueError, match="no subject"):
        make_splits({})
    with pytest.raises(ValueError, match="at least 2 folds"):
        make_splits(cohort((3,)), folds=1)


@pytest.mark.parametrize("counts", [*COHORTS, (16, 16, 16, 16, 16)])
def test_subsets_are_nested_and_have_the_groups_in_proportion(counts: tuple[int, ...]) -> None:
    subjects = cohort(counts)
    whole = subset(subjects, len(subjects), 3)
    assert sorted(whole) == sorted(subjects)
    for count in range(1, len(subjects) + 1):
        chosen = subset(subjects, count, 3)
        assert chosen == whole[:count]
        tally = Counter(subjects[subject] for subject in chosen)
        for group, size in Counter(subjects.values()).items():
            assert abs(tally[group] - count * size / len(subjects)) < 2
            if len(set(counts)) == 1 and count % len(counts) == 0:
                assert tally[group] == count // len(counts)


def test_subsets_depend_on_the_seed_and_not_on_the_order() -> None:
    subjects = cohort(COHORTS[0])
    shuffled = dict(random.Random(3).sample(list(subjects.items()), len(subjects)))
    assert subset(shuffled, 20, 7) == subset(subjects, 20, 7)
    drawn = {frozenset(subset(subjects, 5, seed)) for seed in range(20)}
    assert len(drawn) > 15
    assert len(frozenset().union(*drawn)) > 50
    first = Counter(subjects[subset(subjects, 1, seed)[0]] for seed in range(100))
    assert set(first) == set(GROUPS)


@pytest.mark.parametrize("count", [0, 11])
def test_subset_of_more_than_there_are(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} subjects asked for, there are 10"):
        subset(cohort((5, 5)), count, 0)
