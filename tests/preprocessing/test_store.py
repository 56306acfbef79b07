"""The store redoes exactly what changed, goes on after a kill, and one bad case does not stop the others."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardiac_autoseg.data.index import Case, Dataset, LabelRef, Source
from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.preprocessing.store import Grid, PreprocessedStore, image_path, label_path, preprocess
from cardiac_autoseg.workspace import Workspace

GRID = Grid((1.5, 1.5), (0.5, 99.5))
VALUES = {1: "RV", 2: "MYO", 3: "LV"}


def geometry(spacing: float = 1.0, origin: float = 0.0) -> Geometry:
    return Geometry((45, 60, 4), (spacing, spacing, 8.0), (origin, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def write_case(folder: Path, name: str, seed: int, sources: tuple[str, ...] = ("expert", "novice")) -> Case:
    rng = np.random.default_rng(seed)
    write_volume(folder / f"{name}.nii.gz", rng.random((4, 60, 45)).astype(np.float32) * 300, geometry())
    labels = {}
    for source in sources:
        array = np.zeros((4, 60, 45), np.uint8)
        array[1:3, 20:40, 15:30] = 3
        path = folder / f"{name}_{source}.nii.gz"
        write_labels(path, array, geometry())
        labels[source] = LabelRef(str(path))
    return Case(id=name, subject=name, image=str(folder / f"{name}.nii.gz"), labels=labels)


@pytest.fixture
def data(tmp_path: Path) -> tuple[Workspace, Dataset]:
    raw = tmp_path / "raw"
    raw.mkdir()
    cases = (write_case(raw, "a", 1), write_case(raw, "b", 2), write_case(raw, "c", 3, ("expert",)))
    return Workspace(tmp_path / "ws"), Dataset("test", cases, {"expert": Source(VALUES), "novice": Source(VALUES)})


def times(workspace: Workspace) -> dict[str, int]:
    return {str(path.relative_to(workspace.root)): path.stat().st_mtime_ns for path in workspace.preprocessed.rglob("*.npy")}


def changed(workspace: Workspace, before: dict[str, int]) -> set[str]:
    after = times(workspace)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_arrays_are_on_the_plans_grid(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    outcome = preprocess(workspace, dataset, GRID)
    assert (outcome.made, outcome.kept, outcome.failed) == (8, 0, {})
    store = PreprocessedStore(workspace)
    assert store.image("a").shape == store.labels("a", "expert").shape == (4, 40, 30)
    assert store.image("a").dtype == np.float16
    area = (store.labels("a", "expert") == 3).sum() * 1.5**2
    assert area == pytest.approx(2 * 20 * 15, rel=0.1)
    assert store.has("a", "novice")
    assert not store.has("c", "novice")


def test_mapped_arrays_are_read_only_and_stay_when_their_files_are_replaced(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    preprocess(workspace, dataset, GRID)
    store = PreprocessedStore(workspace)
    image, labels = store.image("a", mapped=True), store.labels("a", "expert", mapped=True)
    before = labels.copy()
    assert np.array_equal(image, store.image("a"))
    assert np.array_equal(labels, store.labels("a", "expert"))
    assert not image.flags.writeable
    write_labels(Path(dataset.cases[0].labels["expert"].path), np.ones((4, 60, 45), np.uint8), geometry())
    preprocess(workspace, dataset, GRID)
    assert (store.labels("a", "expert") == 1).all()
    assert np.array_equal(labels, before)
    label_path(workspace, "a", "expert").write_bytes(b"no array")
    with pytest.raises(UserError, match="run cas_plan_and_preprocess again"):
        store.labels("a", "expert", mapped=True)


def test_a_second_run_does_nothing(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    preprocess(workspace, dataset, GRID)
    before = times(workspace)
    index = (workspace.preprocessed / "index.json").stat().st_mtime_ns
    outcome = preprocess(workspace, dataset, GRID)
    assert (outcome.made, outcome.kept) == (0, 8)
    assert not changed(workspace, before)
    assert (workspace.preprocessed / "index.json").stat().st_mtime_ns == index


def test_a_touched_file_is_not_a_changed_file(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    preprocess(workspace, dataset, GRID)
    os.utime(dataset.cases[0].image, (1, 1))
    assert preprocess(workspace, dataset, GRID).made == 0


def test_a_changed_label_redoes_that_label_only(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    preprocess(workspace, dataset, GRID)
    before = times(workspace)
    hash_before = PreprocessedStore(workspace).data_hash(["a", "b"], "novice")
    write_labels(Path(dataset.cases[1].labels["novice"].path), np.ones((4, 60, 45), np.uint8), geometry())
    preprocess(workspace, dataset, GRID)
    assert changed(workspace, before) == {"preprocessed/labels/novice/b.npy"}
    store = PreprocessedStore(workspace)
    assert (store.labels("b", "novice") == 1).all()
    assert store.data_hash(["a", "b"], "novice") != hash_before
    assert store.data_hash(["a"], "expert") == store.data_hash(["a"], "expert")


def test_a_changed_meaning_of_values_redoes_labels_but_no_image(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    preprocess(workspace, dataset, GRID)
    before = times(workspace)
    swapped = replace(dataset, sources={**dataset.sources, "expert": Source({1: "LV", 2: "MYO", 3: "RV"})})
    preprocess(workspace, swapped, GRID)
    assert changed(workspace, before) == {f"preprocessed/labels/expert/{case}.npy" for case in "abc"}
    assert set(np.unique(PreprocessedStore(workspace).labels("a", "expert"))) == {0, 1}


def test_a_killed_run_goes_on(data: tuple[Workspace, Dataset]) -> None:
    """Whatever a kill can leave behind (an array without its key, a key without its array) is made again."""
    workspace, dataset = data
    preprocess(workspace, dataset, GRID)
    whole = {path: np.load(path) for path in workspace.preprocessed.rglob("*.npy")}
    image_path(workspace, "a").unlink()
    label_path(workspace, "b", "expert").with_suffix(".json").unlink()
    label_path(workspace, "a", "novice").with_suffix(".json").write_text('{"key": "tr')
    (workspace.preprocessed / "index.json").unlink()
    outcome = preprocess(workspace, dataset, GRID)
    assert outcome.made == 3
    assert all(np.array_equal(np.load(path), array) for path, array in whole.items())


def test_one_bad_case_does_not_stop_the_others(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    Path(dataset.cases[1].image).write_bytes(b"not an image")
    write_labels(Path(dataset.cases[2].labels["expert"].path), np.ones((4, 60, 45), np.uint8), geometry(origin=30.0))
    outcome = preprocess(workspace, dataset, GRID)
    assert set(outcome.failed) == {"b", "c"}
    assert "b.nii.gz" in outcome.failed["b"]
    assert set(PreprocessedStore(workspace).keys) == {"a"}


def test_nothing_readable_is_an_error_in_words(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    for case in dataset.cases:
        Path(case.image).unlink()
    with pytest.raises(UserError, match="no case could be preprocessed"):
        preprocess(workspace, dataset, GRID)


def test_a_broken_index_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "preprocessed").mkdir()
    (tmp_path / "preprocessed" / "index.json").write_text("{}")
    with pytest.raises(UserError, match="run cas_plan_and_preprocess again"):
        PreprocessedStore(Workspace(tmp_path))


def test_unfinished_files_of_a_killed_process_are_cleared(data: tuple[Workspace, Dataset]) -> None:
    workspace, dataset = data
    preprocess(workspace, dataset, GRID)
    leftover = workspace.preprocessed / "images" / ".a.0a1b2c3d.npy"
    leftover.write_bytes(b"half")
    assert preprocess(workspace, dataset, GRID).made == 0
    assert not leftover.exists()
