"""The colours and titles of the structures: the same in pictures, pages, label tables and DICOM segmentations."""

from __future__ import annotations

from collections.abc import Mapping

STRUCTURE_COLORS = {"LV": "#ffb000", "MYO": "#33d17a", "RV": "#4aa8ff"}
STRUCTURE_TITLES = {"LV": "LV cavity", "MYO": "LV myocardium", "RV": "RV cavity"}
OTHER_COLORS = ("#ff6ec7", "#c9a0ff", "#ffe14d")


def structure_title(name: str) -> str:
    """What other programs show as the name of a structure; one that is not RV, MYO or LV is called by its own."""
    return STRUCTURE_TITLES.get(name, name)


def structure_color(name: str, labels: Mapping[str, int]) -> str:
    """The colour in which the automatic outline of a structure is drawn, ``#rrggbb``."""
    others = sorted(label for label in labels if label not in STRUCTURE_COLORS)
    return STRUCTURE_COLORS.get(name) or OTHER_COLORS[others.index(name) % len(OTHER_COLORS)]


def rgb(name: str, labels: Mapping[str, int]) -> tuple[int, int, int]:
    """The same colour as red, green and blue, 0 to 255."""
    digits = structure_color(name, labels)[1:]
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
