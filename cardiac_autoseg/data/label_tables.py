"""Labels with names and colours for 3D Slicer (``.seg.nrrd``, ``.ctbl``) and ITK-SNAP (``.label``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.colors import rgb, structure_title
from cardiac_autoseg.data.geometry import Geometry
from cardiac_autoseg.files import atomic_path, write_text

_ITKSNAP = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    IDX:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
    0     0    0    0        0  0  0    "Clear Label"
"""


def write_slicer_segmentation(path: Path, labels: NDArray[np.uint8], geometry: Geometry, names: Mapping[str, int]) -> None:
    """Write the labels (Z, Y, X) of one frame as a 3D Slicer segmentation, atomically; ``path`` ends in ``.seg.nrrd``.

    The voxels lie exactly in ``geometry``. Names, colours and codes of the segments are custom fields of the NRRD header, as
    in https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html. Raises ``ValueError`` if the
    labels do not have the shape of the geometry.
    """
    import nrrd

    if labels.shape != geometry.shape:
        raise ValueError(f"labels of shape {labels.shape} do not fit a geometry of shape {geometry.shape}")
    directions = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    header: dict[str, Any] = {
        "type": "unsigned char",
        "dimension": 3,
        "space": "left-posterior-superior",
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
        # NRRD lists the vectors of the axes, which are the columns of the matrix.
        "space directions": directions.T,
        "space origin": np.array(geometry.origin),
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # its name in older versions
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for index, (name, value) in enumerate(_sorted(names)):
        header |= _segment(f"Segment{index}_", name, value, names, _extent(labels == value))
    with atomic_path(Path(path)) as temporary:
        nrrd.write(str(temporary), labels.transpose(2, 1, 0), header, compression_level=4, index_order="F")
        # pynrrd says in a comment when it wrote: the same labels shall give the same file.
        temporary.write_bytes(re.sub(rb"\n# on [^\n]*", b"", temporary.read_bytes(), count=1))


def write_slicer_colors(path: Path, names: Mapping[str, int]) -> None:
    """Write a 3D Slicer colour table (``.ctbl``) for label files of these ``names``, atomically."""
    lines = ["# cardiac_autoseg: value name red green blue opacity", "0 background 0 0 0 0"]
    for name, value in _sorted(names):
        red, green, blue = rgb(name, names)
        lines.append(f"{value} {structure_title(name).replace(' ', '_')} {red} {green} {blue} 255")
    write_text(Path(path), "\n".join(lines) + "\n")


def write_itksnap_labels(path: Path, names: Mapping[str, int]) -> None:
    """Write an ITK-SNAP label description (``.label``) for label files of these ``names``, atomically."""
    lines = []
    for name, value in _sorted(names):
        red, green, blue = rgb(name, names)
        lines.append(f'{value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{structure_title(name)}"\n')
    write_text(Path(path), _ITKSNAP + "".join(lines))


def _sorted(names: Mapping[str, int]) -> list[tuple[str, int]]:
    """The structures, without background, in the order of their values."""
    return sorted(((name, value) for name, value in names.items() if value > 0), key=lambda item: item[1])


def _extent(mask: NDArray[np.bool_]) -> str:
    """First and last voxel of a mask (Z, Y, X) along x, y and z; last before first where it is empty."""
    ends = []
    for axis in (2, 1, 0):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        ends += [int(filled[0]), int(filled[-1])] if len(filled) else [0, -1]
    return " ".join(map(str, ends))


def _segment(prefix: str, name: str, value: int, names: Mapping[str, int], extent: str) -> dict[str, str]:
    """The fields of one segment."""
    from cardiac_autoseg.data.codes import ANATOMICAL_STRUCTURE, structure  # pydicom, which only some runs need

    known = structure(name)
    category, kind = (f"{c.scheme_designator}^{c.value}^{c.meaning}" for c in (ANATOMICAL_STRUCTURE, known.code))
    terminology = (
        f"Segmentation category and type - DICOM master list~{category}~{kind}~^^~Anatomic codes - DICOM master list~^^~^^"
    )
    return {
        f"{prefix}ID": name,
        f"{prefix}Name": known.title,
        f"{prefix}NameAutoGenerated": "0",
        f"{prefix}Color": " ".join(f"{part / 255:.6g}" for part in rgb(name, names)),
        f"{prefix}ColorAutoGenerated": "0",
        f"{prefix}LabelValue": str(value),
        f"{prefix}Layer": "0",
        f"{prefix}Extent": extent,
        f"{prefix}Tags": f"TerminologyEntry:{terminology}|",
    }
