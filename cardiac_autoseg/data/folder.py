"""Plain folders: ``images/``, ``labels/<source>/`` with the same file names, and an optional table ``cases.csv``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from cardiac_autoseg.data.header import read_header, stem
from cardiac_autoseg.data.index import Case, Dataset, LabelRef, Source
from cardiac_autoseg.data.parsing import (
    Skip,
    check_name,
    match_labels,
    nifti_files,
    parse_name,
    positive,
    read_table,
    refuse,
    values_beside,
    whole,
)
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

LOOKED_FOR = "a folder images/ with .nii.gz files (and labels/SOURCE/ beside it)"


def matches(source: Path) -> bool:
    """Whether ``source`` has a folder ``images`` with NIfTI files."""
    return (source / "images").is_dir() and bool(nifti_files(source / "images"))


def import_folder(source: Path, workspace: Workspace, gt: str = "expert", skip: Skip = refuse) -> Dataset:
    """Index ``images/*.nii.gz`` with ``labels/<source>/*.nii.gz``.

    ``labels/*.nii.gz`` directly, without a folder for the source, is taken as the labels of ``gt``. Values mean 1 RV, 2 MYO,
    3 LV unless a ``labels.json`` in the labels' folder, in ``labels`` or in ``source`` says otherwise. ``cases.csv``: see
    :func:`describe_cases`. Raises :class:`UserError` if there are no images.
    """
    if not matches(source):
        raise UserError(f"{source} has no images: looked for {LOOKED_FOR}")
    cases: Sequence[Case] = [
        Case(id=stem(path), subject=stem(path), image=workspace.relative(path)) for path in nifti_files(source / "images")
    ]
    cases = describe_cases(cases, source / "cases.csv", workspace, skip)
    root = source / "labels"
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    named = {check_name(folder.name, "label source"): folder for folder in folders if nifti_files(folder)}
    if root.is_dir() and nifti_files(root):
        if gt in named:
            raise UserError(
                f"{root} has label files of its own and a folder {gt}: move the files into a folder, or name another --gt"
            )
        named[gt] = root
    sources = {}
    for name, folder in named.items():
        cases, sources[name] = attach_labels(cases, name, folder, values_beside((folder, root, source)), workspace, skip)
    return Dataset(name=source.resolve().name, cases=tuple(cases), sources=sources)


def attach_labels(
    cases: Sequence[Case], name: str, folder: Path, values: dict[int, str], workspace: Workspace, skip: Skip
) -> tuple[Sequence[Case], Source]:
    """The cases with the labels of source ``name`` that lie in ``folder``; files without a case go to ``skip``."""
    match = match_labels(nifti_files(folder), cases)
    for message in match.unmatched:
        skip(f"source {name}: {message}")
    refs = {case_id: LabelRef(workspace.relative(path), frame) for case_id, (path, frame) in match.found.items()}
    result = [
        dataclasses.replace(case, labels={**case.labels, name: refs[case.id]}) if case.id in refs else case for case in cases
    ]
    return result, Source(values=values)


def describe_cases(cases: Sequence[Case], table: Path, workspace: Workspace, skip: Skip) -> list[Case]:
    """Subject, phase, frame, group, height and weight of each case, from ``table`` where it exists, else from the names.

    Columns: case (needed), subject, phase (ED or ES), frame (1-based), group, height_cm, weight_kg, image. ``image`` names
    the image file without ending where it is not called like the case: so two rows may name frames of one 4D file. Cases
    of files that no row names keep what their name says. Rows without a file are left out through ``skip``.
    """
    rows = read_table(table) if table.is_file() else []
    if rows and "case" not in rows[0]:
        raise UserError(f"{table} has no column 'case' (it has {', '.join(rows[0])}): name the files without ending there")
    images = {case.id: case for case in cases}
    described: list[Case] = []
    used = set()
    for row in rows:
        image = row.get("image") or row["case"]
        if image not in images:
            skip(f"{table}: case {row['case']!r} left out: there is no image {image}.nii.gz")
            continue
        used.add(image)
        try:
            described.append(_describe(images[image], check_name(row["case"], "case"), row, table, workspace))
        except UserError as error:
            skip(f"case {row['case']} left out: {error}")
    return described + [_describe(case, case.id, {}, table, workspace) for case in cases if case.id not in used]


def _describe(case: Case, case_id: str, row: dict[str, str], table: Path, workspace: Workspace) -> Case:
    """One case with what its row, and failing that its name, says."""
    subject, phase, frame = parse_name(case_id)
    if row.get("frame"):
        frame = whole(row["frame"])
        if not frame:
            raise UserError(f"{table}: frame {row['frame']!r} is not a whole number, counted from 1")
    if row.get("phase"):
        phase = row["phase"].upper()
        if phase not in ("ED", "ES"):
            raise UserError(f"{table}: phase {row['phase']!r} is neither ED nor ES")
    return dataclasses.replace(
        case,
        id=case_id,
        subject=row.get("subject") or subject,
        phase=phase,
        frame=frame,
        image_frame=frame - 1 if frame and _is_cine(workspace.resolve(case.image)) else None,
        group=row.get("group") or None,
        height_cm=positive(row.get("height_cm")),
        weight_kg=positive(row.get("weight_kg")),
    )


def _is_cine(path: Path) -> bool:
    """Whether a file holds several frames; a file that cannot be read does not, and the check of the cases says why."""
    try:
        dimensions = read_header(path).dimensions
    except UserError:
        return False
    return len(dimensions) > 3 and dimensions[3] > 1
