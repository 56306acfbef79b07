"""Importing a data set into a workspace, and adding label sources to it: index, check, table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cardiac_autoseg.data import acdc, folder, mnms, nnunet
from cardiac_autoseg.data.check import Checked, Examine, check_dataset
from cardiac_autoseg.data.header import is_nifti
from cardiac_autoseg.data.index import Dataset, LabelRef, Source, editing, load_dataset, save_dataset
from cardiac_autoseg.data.parsing import check_name, class_values, match_labels, values_beside
from cardiac_autoseg.data.summary import coverage_table
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.threads import Spread, in_process
from cardiac_autoseg.workspace import Workspace

Importer = Callable[..., Dataset]
IMPORTERS: dict[str, Importer] = {
    "acdc": acdc.import_acdc,
    "mnms": mnms.import_mnms,
    "nnunet": nnunet.import_nnunet,
    "folder": folder.import_folder,
}
"""Layout -> importer(source, workspace, gt="expert", skip=refuse)."""
_LAYOUTS = {"acdc": acdc, "mnms": mnms, "nnunet": nnunet, "folder": folder}
WARNINGS_SHOWN = 20


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Folders that may not be read, disks that are gone: user errors that name them."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read ({error.strerror}): check its permissions") from error


def recognise(path: Path) -> str:
    """The layout of a data folder. Raises :class:`UserError` that lists what was looked for if it is none of them."""
    with _reading(path):
        if not path.is_dir():
            raise UserError(f"{path} is not a folder: give the folder that holds the data set")
        for name, module in _LAYOUTS.items():
            if module.matches(path):
                return name
    listed = "".join(f"\n  {name}: {module.LOOKED_FOR}" for name, module in _LAYOUTS.items())
    raise UserError(f"{path} has no layout that is known here. Looked for:{listed}")


def shares_images(workspace: Workspace, source: Path, gt: str) -> bool:
    """Whether ``source`` has any image of the workspace's index; no voxel is read.

    Raises :class:`UserError` if ``source`` has no known layout.
    """
    found = IMPORTERS[recognise(source)](source, workspace, gt, skip=lambda _: None)
    return bool({case.image for case in found.cases} & {case.image for case in load_dataset(workspace.dataset).cases})


def import_and_check(
    layout: str,
    source: Path,
    workspace: Workspace,
    gt: str,
    name: str | None,
    report: Callable[[str], None],
    simulated: bool = False,
    note: str = "",
    verbose: bool = False,
    examiner: Callable[[], Examine] | None = None,
    spread: Spread = in_process,
) -> Checked:
    """Index ``source``, check every case, write ``dataset.json``, and report what was found and the table of sources.

    ``layout`` is a key of :data:`IMPORTERS` or "auto"; ``gt`` names the data set's own labels, ``simulated`` and ``note``
    describe them; ``examiner`` and ``spread`` are as for :func:`check_dataset`. Importing again into a workspace keeps
    the sources that were added to it. Raises :class:`UserError` if nothing can be imported, or if the workspace holds
    another data set.
    """
    source = source.expanduser()
    check_name(gt, "label source")
    with _reading(source):
        if not source.is_dir():
            raise UserError(f"{source} is not a folder: give the folder that holds the data set")
    if layout == "auto":
        layout = recognise(source)
        report(f"{source} is laid out like {layout}")
    if layout not in IMPORTERS:
        raise UserError(f"there is no layout {layout!r}: give one of {', '.join(IMPORTERS)}, or auto")
    skipped: list[str] = []
    with _reading(source):
        dataset = IMPORTERS[layout](source, workspace, gt, skip=skipped.append)
    dataset = dataclasses.replace(dataset, name=name or dataset.name)
    if gt in dataset.sources and (simulated or note):
        described = dataclasses.replace(dataset.sources[gt], simulated=simulated, note=note)
        dataset = dataclasses.replace(dataset, sources={**dataset.sources, gt: described})
    with editing(workspace.dataset, report):
        return _finish(workspace, _keep_added(workspace, dataset, report), skipped, report, verbose, examiner, spread)


def add_source(
    workspace: Workspace,
    name: str,
    directory: Path,
    report: Callable[[str], None],
    simulated: bool = False,
    note: str = "",
    verbose: bool = False,
) -> Checked:
    """Add the label files in ``directory`` (at any depth) to an existing workspace as source ``name``.

    Files are matched with cases as :func:`~cardiac_autoseg.data.parsing.match_labels` says; the source may cover only some
    cases. Values mean 1 RV, 2 MYO, 3 LV unless a ``labels.json`` in ``directory`` says otherwise (for nnU-Net's
    ``labelsTr_…``: the ``dataset.json`` beside). The same directory may be given again, after files were added to it.
    Raises :class:`UserError` if there is no workspace, no file matches, or the name is taken by other labels.
    """
    check_name(name, "label source")
    with editing(workspace.dataset, report):
        dataset, skipped = _with_source(workspace, name, directory.expanduser(), report, Source({}, simulated, note))
        return _finish(workspace, dataset, skipped, report, verbose)


def _with_source(
    workspace: Workspace, name: str, directory: Path, report: Callable[[str], None], described: Source
) -> tuple[Dataset, list[str]]:
    """The index with the label files in ``directory`` as source ``name``, and why other files there belong to no case."""
    dataset = load_dataset(workspace.dataset)
    with _reading(directory):
        if not directory.is_dir():
            raise UserError(f"{directory} is not a folder: give the folder that holds the label files of {name}")
        files = sorted(path for path in directory.rglob("*") if is_nifti(path) and path.is_file())
    # Links are followed, as the index does.
    root, targets = directory.resolve(), {path.resolve() for path in files}
    for case in dataset.cases:
        before = workspace.resolve(case.labels[name].path).resolve() if name in case.labels else None
        if before and before not in targets and not before.is_relative_to(root):
            raise UserError(f"this workspace has a source {name!r} already, with labels from elsewhere: choose another name")
    if name in dataset.sources and dataset.sources[name].derived:
        raise UserError(f"{name} is derived in this workspace, as {dataset.sources[name].derived}: choose another name")
    description = directory.parent / "dataset.json"
    if directory.name.startswith("labelsTr") and nnunet.matches(directory.parent):
        values = class_values(nnunet.read_description(description)["labels"], description)
    else:
        values = values_beside([directory])
    if not files:
        raise UserError(f"{directory} holds no .nii.gz files: give the folder that holds the label files of {name}")
    match = match_labels(files, dataset.cases)
    if not match.found:
        raise UserError(
            f"none of the {len(files)} files in {directory} belongs to a case: name them like the cases, e.g."
            f" {dataset.cases[0].id}.nii.gz (found {files[0].name})"
        )
    refs = {case_id: LabelRef(workspace.relative(path), frame) for case_id, (path, frame) in match.found.items()}
    cases = []
    for case in dataset.cases:
        labels = {source: ref for source, ref in case.labels.items() if source != name}
        labels |= {name: refs[case.id]} if case.id in refs else {}
        cases.append(dataclasses.replace(case, labels=labels))
    sources = {**dataset.sources, name: dataclasses.replace(described, values=values)}
    meaning = ", ".join(f"{value} {label}" for value, label in sorted(values.items()) if value)
    report(f"{name}: {len(match.found)} of {len(cases)} cases have a file in {directory}; values read as {meaning}")
    skipped = [f"source {name}: {message}" for message in match.unmatched]
    return dataclasses.replace(dataset, cases=tuple(cases), sources=sources), skipped


def _keep_added(workspace: Workspace, dataset: Dataset, report: Callable[[str], None]) -> Dataset:
    """``dataset`` with the sources that were added to the workspace since its last import."""
    if not workspace.dataset.exists():
        return dataset
    old = load_dataset(workspace.dataset)
    before = {case.id: case for case in old.cases}
    if before and not before.keys() & {case.id for case in dataset.cases}:
        raise UserError(
            f"{workspace.root} holds another data set ({old.name}, {len(before)} cases): choose another workspace, or delete"
            f" {workspace.dataset} to start afresh"
        )
    added = {name: source for name, source in old.sources.items() if name not in dataset.sources}
    for name in old.sources.keys() & dataset.sources.keys():
        if old.sources[name].derived:
            raise UserError(
                f"{name} is derived in this workspace, as {old.sources[name].derived}, but the data set has a source of that"
                " name: name the data set's with --gt or rename its folder, or import into another workspace"
            )
    cases = []
    for case in dataset.cases:
        labels = before[case.id].labels if case.id in before else {}
        kept = {name: ref for name, ref in labels.items() if name in added}
        cases.append(dataclasses.replace(case, labels={**case.labels, **kept}))
    if added:
        report(f"kept the sources that were added before: {', '.join(sorted(added))}")
    return dataclasses.replace(dataset, cases=tuple(cases), sources={**dataset.sources, **added})


def _finish(
    workspace: Workspace,
    dataset: Dataset,
    skipped: list[str],
    report: Callable[[str], None],
    verbose: bool,
    examiner: Callable[[], Examine] | None = None,
    spread: Spread = in_process,
) -> Checked:
    """Check, save, and report.

    Derived labels are not checked, but kept as they are: they are computed from labels that were, and computed again where
    these have changed.
    """
    derived = {name for name, source in dataset.sources.items() if source.derived}
    computed = {case.id: {name: ref for name, ref in case.labels.items() if name in derived} for case in dataset.cases}
    drawn = (
        dataclasses.replace(case, labels={name: ref for name, ref in case.labels.items() if name not in derived})
        for case in dataset.cases
    )
    checked = check_dataset(
        workspace, dataclasses.replace(dataset, cases=tuple(drawn)), report, examiner=examiner, spread=spread
    )
    cases = (dataclasses.replace(case, labels=case.labels | computed[case.id]) for case in checked.dataset.cases)
    checked = dataclasses.replace(checked, dataset=dataclasses.replace(checked.dataset, cases=tuple(cases)))
    checked = dataclasses.replace(checked, left_out=(*skipped, *checked.left_out))
    for message in checked.left_out:
        report(f"LEFT OUT  {message}")
    shown = checked.warnings if verbose else checked.warnings[:WARNINGS_SHOWN]
    for message in shown:
        report(f"warning  {message}")
    if len(shown) < len(checked.warnings):
        report(f"warning  … and {len(checked.warnings) - len(shown)} more; cas_import --verbose shows all")
    if not checked.dataset.cases:
        raise UserError(f"no case is usable, so {workspace.dataset} was not written; mend what is listed above")
    save_dataset(workspace.dataset, checked.dataset)
    report(coverage_table(checked.dataset))
    return checked
