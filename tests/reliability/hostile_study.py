"""A small good DICOM study, and how others are made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from cardiac_autoseg.phantom.dicom import write_dicom
from cardiac_autoseg.phantom.subject import make_subject

Change = Callable[[Dataset], object]


def write_study(folder: Path, seed: int = 3, **options: Any) -> Path:
    """A small good study: 8 frames of 4 slices."""
    whole = make_subject(seed, "NOR", size="small")
    geometry = dataclasses.replace(whole.geometry, size=(64, 56, 4))
    subject = dataclasses.replace(whole, cine=np.ascontiguousarray(whole.cine[:8, :4, 20:76, 24:88]), geometry=geometry)
    write_dicom(folder, subject, **options)
    return folder


def linked(good: Path, path: Path) -> list[Path]:
    """The good study at another path, its files shared; they are sorted."""
    path.mkdir()
    for item in sorted(good.iterdir()):
        (path / item.name).hardlink_to(item)
    return sorted(path.iterdir())


def changed(good: Path, change: Change, path: Path, every: int = 1) -> None:
    """The good study with a change to the header of every file, or every so many."""
    for number, item in enumerate(linked(good, path)):
        if number % every == 0:
            header = pydicom.dcmread(item)
            change(header)
            item.unlink()
            with pydicom.config.disable_value_validation():
                header.save_as(item, enforce_file_format=False)


def rewritten(good: Path, change: Callable[[bytes], bytes], path: Path, every: int = 1) -> None:
    """The good study with other bytes in every file, or every so many."""
    for number, item in enumerate(linked(good, path)):
        if number % every == 0:
            data = item.read_bytes()
            item.unlink()
            item.write_bytes(change(data))


def setting(**values: Any) -> Change:
    """A change that sets elements by keyword, without a look at whether they can be; None removes."""

    def change(header: Dataset) -> None:
        for keyword, value in values.items():
            if keyword in header:
                del header[keyword]
            if value is not None:
                tag = pydicom.datadict.tag_for_keyword(keyword)
                vr = pydicom.datadict.dictionary_VR(tag)
                header[tag] = pydicom.dataelem.RawDataElement(
                    pydicom.tag.Tag(tag), vr, len(value), value, 0, False, True
                ) if isinstance(value, bytes) else pydicom.DataElement(tag, vr, value)  # fmt: skip

    return change
