"""M&Ms (Campello et al., IEEE TMI 2021) and M&Ms-2 (Martín-Isla et al., IEEE JBHI 2023), told apart by their tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cardiac_autoseg.data.header import is_nifti
from cardiac_autoseg.data.index import Case, Dataset, LabelRef, Source
from cardiac_autoseg.data.parsing import Skip, positive, read_table, refuse, table_columns, whole
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

VALUES = {0: "background", 1: "LV", 2: "MYO", 3: "RV"}
"""In both data sets; the other way round than in ACDC."""
LOOKED_FOR = "a csv table with a column 'External code' (M&Ms) or SUBJECT_CODE (M&Ms-2), here or one folder up or down"
_ENDINGS = {"external code": "_sa", "subject_code": "_SA_ED"}
"""The column of codes in the table of M&Ms and of M&Ms-2, and how names of images end there."""


def _tables(source: Path) -> Iterator[Path]:
    """csv files in ``source``, one level down, then beside ``source`` (for someone who names OpenDataset/Training)."""
    for folder, pattern in ((source, "*.csv"), (source, "*/*.csv"), (source.resolve().parent, "*.csv")):
        yield from sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def find_table(source: Path) -> tuple[Path, str] | None:
    """The table and the name of its code column (lower case), None if there is none."""
    for path in _tables(source):
        columns = table_columns(path)
        for column in _ENDINGS:
            if column in columns:
                return path, column
    return None


def matches(source: Path) -> bool:
    """Whether ``source`` is laid out like M&Ms or M&Ms-2."""
    found = find_table(source)
    return found is not None and next(_images(source, _ENDINGS[found[1]]), None) is not None


def import_mnms(source: Path, workspace: Workspace, gt: str = "expert", skip: Skip = refuse) -> Dataset:
    """Index M&Ms or M&Ms-2, wherever in ``source`` the folders of the subjects lie.

    M&Ms: 4D ``CODE_sa.nii.gz`` and ``CODE_sa_gt.nii.gz``; ED and ES are 0-based in the table; masks in a folder called
    ``Unlabeled`` are empty placeholders and are not taken as labels. M&Ms-2: ``NNN_SA_ED.nii.gz`` and so on. Case ids are
    ``CODE_ED`` and ``CODE_ES``. A subject with images but without a usable row in the table is left out through ``skip``;
    rows without images are ignored, as no release holds all. Raises :class:`UserError` if there is no table or no image.
    """
    found = find_table(source)
    if found is None:
        raise UserError(f"{source} is not M&Ms or M&Ms-2: looked for {LOOKED_FOR}")
    table, column = found
    # Codes such as 001 lose their zeros in spreadsheets, hence the second key.
    rows = {row[column]: row for row in read_table(table) if row.get(column)}
    rows = {**{code.lstrip("0"): row for code, row in rows.items()}, **rows}
    second = column == "subject_code"
    cases: list[Case] = []
    seen: dict[str, Path] = {}
    for image in _images(source, _ENDINGS[column]):
        code = image.name[: image.name.lower().rindex("_sa")]
        row = rows.get(code) or rows.get(code.lstrip("0"))
        if code in seen:
            skip(f"{image} left out: subject {code} is in {seen[code]} already")
            continue
        seen[code] = image
        if row is None:
            skip(f"{code} left out: {table} has no row for it")
            continue
        try:
            cases += _second(image, code, row, workspace, gt) if second else _first(image, code, row, workspace, gt, table)
        except UserError as error:
            skip(f"{code} left out: {error}")
    if not seen:
        raise UserError(f"{source} holds no images of {'M&Ms-2 (*_SA_ED.nii.gz)' if second else 'M&Ms (*_sa.nii.gz)'}")
    return Dataset(name="mnms2" if second else "mnms", cases=tuple(cases), sources={gt: Source(values=dict(VALUES))})


def _images(source: Path, ending: str) -> Iterator[Path]:
    """Images whose names end so, at any depth, sorted."""
    for path in sorted(source.rglob(f"*{ending}.nii*")):
        if is_nifti(path) and "_gt" not in path.name:
            yield path


def _first(image: Path, code: str, row: dict[str, str], workspace: Workspace, gt: str, table: Path) -> list[Case]:
    """ED and ES of a subject of M&Ms."""
    frames = {phase: whole(row.get(phase.lower())) for phase in ("ED", "ES")}
    if None in frames.values() or frames["ED"] == frames["ES"]:
        raise UserError(f"{table} says ED {row.get('ed')!r}, ES {row.get('es')!r}: give two frames, counted from 0")
    mask = image.with_name(image.name.replace("_sa.", "_sa_gt."))
    labelled = mask.is_file() and not {"unlabeled", "unlabelled"} & {part.lower() for part in image.parts}
    cases = []
    for phase, frame in frames.items():
        assert frame is not None
        labels = {gt: LabelRef(workspace.relative(mask), frame)} if labelled else {}
        cases.append(_case(code, phase, image, row, workspace, labels, frame))
    return cases


def _second(image: Path, code: str, row: dict[str, str], workspace: Workspace, gt: str) -> list[Case]:
    """ED and ES of a subject of M&Ms-2, each a 3D file."""
    cases = []
    for phase in ("ED", "ES"):
        path = image.with_name(image.name.replace("_SA_ED.", f"_SA_{phase}."))
        if not path.is_file():
            raise UserError(f"{path} does not exist: download it again")
        mask = path.with_name(path.name.replace(f"_SA_{phase}.", f"_SA_{phase}_gt."))
        labels = {gt: LabelRef(workspace.relative(mask))} if mask.is_file() else {}
        cases.append(_case(code, phase, path, row, workspace, labels, None))
    return cases


def _case(
    code: str,
    phase: str,
    image: Path,
    row: dict[str, str],
    workspace: Workspace,
    labels: dict[str, LabelRef],
    frame: int | None,
) -> Case:
    return Case(
        id=f"{code}_{phase}",
        subject=code,
        image=workspace.relative(image),
        image_frame=frame,
        phase=phase,
        frame=None if frame is None else frame + 1,
        group=row.get("pathology") or row.get("disease") or None,
        height_cm=positive(row.get("height")),
        weight_kg=positive(row.get("weight")),
        labels=labels,
    )
