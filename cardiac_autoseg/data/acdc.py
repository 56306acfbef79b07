"""The official folders of ACDC (Bernard et al., IEEE TMI 2018): ``patientNNN/`` with ``Info.cfg`` and one file a frame."""

from __future__ import annotations

from pathlib import Path

from cardiac_autoseg.data.index import Case, Dataset, LabelRef, Source
from cardiac_autoseg.data.parsing import INTERNAL_VALUES, Skip, positive, read_lines, refuse, whole
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace

LOOKED_FOR = "patient folders with an Info.cfg (*/Info.cfg, training/*/Info.cfg, testing/*/Info.cfg)"
PARTS = ("training", "testing")


def patient_folders(source: Path) -> list[Path]:
    """Patient folders in ``source`` itself, or in its ``training`` and ``testing``; empty if there are none."""
    for folders in ([source], [source / part for part in PARTS]):
        found = [path.parent for folder in folders for path in sorted(folder.glob("*/Info.cfg"))]
        if found:
            return found
    return [source] if (source / "Info.cfg").is_file() else []


def matches(source: Path) -> bool:
    """Whether ``source`` is laid out like ACDC."""
    return bool(patient_folders(source))


def import_acdc(source: Path, workspace: Workspace, gt: str = "expert", skip: Skip = refuse) -> Dataset:
    """Index ACDC's folders, or anything written like them.

    ``source`` holds the patient folders, or ``training`` and ``testing`` which do, or is one of them. ED and ES come from
    ``Info.cfg`` (1-based). The image of a frame is ``NAME_frameFF.nii.gz`` or, without that file, the frame in
    ``NAME_4d.nii.gz``; its labels are ``NAME_frameFF_gt.nii.gz``, which may be missing. An incomplete patient is left out
    through ``skip``. Raises :class:`UserError` if there are no patients.
    """
    folders = patient_folders(source)
    if not folders:
        raise UserError(f"{source} holds no ACDC patients: looked for {LOOKED_FOR}")
    cases: list[Case] = []
    for folder in folders:
        try:
            cases += _patient(folder, workspace, gt)
        except UserError as error:
            skip(f"{folder.name} left out: {error}")
    return Dataset(name="acdc", cases=tuple(cases), sources={gt: Source(values=dict(INTERNAL_VALUES))})


def _patient(folder: Path, workspace: Workspace, gt: str) -> list[Case]:
    """The ED and the ES case of a patient."""
    path = folder / "Info.cfg"
    info = read_info(path)
    frames = {phase: whole(info.get(phase.lower())) for phase in ("ED", "ES")}
    if None in frames.values() or 0 in frames.values() or frames["ED"] == frames["ES"]:
        raise UserError(f"{path} says ED: {info.get('ed')}, ES: {info.get('es')}: give two frames, counted from 1")
    cases = []
    for phase, frame in frames.items():
        assert frame is not None
        name = f"{folder.name}_frame{frame:02d}"
        image, image_frame = _find(folder, name), None
        if image is None:
            image, image_frame = _find(folder, f"{folder.name}_4d"), frame - 1
        if image is None:
            raise UserError(
                f"{folder} has no image of frame {frame} ({phase}): looked for {name}.nii.gz and {folder.name}_4d.nii.gz"
            )
        labels = _find(folder, f"{name}_gt")
        cases.append(
            Case(
                id=name,
                subject=folder.name,
                image=workspace.relative(image),
                image_frame=image_frame,
                phase=phase,
                frame=frame,
                group=info.get("group") or None,
                height_cm=positive(info.get("height")),
                weight_kg=positive(info.get("weight")),
                labels={} if labels is None else {gt: LabelRef(workspace.relative(labels))},
            )
        )
    return cases


def read_info(path: Path) -> dict[str, str]:
    """The ``key: value`` lines of an ``Info.cfg``, keys in lower case. Raises :class:`UserError` if unreadable."""
    pairs = (line.partition(":") for line in read_lines(path) if ":" in line)
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _find(folder: Path, name: str) -> Path | None:
    """The file ``name`` with either ending, None if there is none."""
    return next((path for path in (folder / f"{name}.nii.gz", folder / f"{name}.nii") if path.is_file()), None)
