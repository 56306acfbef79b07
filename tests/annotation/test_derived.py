"""Derived sources: recipes, who gets which subject, and computing exactly what is missing or stale."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cardiac_autoseg.annotation.consensus import majority, staple
from cardiac_autoseg.annotation.derived import declare, ensure, refresh
from cardiac_autoseg.annotation.recipes import Recipe, deal, parse_recipe
from cardiac_autoseg.data.importers import add_source
from cardiac_autoseg.data.index import Case, Dataset, LabelRef, Source, load_dataset, save_dataset
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.inference.model import load_model
from cardiac_autoseg.preprocessing.prepare import update_fingerprint, update_splits
from cardiac_autoseg.preprocessing.store import Grid, PreprocessedStore, label_path, preprocess
from cardiac_autoseg.workspace import Workspace

GEOMETRY = Geometry((20, 16, 3), (1.5, 1.5, 8.0), (3.0, -40.0, 7.0))
GRID = Grid((1.5, 1.5), (0.5, 99.5))
SOURCES = ("expert", "one", "two")
VALUES = {"expert": {1: "RV", 2: "MYO", 3: "LV"}, "one": {1: "LV", 2: "MYO", 3: "RV"}, "two": {1: "RV", 2: "MYO", 3: "LV"}}


def heart(seed: int) -> NDArray[np.uint8]:
    """Labels (3, 16, 20) whose radii and place depend on ``seed``."""
    y, x = np.mgrid[:16, :20]
    rng = np.random.default_rng(seed)
    distance = np.hypot(y - 8 - rng.uniform(-1, 1), x - 12 - rng.uniform(-1, 1))
    plane = np.zeros((16, 20), np.uint8)
    plane[(y > 4) & (y < 12) & (x > 2) & (x < 12)] = 1
    inner = rng.uniform(2.2, 3.8)
    plane[distance < inner + 2] = 2
    plane[distance < inner] = 3
    return np.stack([plane] * 3)


def in_files(labels: NDArray[np.uint8], source: str) -> NDArray[np.uint8]:
    """Labels as ``source`` writes them: source "one" has LV and RV the other way round."""
    return np.where(labels > 0, 4 - labels, 0).astype(np.uint8) if source == "one" else labels


def write_source(folder: Path, source: str, case: str, seed: int) -> LabelRef:
    path = folder / source / f"{case}.nii.gz"
    write_labels(path, in_files(heart(seed), source), GEOMETRY)
    return LabelRef(str(path))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three subjects of two frames; source "two" (simulated) did not draw the third, "one" nothing of its ES."""
    raw, cases = tmp_path / "raw", []
    for number in range(6):
        subject, phase = f"s{number // 2}", ("ED", "ES")[number % 2]
        name = f"{subject}_{phase}"
        image = np.random.default_rng(number).integers(0, 500, (3, 16, 20)).astype(np.int16)
        write_volume(raw / f"{name}.nii.gz", image, GEOMETRY)
        drew = SOURCES if number < 4 else SOURCES[: 6 - number]
        labels = {source: write_source(raw, source, name, 10 * number + SOURCES.index(source)) for source in drew}
        cases.append(Case(name, subject, str(raw / f"{name}.nii.gz"), phase=phase, group="NOR", labels=labels))
    sources = {source: Source(VALUES[source], simulated=source == "two") for source in SOURCES}
    made = Workspace(tmp_path / "ws")
    save_dataset(made.dataset, Dataset("test", tuple(cases), sources))
    return made


def silent(_: str) -> None:
    pass


def computed(workspace: Workspace, name: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in workspace.annotations(name).glob("*.nii.gz")}


def case_of(dataset: Dataset, name: str) -> Case:
    return next(case for case in dataset.cases if case.id == name)


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        ("expert", "is no recipe"),
        ("vote:expert+one", "is no recipe"),
        ("staple:", "is no recipe"),
        ("staple:expert", "at least two"),
        ("staple:expert+expert", "named twice"),
        ("majority:expert++one", "a name is missing"),
        ("majority:expert=0.5+one=0.5", "takes no weights"),
        ("staple:expert+bob", "no label source 'bob'; there are: expert, one, two"),
        ("mix:expert=0.2,one=0.7", r"sum to 0\.9"),
        ("mix:expert=0.5,expert=0.5", "named twice"),
        ("mix:expert,one=1", "share of expert is missing"),
        ("mix:expert=-1,one=2", "share of expert is -1"),
        ("mix:expert=nan,one=1", "share of expert is nan"),
        ("mix:expert=0.5,one=0.5,seed=x", "seed is x"),
        ("mix:expert=1", "at least two"),
        ("pseudo:nowhere", "no such bundle"),
        ("staple:new+expert", "in a circle: new from new"),
    ],
)
def test_mistakes_are_explained(workspace: Workspace, recipe: str, word: str) -> None:
    before = workspace.dataset.read_bytes()
    with pytest.raises(UserError, match=word):
        declare(workspace, "new", recipe, silent)
    assert workspace.dataset.read_bytes() == before


def test_names_that_are_taken(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="files of its own"):
        declare(workspace, "one", "staple:expert+two", silent)
    declare(workspace, "new", "staple:expert+two", silent)
    # Nobody has used it yet.
    declare(workspace, "new", "staple:expert+one", silent)
    (workspace.root / "runs" / "unet" / "all:expert+new@5" / "ce" / "fold_0" / "seed_0").mkdir(parents=True)
    declare(workspace, "new", "staple:expert+one", silent)
    with pytest.raises(UserError, match="runs were trained on it"):
        declare(workspace, "new", "staple:expert+two", silent)
    write_source(tmp_path, "more", "s0_ED", 1)
    with pytest.raises(UserError, match="new is derived"):
        add_source(workspace, "new", tmp_path / "more", silent)


def test_what_is_simulated_stays_simulated(workspace: Workspace) -> None:
    declare(workspace, "real", "staple:expert+one", silent)
    declare(workspace, "half", "mix:real=0.5,two=0.5", silent)
    sources = declare(workspace, "deep", "majority:half+real", silent).sources
    assert {name: source.simulated for name, source in sources.items() if source.derived} == {
        "real": False,
        "half": True,
        "deep": True,
    }
    assert sources["half"].note == "computed: mix:real=0.5,two=0.5"
    # Known only later.
    dataset = load_dataset(workspace.dataset)
    save_dataset(workspace.dataset, replace(dataset, sources={**dataset.sources, "one": Source(VALUES["one"], True)}))
    assert refresh(workspace, load_dataset(workspace.dataset), silent).sources["real"].simulated


def test_a_consensus_is_of_the_annotators_a_case_has(workspace: Workspace) -> None:
    declare(workspace, "staple", "staple:expert+one+two", silent)
    declare(workspace, "vote", "majority:expert+one+two", silent)
    said: list[str] = []
    dataset = refresh(workspace, load_dataset(workspace.dataset), said.append)
    assert dataset == load_dataset(workspace.dataset)
    assert {case.id for case in dataset.labelled("staple")} == {"s0_ED", "s0_ES", "s1_ED", "s1_ES", "s2_ED"}
    assert "5 of 6 cases; 4 by 3 annotators, 1 by 2 annotators (5 computed)" in said[0]
    for case in dataset.labelled("staple"):
        drawn = np.stack(
            [load_labels(workspace, dataset, case, source).array for source in SOURCES if source in case.labels]
        )
        for name, expected in (("staple", staple(drawn, 4, (8.0, 1.5, 1.5))), ("vote", majority(drawn))):
            volume = load_labels(workspace, dataset, case, name)
            assert np.array_equal(volume.array, expected)
            assert volume.geometry == load_image(workspace, case).geometry
    first = dataset.cases[0]
    assert workspace.resolve(first.labels["vote"].path) == workspace.annotations("vote") / "s0_ED.nii.gz"
    # Source "one" has other values in its files; they are understood.
    assert np.array_equal(
        majority(np.stack([heart(0), heart(1), heart(2)])), load_labels(workspace, dataset, first, "vote").array
    )


def test_a_second_time_nothing_is_done(workspace: Workspace) -> None:
    declare(workspace, "a", "staple:expert+one+two", silent)
    declare(workspace, "b", "mix:a=0.5,expert=0.5", silent)
    refresh(workspace, load_dataset(workspace.dataset), silent)
    before = {name: computed(workspace, name) for name in "ab"}
    index = workspace.dataset.stat().st_mtime_ns
    said: list[str] = []
    dataset = load_dataset(workspace.dataset)
    assert refresh(workspace, dataset, said.append) is dataset
    ensure(workspace, ["a", "b"], said.append)
    assert said == []
    assert before == {name: computed(workspace, name) for name in "ab"}
    assert workspace.dataset.stat().st_mtime_ns == index
    assert {len(files) for files in before.values()} == {5, 6}


def test_only_what_depends_on_a_change_is_computed_again(workspace: Workspace) -> None:
    declare(workspace, "a", "majority:two+one+expert", silent)
    declare(workspace, "b", "staple:expert+a", silent)
    refresh(workspace, load_dataset(workspace.dataset), silent)
    before = {name: computed(workspace, name) for name in "ab"}
    dataset = load_dataset(workspace.dataset)
    raw = Path(dataset.cases[0].labels["two"].path).parents[1]
    write_source(raw, "two", "s1_ED", 999)
    (raw / "two" / "s0_ED.nii.gz").touch()  # same content
    (workspace.annotations("a") / "s2_ED.nii.gz").unlink()
    dataset = refresh(workspace, dataset, silent)
    after = {name: computed(workspace, name) for name in "ab"}
    changed = {name: {file for file in after[name] if after[name][file] != before[name][file]} for name in "ab"}
    # The same file came again for s2_ED, so what is made of it is still good.
    assert changed == {"a": {"s1_ED.nii.gz", "s2_ED.nii.gz"}, "b": {"s1_ED.nii.gz"}}
    drawn = np.stack([load_labels(workspace, dataset, case_of(dataset, "s1_ED"), s).array for s in ("two", "one", "expert")])
    assert np.array_equal(load_labels(workspace, dataset, case_of(dataset, "s1_ED"), "a").array, majority(drawn))


def test_cases_that_lost_an_annotator_lose_their_files(workspace: Workspace) -> None:
    declare(workspace, "a", "staple:expert+one+two", silent)
    dataset = refresh(workspace, load_dataset(workspace.dataset), silent)
    own = workspace.annotations("a") / "notes.nii.gz"
    own.write_bytes(b"a file of the user's")
    (workspace.annotations("a") / ".s0_ED.nii.0a1b2c3d.nii.gz").write_bytes(b"left by a killed process")
    cases = tuple(
        replace(case, labels={name: ref for name, ref in case.labels.items() if name != "one"})
        if case.id == "s2_ED"
        else case
        for case in dataset.cases
    )
    save_dataset(workspace.dataset, replace(dataset, cases=cases))
    dataset = refresh(workspace, load_dataset(workspace.dataset), silent)
    assert "a" not in case_of(dataset, "s2_ED").labels
    assert set(computed(workspace, "a")) == {"s0_ED.nii.gz", "s0_ES.nii.gz", "s1_ED.nii.gz", "s1_ES.nii.gz", "notes.nii.gz"}
    assert not (workspace.annotations("a") / "s2_ED.json").exists()


def test_one_bad_case_is_left_out_and_comes_back(workspace: Workspace) -> None:
    declare(workspace, "a", "staple:expert+one+two", silent)
    declare(workspace, "b", "mix:a=0.5,expert=0.5", silent)
    dataset = load_dataset(workspace.dataset)
    bad = Path(dataset.cases[0].labels["one"].path)
    content = bad.read_bytes()
    bad.write_bytes(b"broken")
    write_labels(
        Path(dataset.cases[1].labels["one"].path), np.ones((3, 16, 21), np.uint8), replace(GEOMETRY, size=(21, 16, 3))
    )
    problems: list[str] = []
    dataset = refresh(workspace, dataset, silent, problem=problems.append)
    assert [problem.split(":")[:2] for problem in problems] == [["a", " left out s0_ED"], ["a", " left out s0_ES"]]
    assert "do not fit" in problems[1]
    assert len(dataset.labelled("a")) == 3
    assert len(dataset.labelled("b")) == 6
    bad.write_bytes(content)
    problems.clear()
    assert len(refresh(workspace, dataset, silent, problem=problems.append).labelled("a")) == 4
    assert len(problems) == 1


def test_labels_outlive_what_they_were_made_of(workspace: Workspace) -> None:
    declare(workspace, "a", "staple:expert+one+two", silent)
    dataset = refresh(workspace, load_dataset(workspace.dataset), silent)
    before = computed(workspace, "a")
    raw = Path(dataset.cases[0].image).parent
    raw.rename(raw.with_name("unplugged"))
    said: list[str] = []
    assert refresh(workspace, dataset, said.append) == dataset
    assert not said
    (workspace.annotations("a") / "s0_ED.nii.gz").unlink()
    assert {case.id for case in refresh(workspace, dataset, said.append).labelled("a")} == {
        case.id for case in dataset.labelled("a") if case.id != "s0_ED"
    }
    assert "left out s0_ED" in said[0] and "cannot be read" in said[0]
    del before["s0_ED.nii.gz"]
    assert computed(workspace, "a") == before


def test_a_broken_recipe_does_not_stop_the_others(workspace: Workspace) -> None:
    declare(workspace, "a", "staple:expert+one", silent)
    declare(workspace, "b", "staple:expert+two", silent)
    dataset = refresh(workspace, load_dataset(workspace.dataset), silent)
    cases = tuple(replace(case, labels={n: ref for n, ref in case.labels.items() if n != "one"}) for case in dataset.cases)
    sources = {name: source for name, source in dataset.sources.items() if name != "one"}
    sources |= {"c": Source({}, derived="staple:d+expert"), "d": Source({}, derived="staple:c+expert")}
    save_dataset(workspace.dataset, replace(dataset, cases=cases, sources=sources))
    problems: list[str] = []
    dataset = refresh(workspace, load_dataset(workspace.dataset), silent, problem=problems.append)
    assert [problem.split(" cannot")[0] for problem in problems] == ["source a", "source c", "source d"]
    assert "'one'" in problems[0] and "c from d from c" in problems[1]
    assert (len(dataset.labelled("a")), len(dataset.labelled("b"))) == (0, 4)
    with pytest.raises(UserError, match="'one'"):
        ensure(workspace, ["a"], silent)


def people(groups: dict[str, int], sources: tuple[str, ...]) -> Dataset:
    """Subjects of two frames each, all labelled by all sources; nothing lies on a disk."""
    labels = {source: LabelRef("x") for source in sources}
    cases = [
        Case(f"{group}{number}_{phase}", f"{group}{number}", "x", phase=phase, group=group, labels=labels)
        for group, count in groups.items()
        for number in range(count)
        for phase in ("ED", "ES")
    ]
    return Dataset("test", tuple(cases), {source: Source({}) for source in sources})


def by_subject(dataset: Dataset, drawn: dict[str, str]) -> dict[str, str]:
    """Subject -> source, after a check that each subject has one."""
    pairs = {(case.subject, drawn[case.id]) for case in dataset.cases if case.id in drawn}
    assert len({subject for subject, _ in pairs}) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("shares", [(0.2, 0.8), (0.5, 0.5), (0.07, 0.93), (0.2, 0.3, 0.5), (0.333333, 0.333333, 0.333334)])
def test_mix_meets_its_shares_in_every_group(shares: tuple[float, ...]) -> None:
    names = ("a", "b", "c")[: len(shares)]
    dataset = people({"DCM": 20, "HCM": 7, "NOR": 13, "RV": 1, "": 9}, names)
    drawn = by_subject(dataset, deal(dataset, Recipe("mix", names, shares)))
    assert len(drawn) == 50
    group = {case.subject: case.group for case in dataset.cases}
    for name, share in zip(names, shares, strict=True):
        assert abs(list(drawn.values()).count(name) - share * 50) <= 1
        for which, size in Counter(group.values()).items():
            count = sum(source == name and group[subject] == which for subject, source in drawn.items())
            assert abs(count - share * size) < 1


def test_mix_is_seeded_and_does_not_depend_on_the_order_of_cases() -> None:
    dataset = people({"NOR": 20, "DCM": 20}, ("a", "b"))
    recipe = parse_recipe("mix:a=0.5,b=0.5")
    drawn = deal(dataset, recipe)
    assert deal(replace(dataset, cases=dataset.cases[::-1]), recipe) == drawn
    other = deal(dataset, parse_recipe("mix:a=0.5,b=0.5,seed=1"))
    assert 10 < sum(other[case] != drawn[case] for case in drawn) < 70


def test_mix_keeps_twins_together() -> None:
    dataset = people({"NOR": 40}, ("a", "b"))
    cases = tuple(
        replace(case, twin_of=f"NOR{int(case.subject[3:]) - 20}") if int(case.subject[3:]) >= 20 else case
        for case in dataset.cases
    )
    drawn = by_subject(dataset, deal(replace(dataset, cases=cases), Recipe("mix", ("a", "b"), (0.3, 0.7))))
    assert all(drawn[f"NOR{number}"] == drawn[f"NOR{number + 20}"] for number in range(20))
    assert list(drawn.values()).count("a") == 12


def test_mix_draws_only_from_who_labelled_a_subject() -> None:
    """Source "a" has 20 of 100 subjects: the 20 % asked of it are those, not 20 % of them."""
    dataset = people({"NOR": 100}, ("a", "b"))

    def without(case: Case, *names: str) -> Case:
        return replace(case, labels={name: ref for name, ref in case.labels.items() if name not in names})

    few = tuple(without(case, "a") if int(case.subject[3:]) >= 20 else case for case in dataset.cases)
    drawn = by_subject(dataset, deal(replace(dataset, cases=few), Recipe("mix", ("a", "b"), (0.2, 0.8))))
    assert {subject for subject, source in drawn.items() if source == "a"} == {f"NOR{number}" for number in range(20)}
    # Half a subject is not taken where another source has it whole, and nobody is made up for those whom nobody drew.
    odd = tuple(
        without(case, "a") if case.phase == "ES" else without(case, "b") if case.subject == "NOR0" else case
        for case in dataset.cases[:40]
    )
    odd = (*odd, *(without(case, "a", "b") for case in dataset.cases[40:]))
    drawn = deal(replace(dataset, cases=odd), Recipe("mix", ("a", "b"), (0.5, 0.5)))
    assert {case for case, source in drawn.items() if source == "a"} <= {"NOR0_ED"}
    assert {case.split("_")[0] for case in drawn} == {f"NOR{number}" for number in range(20)}


def test_mix_copies_the_drawn_labels(workspace: Workspace) -> None:
    declare(workspace, "m", "mix:expert=0.34,one=0.66", silent)
    dataset = refresh(workspace, load_dataset(workspace.dataset), silent)
    drawn = deal(dataset, parse_recipe("mix:expert=0.34,one=0.66"))
    assert set(drawn.values()) == {"expert", "one"}
    for case in dataset.cases:
        expected = load_labels(workspace, dataset, case, drawn[case.id]).array
        assert np.array_equal(load_labels(workspace, dataset, case, "m").array, expected)


def test_pseudo_labels_are_the_bundles_predictions(
    make_bundle: Callable[..., Path], workspace: Workspace, tmp_path: Path
) -> None:
    path = make_bundle(tmp_path / "other.zip", training_data={"dataset": "elsewhere", "simulated": True})
    said: list[str] = []
    source = declare(workspace, "net", f"pseudo:{path}", said.append).sources["net"]
    assert source.simulated
    assert not any("blind" in message for message in said)
    dataset = refresh(workspace, load_dataset(workspace.dataset), silent)
    assert len(dataset.labelled("net")) == 6
    model = load_model(path, "cpu")
    for case in dataset.cases:
        image = load_image(workspace, case)
        expected = model(image.array, image.geometry.spacing_zyx)
        assert np.array_equal(load_labels(workspace, dataset, case, "net").array, expected)
    before = computed(workspace, "net")
    refresh(workspace, dataset, silent)
    assert computed(workspace, "net") == before
    make_bundle(path, seed=1)
    refresh(workspace, dataset, silent)
    assert not set(computed(workspace, "net").values()) & set(before.values())
    # Without the bundle its labels are still good, but one that is lost cannot be made again.
    path.unlink()
    problems: list[str] = []
    assert refresh(workspace, dataset, silent, problem=problems.append) == dataset
    assert not problems
    (workspace.annotations("net") / "s0_ED.nii.gz").unlink()
    assert not refresh(workspace, dataset, silent, problem=problems.append).labelled("net")
    assert "no such bundle" in problems[0]


@pytest.mark.parametrize(("place", "dataset"), [("ws/models/best", "elsewhere"), ("best", "test")])
def test_a_bundle_that_knows_the_subjects_is_said_to(
    make_bundle: Callable[..., Path], workspace: Workspace, tmp_path: Path, place: str, dataset: str
) -> None:
    path = make_bundle(tmp_path / place, training_data={"dataset": dataset})
    said: list[str] = []
    source = declare(workspace, "net", "pseudo:best" if "models" in place else f"pseudo:{path}", said.append).sources["net"]
    assert any("not blind" in message and "too high" in message for message in said)
    assert "not blind" in source.note
    assert source.derived == ("pseudo:models/best" if "models" in place else f"pseudo:{path}")


def test_labels_that_nobody_drew_change_neither_fingerprint_nor_folds(
    make_bundle: Callable[..., Path], workspace: Workspace, tmp_path: Path
) -> None:
    dataset = people({"NOR": 7}, ("expert",))
    real = load_dataset(workspace.dataset).cases[0]
    cases = tuple(
        replace(case, image=real.image, labels={"expert": real.labels["expert"]} if int(case.subject[3:]) < 6 else {})
        for case in dataset.cases
    )
    save_dataset(workspace.dataset, replace(dataset, cases=cases, sources={"expert": Source(VALUES["expert"])}))
    plain = load_dataset(workspace.dataset)
    fingerprint, _, _ = update_fingerprint(workspace, plain)
    splits, _ = update_splits(workspace, plain)
    assert len(splits.subjects) == 6
    declare(workspace, "net", f"pseudo:{make_bundle(tmp_path / 'b')}", silent)
    said: list[str] = []
    dataset = refresh(workspace, load_dataset(workspace.dataset), said.append)
    assert len(dataset.labelled("net")) == 14
    assert "1 subjects whom nobody drew are in no fold" in said[0]
    assert update_fingerprint(workspace, dataset)[:2] == (fingerprint, 0)
    assert update_splits(workspace, dataset) == (splits, False)


def test_ensure_computes_and_preprocesses_what_is_asked_for_and_no_more(workspace: Workspace) -> None:
    preprocess(workspace, load_dataset(workspace.dataset), GRID)
    declare(workspace, "a", "staple:expert+one+two", silent)
    declare(workspace, "b", "mix:a=0.5,expert=0.5", silent)
    declare(workspace, "c", "majority:expert+one+two", silent)
    before = {path: path.stat().st_mtime_ns for path in workspace.preprocessed.rglob("*.npy")}
    said: list[str] = []
    ensure(workspace, ["expert", "b"], said.append)
    store = PreprocessedStore(workspace)
    assert all(store.has(case.id, "b") and not store.has(case.id, "a") for case in load_dataset(workspace.dataset).cases)
    # As a full preprocessing would have made it, and that finds nothing to do.
    assert {path: path.stat().st_mtime_ns for path in before} == before
    dataset = load_dataset(workspace.dataset)
    only = replace(
        dataset,
        cases=tuple(replace(c, labels={n: r for n, r in c.labels.items() if n not in "ac"}) for c in dataset.cases),
    )
    index = (workspace.preprocessed / "index.json").read_bytes()
    assert preprocess(workspace, only, GRID).made == 0
    assert (workspace.preprocessed / "index.json").read_bytes() == index
    said.clear()
    ensure(workspace, ["expert", "b"], said.append)
    assert said == []
    assert not computed(workspace, "c")


def test_ensure_leaves_changed_images_to_cas_plan_and_preprocess(workspace: Workspace) -> None:
    preprocess(workspace, load_dataset(workspace.dataset), GRID)
    declare(workspace, "a", "staple:expert+one+two", silent)
    image = Path(load_dataset(workspace.dataset).cases[0].image)
    write_volume(image, np.random.default_rng(99).integers(0, 500, (3, 16, 20)).astype(np.int16), GEOMETRY)
    said: list[str] = []
    ensure(workspace, ["a"], said.append)
    store = PreprocessedStore(workspace)
    assert not store.has("s0_ED", "a")
    assert store.has("s0_ES", "a")
    assert any("left out s0_ED" in message and "changed" in message for message in said)
    assert store.changed(load_dataset(workspace.dataset), ["s0_ED"], []) == ["s0_ED"]


def test_several_runs_may_ask_at_once(workspace: Workspace) -> None:
    preprocess(workspace, load_dataset(workspace.dataset), GRID)
    recipes = {"a": "staple:expert+one+two", "b": "majority:expert+one+two", "c": "mix:expert=0.5,one=0.5"}
    for name, recipe in recipes.items():
        declare(workspace, name, recipe, silent)
    errors: list[BaseException] = []

    def run(name: str) -> None:
        try:
            ensure(workspace, [name], silent)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcabc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    dataset = load_dataset(workspace.dataset)
    assert {name: len(dataset.labelled(name)) for name in recipes} == {"a": 5, "b": 5, "c": 6}
    store = PreprocessedStore(workspace)
    assert all(store.has(case.id, name) for name in recipes for case in dataset.labelled(name))
    assert all(label_path(workspace, case.id, name).is_file() for name in recipes for case in dataset.labelled(name))
    assert set(json.loads((workspace.annotations("c") / "s0_ED.json").read_text())) == {"key", "annotators"}
