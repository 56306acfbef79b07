"""nnU-Net's raw data folders (version 2, and 1 where it is the same): ``dataset.json``, ``imagesTr``, ``labelsTr``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cardiac_autoseg.data.folder import attach_labels, describe_cases
from cardiac_autoseg.data.header import is_nifti
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.parsing import Skip, check_name, class_values, refuse
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from cardiac_autoseg.workspace import Workspace

LOOKED_FOR = "imagesTr/ and a dataset.json with 'labels'"


def matches(source: Path) -> bool:
    """Whether ``source`` is a raw data folder of nnU-Net."""
    try:
        description = read_json(source / "dataset.json")
    except UserError:
        return False
    return isinstance(description, dict) and "labels" in description and (source / "imagesTr").is_dir()


def read_description(path: Path) -> dict[str, Any]:
    """nnU-Net's ``dataset.json``; raises :class:`UserError` if it is not one, or not of NIfTI files."""
    description = read_json(path)
    if not isinstance(description, dict) or not isinstance(description.get("labels"), dict):
        raise UserError(f'{path} is not nnU-Net\'s: it has no \'labels\' such as {{"background": 0, "RV": 1}}')
    if description.get("file_ending", ".nii.gz") not in (".nii.gz", ".nii"):
        raise UserError(f"{path} says the files end in {description['file_ending']}: convert them to .nii.gz")
    return description


def import_nnunet(source: Path, workspace: Workspace, gt: str = "expert", skip: Skip = refuse) -> Dataset:
    """Index ``imagesTr/CASE_0000.nii.gz`` with ``labelsTr`` (source ``gt``) and ``labelsTr_<source>`` (further sources).

    Classes come from the names in ``dataset.json``. Subject and phase come from case names such as patient001_frame01 or
    X_ED, else the case is its own subject; a ``cases.csv`` beside ``dataset.json`` is read as in the folder layout. Images
    of several channels are left out through ``skip``. Raises :class:`UserError` if there are no images, or for a class that
    is none of the heart's.
    """
    path = source / "dataset.json"
    description = read_description(path)
    values = class_values(description["labels"], path)
    ending = description.get("file_ending", ".nii.gz")
    images = [path for path in sorted((source / "imagesTr").glob(f"*_[0-9][0-9][0-9][0-9]{ending}")) if is_nifti(path)]
    cases: Sequence[Case] = []
    several = {image.name[: -len(ending) - 5] for image in images if not image.name.endswith(f"_0000{ending}")}
    for name in sorted(several):
        skip(f"case {name} left out: it has more than one channel in {source / 'imagesTr'}; cine-MRI has one")
    names = {image.name[: -len(ending) - 5]: image for image in images}
    cases = [
        Case(id=name, subject=name, image=workspace.relative(image)) for name, image in names.items() if name not in several
    ]
    if not cases:
        raise UserError(f"{source / 'imagesTr'} holds no images: looked for CASE_0000{ending}")
    cases = describe_cases(cases, source / "cases.csv", workspace, skip)
    sources = {}
    for folder in sorted(source.glob("labelsTr*")):
        name = gt if folder.name == "labelsTr" else check_name(folder.name.removeprefix("labelsTr_"), "label source")
        if name in sources:
            raise UserError(f"{source} has both labelsTr and {folder.name} for source {name}: name another --gt")
        cases, sources[name] = attach_labels(cases, name, folder, values, workspace, skip)
    called = description.get("name")
    name = called if called and isinstance(called, str) else source.resolve().name
    return Dataset(name=name, cases=tuple(cases), sources=sources)
