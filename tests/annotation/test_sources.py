"""What ``--gt`` takes."""

from __future__ import annotations

import pytest

from cardiac_autoseg.annotation.sources import TrainingSet, parse_gt, scoring_source, simulated
from cardiac_autoseg.data.index import Case, Dataset, LabelRef, Source
from cardiac_autoseg.errors import UserError

VALUES = {1: "RV", 2: "MYO", 3: "LV"}
SOURCES = {
    "expert": Source(VALUES),
    "novice1": Source(VALUES, simulated=True),
    "b-2.c": Source(VALUES),
    "vote": Source(VALUES, derived="majority:expert+novice1+b-2.c"),
}
CASES = (Case("p1_frame01", "p1", "p1.nii.gz", labels={name: LabelRef(f"{name}.nii.gz") for name in SOURCES}),)
DATASET = Dataset("made up", CASES, SOURCES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("expert", TrainingSet(("expert",))),
        ("vote", TrainingSet(("vote",))),
        ("b-2.c@20", TrainingSet(("b-2.c",), 20)),
        ("all", TrainingSet(("expert", "novice1", "b-2.c"))),
        ("all@5", TrainingSet(("expert", "novice1", "b-2.c"), 5)),
        ("all:vote+novice1", TrainingSet(("vote", "novice1"))),
        ("all:novice1+b-2.c@7", TrainingSet(("novice1", "b-2.c"), 7)),
        ("all:expert:novice1+b-2.c", TrainingSet(("expert", "novice1", "b-2.c"), None, "expert")),
        ("all:expert:novice1@3", TrainingSet(("expert", "novice1"), 3, "expert")),
    ],
)
def test_texts_that_are_understood(text: str, expected: TrainingSet) -> None:
    assert parse_gt(text, DATASET) == expected
    assert scoring_source(text, DATASET) == expected.sources[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody", "no label source 'nobody'.*it has: b-2.c, expert, novice1, vote"),
        ("", "no label source ''"),
        ("all:expert+nobody", "no label source 'nobody'"),
        ("all:expert+", "no label source ''"),
        ("all:", "no label source ''"),
        ("expert:novice1", "no label source 'expert:novice1'"),
        ("expert@", "after @ comes a number"),
        ("expert@0", "after @ comes a number"),
        ("expert@-3", "after @ comes a number"),
        ("expert@2.5", "after @ comes a number"),
        ("expert@05", "after @ comes a number"),
        ("expert@5@5", "after @ comes a number"),
        ("all:expert+expert", "named twice"),
        ("all:expert:expert", "named twice"),
        ("all:expert", "at least 2 sources, not expert"),
        ("all:expert:novice1:b-2.c", "expected all"),
    ],
)
def test_texts_that_are_not(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_gt(text, DATASET)
    assert simulated(text, DATASET) is False


def test_all_of_a_data_set_with_one_source_is_refused() -> None:
    alone = Dataset("made up", CASES, {"expert": Source(VALUES)})
    with pytest.raises(UserError, match="at least 2 sources, not expert"):
        parse_gt("all", alone)


def test_a_training_set_is_simulated_if_any_source_is() -> None:
    texts = {"expert": False, "expert@5": False, "all:expert+b-2.c": False}
    texts |= {"novice1": True, "novice1@5": True, "all": True, "all:expert:novice1": True, "all:expert+novice1@2": True}
    assert {text: simulated(text, DATASET) for text in texts} == texts
