"""Derived label sources: declared in the index with a recipe, computed when needed, like any other source from then on."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from cardiac_autoseg.annotation.compute import compute, covering, find_bundle, is_fresh
from cardiac_autoseg.annotation.recipes import CONSENSUS, in_order, parse_recipe
from cardiac_autoseg.data.index import Dataset, Source, editing, load_dataset, save_dataset
from cardiac_autoseg.data.parsing import check_name
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.preprocessing.identity import FileHashes
from cardiac_autoseg.preprocessing.store import PreprocessedStore, preprocess_labels
from cardiac_autoseg.workspace import Workspace

Report = Callable[[str], None]
_NOT_BLIND = "which was trained on this data set: not blind"


def declare(workspace: Workspace, name: str, recipe: str, report: Report) -> Dataset:
    """Put source ``name`` with its ``recipe`` into the index; nothing is computed yet. Returns the new index.

    A recipe may use other derived sources. A source that no run was trained on may be declared anew with another recipe.
    Raises :class:`UserError` if the name is taken, or if the recipe cannot be read, names a source or bundle that does not
    exist, or leads back to ``name``.
    """
    check_name(name, "label source")
    parsed = parse_recipe(recipe)
    if parsed.kind == "pseudo":
        # As a path from the workspace: a name may mean something else in another folder, later.
        recipe = f"pseudo:{workspace.relative(find_bundle(workspace, parsed.model))}"
    with editing(workspace.dataset, report):
        dataset = load_dataset(workspace.dataset)
        before = dataset.sources.get(name)
        if before and not before.derived:
            raise UserError(f"{name} is a label source with files of its own already: choose another name")
        if before and before.derived != recipe and any(name in re.split("[@:+]", key.gt) for key, _ in workspace.runs()):
            raise UserError(f"{name} is {before.derived}, and runs were trained on it: choose another name for {recipe}")
        dataset = dataclasses.replace(dataset, sources={**dataset.sources, name: Source({}, derived=recipe)})
        in_order(dataset, [name])
        dataset = _described(workspace, dataset, name)
        save_dataset(workspace.dataset, dataset)
    report(f"{name} = {recipe}: computed by cas_plan_and_preprocess, or when it is first trained on")
    if parsed.kind in CONSENSUS and len(parsed.sources) == 2:
        first = "the first one's" if parsed.kind == "majority" else "hard to tell: STAPLE knows no better either"
        report(f"warning  {name}: where two annotators differ, whose labels are right is {first}; three say more")
    if parsed.kind == "pseudo" and dataset.sources[name].note.endswith(_NOT_BLIND):
        report(
            f"warning  {name}: {recipe.partition(':')[2]} was trained on this data set. What it says of subjects it was"
            " trained on is not blind, but near its training labels; and it has seen the patients that later runs are held"
            " out on, so scores of what is trained on its labels come out too high. Take a bundle trained on other data"
        )
    return dataset


def refresh(
    workspace: Workspace,
    dataset: Dataset,
    report: Report,
    names: Sequence[str] | None = None,
    problem: Report | None = None,
) -> Dataset:
    """Bring the derived sources among ``names`` (None: all), and what they are made of, up to date. Returns the index.

    Computes label files that are missing or whose ingredients changed, removes those of cases that are not covered any
    more, and saves the index if it changes. Does nothing, in milliseconds, if nothing has changed; else waits until no
    other process computes, and then reads the index anew. ``report`` gets what was done; ``problem`` (``report`` if None)
    every case that was left out, and why. Raises :class:`UserError` for a recipe that cannot be followed; without ``names``
    that is a problem of the source, which then covers nothing.
    """
    problem = problem or report
    hashes = FileHashes(workspace.preprocessed / "files.json")
    try:
        wanted = in_order(dataset, dataset.sources if names is None else names)
        if all(
            dataset == _described(workspace, dataset, name) and is_fresh(workspace, dataset, name, hashes) for name in wanted
        ):
            return dataset
    except UserError:
        pass  # said below
    with editing(workspace.dataset, report):
        dataset = before = load_dataset(workspace.dataset)
        done: set[str] = set()
        for asked in dataset.sources if names is None else names:
            try:
                for name in in_order(dataset, [asked]):
                    if name not in done:
                        dataset = _described(workspace, dataset, name)
                        dataset = compute(workspace, dataset, name, hashes, report, problem)
                        done.add(name)
            except UserError as error:
                if names is not None:
                    raise
                problem(f"source {asked} cannot be computed: {error}")
                dataset = covering(workspace, dataset, asked, ())
        hashes.save()
        if dataset != before:
            save_dataset(workspace.dataset, dataset)
    return dataset


def ensure(workspace: Workspace, names: Sequence[str], report: Report) -> None:
    """Have the derived sources among ``names`` computed and, where the workspace has been preprocessed, preprocessed too.

    What is there already is left alone; several runs may call this at once. Raises :class:`UserError` as :func:`refresh`.
    """
    dataset = refresh(workspace, load_dataset(workspace.dataset), report, names)
    derived = [name for name in names if name in dataset.sources and dataset.sources[name].derived]
    if not derived or not (workspace.preprocessed / "index.json").is_file():
        return
    store = PreprocessedStore(workspace)
    there = [case for case in dataset.cases if case.id in store.keys]
    gone = any(name in store.keys[case.id]["labels"] and name not in case.labels for case in there for name in derived)
    if gone or store.changed(dataset, [case.id for case in there], derived):
        outcome = preprocess_labels(workspace, dataset, derived)
        report(f"preprocessed the labels of {', '.join(derived)}: {outcome.made} made, {outcome.kept} unchanged")
        for case, reason in outcome.failed.items():
            report(f"left out {case}: {reason}")


def _described(workspace: Workspace, dataset: Dataset, name: str) -> Dataset:
    """``dataset`` with what is to be known of the derived source ``name``: simulated if anything in it is."""
    text = dataset.sources[name].derived
    recipe = parse_recipe(text)
    simulated, note = any(dataset.sources[source].simulated for source in recipe.sources), f"computed: {text}"
    if recipe.kind == "pseudo":
        from cardiac_autoseg.bundle import read_bundle

        try:
            path = find_bundle(workspace, recipe.model)
        except UserError:
            if dataset.sources[name].values:
                return dataset  # gone since, but its labels may be there
            raise
        about = read_bundle(path).training_data
        simulated = bool(about.get("simulated"))
        # A bundle names no subjects. One that was made here, or from data of the same name, knows ours.
        if path.parent == workspace.model("x").parent or about.get("dataset") == dataset.name:
            note = f"{note}, {_NOT_BLIND}"
    source = Source({value: label for label, value in dataset.labels.items()}, simulated, note, text)
    return dataclasses.replace(dataset, sources={**dataset.sources, name: source})
