"""The label files of one derived source: which cases it covers, what each depends on, and computing what is missing.

Files lie in ``annotations/<source>/<case>.nii.gz``, each beside a ``.json`` with the key of what it was computed from:
recipe, annotators, content of their files, image. A file whose key still fits is kept, any other is computed again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cardiac_autoseg.annotation.consensus import majority, staple
from cardiac_autoseg.annotation.recipes import Recipe, deal, parse_recipe
from cardiac_autoseg.data.header import is_whole
from cardiac_autoseg.data.index import Case, Dataset, LabelRef
from cardiac_autoseg.data.load import load_image, load_labels, require_same_geometry
from cardiac_autoseg.data.volume import Volume, write_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json, read_json, write_json
from cardiac_autoseg.preprocessing.identity import FileHashes
from cardiac_autoseg.preprocessing.store import in_threads
from cardiac_autoseg.temporaries import clear_unfinished
from cardiac_autoseg.workspace import Workspace

FORMAT_VERSION = 1
Report = Callable[[str], None]
Predict = Callable[[Volume], NDArray[np.uint8]]


def covering(workspace: Workspace, dataset: Dataset, name: str, covered: Collection[str]) -> Dataset:
    """``dataset`` where the derived source ``name`` has labels for the ``covered`` case ids, and for no other."""
    cases = []
    for case in dataset.cases:
        labels = {source: ref for source, ref in case.labels.items() if source != name}
        if case.id in covered:
            labels[name] = LabelRef(workspace.relative(_path(workspace, name, case.id)))
        cases.append(case if labels == case.labels else dataclasses.replace(case, labels=labels))
    return dataclasses.replace(dataset, cases=tuple(cases))


def annotators(dataset: Dataset, recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Case id -> whose labels go into it, for the cases that the recipe covers.

    A consensus is of the annotators that a case has, two at least.
    """
    if recipe.kind == "mix":
        return {case: (source,) for case, source in deal(dataset, recipe).items()}
    if recipe.kind == "pseudo":
        return {case.id: () for case in dataset.cases}
    having = {case.id: tuple(source for source in recipe.sources if source in case.labels) for case in dataset.cases}
    return {case: sources for case, sources in having.items() if len(sources) >= 2}


def find_bundle(workspace: Workspace, given: str) -> Path:
    """A bundle by path from the workspace, by path from here, or by name; raises :class:`UserError` if there is none."""
    models = workspace.model("")
    for path in (workspace.resolve(given), Path(given).expanduser(), models / given, models / f"{given}.zip"):
        if (path / "bundle.json").is_file() or (path.suffix == ".zip" and path.is_file()):
            return path
    names = ", ".join(sorted(path.name for path in models.glob("*"))) or "none yet: make one with cas_ensemble"
    raise UserError(
        f"pseudo:{given}: there is no such bundle; give the path of a folder or .zip, or one of {models}: {names}"
    )


def is_fresh(workspace: Workspace, dataset: Dataset, name: str, hashes: FileHashes) -> bool:
    """Whether the index and all files of a derived source are as its recipe says; raises :class:`UserError` as reading."""
    recipe = parse_recipe(dataset.sources[name].derived)
    whose = annotators(dataset, recipe)
    return dataset == covering(workspace, dataset, name, whose) and all(
        _is_done(workspace, dataset, name, recipe, case, whose[case.id], hashes)
        for case in dataset.cases
        if case.id in whose
    )


def compute(
    workspace: Workspace, dataset: Dataset, name: str, hashes: FileHashes, report: Report, problem: Report
) -> Dataset:
    """Compute the labels of source ``name`` that are missing or stale; returns ``dataset`` with those that are there.

    Its ingredients must be up to date. A case that fails is a ``problem`` and left out. Files of cases that are not covered
    are removed. Raises :class:`UserError` if nothing can be computed, e.g. for lack of a bundle.
    """
    recipe = parse_recipe(dataset.sources[name].derived)
    whose = annotators(dataset, recipe)
    failed: set[str] = set()
    todo = [
        case
        for case in dataset.cases
        if case.id in whose and not _is_done(workspace, dataset, name, recipe, case, whose[case.id], hashes)
    ]
    predict = _predictor(workspace, dataset, recipe) if recipe.kind == "pseudo" and todo else None
    work = partial(_compute_case, workspace, dataset, name, recipe, whose, predict, hashes)
    # One GPU predicts one image after the other; a second thread reads and writes meanwhile.
    results = in_threads(work, todo, 2 if predict and torch.cuda.is_available() else None)
    for case, result in tqdm(results, total=len(todo), desc=name, unit="case", disable=None, leave=False):
        if isinstance(result, UserError):
            problem(f"{name}: left out {case.id}: {result}")
            failed.add(case.id)
    covered = {case: sources for case, sources in whose.items() if case not in failed}
    removed = _remove_others(workspace.annotations(name), covered)
    if todo or removed:
        text = f"{name} = {dataset.sources[name].derived}: {_words(dataset, recipe, covered)}"
        report(f"{text} ({len(todo) - len(failed)} computed{f', {removed} removed' if removed else ''})")
    return covering(workspace, dataset, name, covered)


def _compute_case(
    workspace: Workspace,
    dataset: Dataset,
    name: str,
    recipe: Recipe,
    whose: dict[str, tuple[str, ...]],
    predict: Predict | None,
    hashes: FileHashes,
    case: Case,
) -> None:
    """Compute and write the labels of one case; raises :class:`UserError`."""
    key = _key(workspace, dataset, recipe, case, whose[case.id], hashes)
    image = load_image(workspace, case)
    drawn = []
    for source in whose[case.id]:
        labels = load_labels(workspace, dataset, case, source)
        require_same_geometry(image, labels, case, source)
        drawn.append(labels.array)
    try:
        if predict is not None:
            array = predict(image)
        elif recipe.kind == "staple":
            array = staple(np.stack(drawn), len(dataset.labels), image.geometry.spacing_zyx)
        elif recipe.kind == "majority":
            array = majority(np.stack(drawn))
        else:
            array = drawn[0]
    except RuntimeError as error:  # of ITK and torch: one case must not stop the others
        raise UserError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    if not array.any():
        raise UserError("its labels are empty, so it counts as not annotated")
    path = _path(workspace, name, case.id)
    write_labels(path, array, image.geometry)
    write_json(_key_path(path), {"key": key, "annotators": whose[case.id]})


def _predictor(workspace: Workspace, dataset: Dataset, recipe: Recipe) -> Predict:
    """Image -> labels with the values of ``dataset``, by the bundle of a recipe."""
    from cardiac_autoseg.inference.model import load_model

    model = load_model(find_bundle(workspace, recipe.model))
    unknown = model.labels.keys() - dataset.labels.keys()
    if unknown:
        raise UserError(f"pseudo:{recipe.model} predicts {', '.join(sorted(unknown))}, which this data set does not have")
    values = np.zeros(256, np.uint8)
    for label, value in model.labels.items():
        values[value] = dataset.labels[label]
    return lambda image: values[model(image.array, image.geometry.spacing_zyx)]


def _words(dataset: Dataset, recipe: Recipe, covered: dict[str, tuple[str, ...]]) -> str:
    """What the labels of a source are made of, in numbers."""
    total = f"{len(covered)} of {len(dataset.cases)} cases"
    if recipe.kind == "pseudo":
        drawn = {name for name, source in dataset.sources.items() if not source.derived}
        known = {case.subject for case in dataset.cases if drawn & case.labels.keys()}
        others = len({case.subject for case in dataset.cases if case.id in covered} - known)
        return f"{total}; {others} subjects whom nobody drew are in no fold: not trained on" if known and others else total
    if recipe.kind == "mix":
        persons = {case.person: covered[case.id][0] for case in dataset.cases if case.id in covered}
        counts = Counter(persons.values())
        wanted = zip(recipe.sources, recipe.shares, strict=True)
        shares = (f"{counts[source]} by {source} ({share:.0%} asked for)" for source, share in wanted)
        return f"{total}; of {len(persons)} persons {', '.join(shares)}"
    counts_of = Counter(len(sources) for sources in covered.values())
    parts = [f"{cases} by {count} annotators" for count, cases in sorted(counts_of.items(), reverse=True)]
    return f"{total}; {', '.join(parts) or 'a consensus needs two annotators of a case'}"


def _key(
    workspace: Workspace, dataset: Dataset, recipe: Recipe, case: Case, sources: Sequence[str], hashes: FileHashes
) -> str:
    """What the labels of a case depend on."""
    drawn = [
        (hashes(workspace.resolve(case.labels[name].path)), case.labels[name].frame, dataset.sources[name].values)
        for name in sources
    ]
    model = ""
    if recipe.kind == "pseudo":
        path = find_bundle(workspace, recipe.model)
        # The record of a bundle has the checksums of its weights.
        model = hashes(path / "bundle.json" if path.is_dir() else path)
    image = (hashes(workspace.resolve(case.image)), case.image_frame)
    return hash_json([FORMAT_VERSION, recipe.kind, model, dataset.labels, image, sources, drawn])


def _path(workspace: Workspace, name: str, case_id: str) -> Path:
    return workspace.annotations(name) / f"{case_id}.nii.gz"


def _key_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _is_done(
    workspace: Workspace,
    dataset: Dataset,
    name: str,
    recipe: Recipe,
    case: Case,
    sources: Sequence[str],
    hashes: FileHashes,
) -> bool:
    """Whether the labels of a case are there and were computed from what there is; the key is written after them."""
    path = _path(workspace, name, case.id)
    try:
        if not is_whole(path):
            return False
        key = read_json(_key_path(path))["key"]
    except (UserError, KeyError, TypeError):
        return False
    try:
        return bool(key == _key(workspace, dataset, recipe, case, sources, hashes))
    except UserError:
        # Files that are gone, a disk perhaps, are no change: what was computed from them is still theirs.
        return True


def _remove_others(folder: Path, covered: Collection[str]) -> int:
    """Remove computed files of cases that are not ``covered``, and what a killed process left unfinished; how many cases."""
    clear_unfinished(folder)
    gone = [path for path in folder.glob("*.json") if path.stem not in covered]
    for path in gone:
        path.with_suffix(".nii.gz").unlink(missing_ok=True)
        path.unlink()
    return len(gone)
