"""Odd names of files."""

from __future__ import annotations

import os
from collections.abc import Iterator

from .hostile_nifti import USED, Hostile, content, nifti, picture

NAMES = (
    "with spaces  in it", "tab\tin it", "line\nbreak", "return\rin it", "bell\x07\x1b[2J", "-leading",
    "--output", "~tilde", "ümläut", "u\u0308mla\u0308ut", "UPPER", "upper", "Straße", "STRASSE", "心臓",
    "قلب", "🫀", "\u202egnp.exe", "zero\u200bwidth", 'quo"te', "apo'strophe",
    "<script>alert(1)<\u2044script>", "a&b", "100%41", "a#b", "a?b", "star*", "[a-z]", "=1+1", "+1",
    "@SUM(A1)", "semi;colon", "com,ma", "back\\slash", "$HOME", "`id`", "{0}", "%s%n", "CON",
    "trailing.", "trailing ", "..dots", "index", "prediction", "measurements", "a.b.c",
    "null\u2028separator", "x" * 200, "y" * 248, "é" * 124,
)  # fmt: skip
"""Names that files can have. All are of good images, which must come through; one that begins with a dot is hidden."""


def names() -> Iterator[Hostile]:
    """Good images with odd names."""
    for number, name in enumerate(NAMES):
        if not name.startswith("."):
            yield Hostile(f"{name}.nii", content(nifti(picture(100 + number))), USED)
    yield Hostile(os.fsdecode(b"not\xff\xfeutf8.nii"), content(nifti(picture(99))), USED)
