"""Who was scanned: what headers say of it, and how names and texts that leave with the results are kept free of it.

What is hidden, what is not, and why: docs/privacy.md.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from cardiac_autoseg.data.remote import AnyPath

HIDDEN = "…"
OLDEST = 90
"""Ages from here on are one: few people have them, so they count as identifying (45 CFR 164.514(b)(2)(i)(C))."""

_KEYWORDS = frozenset(
    "PatientID OtherPatientIDs IssuerOfPatientID AccessionNumber StudyID AdmissionID PatientAddress PatientTelephoneNumbers"
    " MedicalRecordLocator InstitutionName InstitutionAddress InstitutionalDepartmentName StationName DeviceSerialNumber"
    " RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID".split()
)
"""Elements that identify a person, an order or a place; so do all names of persons, dates, and UIDs."""
_KINDS = ("SQ", "PN", "DA", "DT")
_UID = re.compile(r"(?<!\d)(?<!\d\.)[0-2](?:\.\d+){4,}")
_PATH = re.compile(r"(?:(?<=[\s('\"])|^)/[^\n]*", re.MULTILINE)
_FOLDERS = re.compile(r"(?:[^\s/:'\"]+/)+")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\d[\d.:]{7,}|\S*\^\S*")
_SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae"})
"""How names are spelt where a keyboard lacks letters of theirs; more than accents are taken off."""
_SHORTEST = 4
_TRIED = 8

_SPOKEN = frozenset(
    "cine sa sax sha shax ssax short axis ax axe axes achse achsen kurzachse kurzachsen kurze petit eje corto asse korte as"
    " la lax hla vla long lange langachse langachsen grand horiz horizontal vert vertical ch cv kv chamber chambers chomber"
    " chombers kammer lvot rvot aorta aortic tra transv transverse transversal axial cor coronal sag sagittal radial tag"
    " tagging tags grid csppamm flow qflow venc pc perf perfusion lge psir molli map maps mapping t scout loc localizer"
    " localiser lv rv heart cardiac stack slice slices base basal mid apex apical multi single ssfp bssfp trufi truefisp tfi"
    " fiesta bffe btfe ffe gre fgre tse haste flash ir db bh breath hold free real time retro retrospective prospective"
    " gated ecg stress rest late enhancement delayed dynamic black blood star mag phase pre post sense grappa d r no of"
    " description and cs seg".split()
)
"""Words of series descriptions that say how the scan was made; others may be anybody's name."""


@dataclass(frozen=True)
class Identity:
    """What a study's headers say of who was scanned: texts, parts of persons' names, and the UID of the study (or "")."""

    uid: str = ""
    texts: frozenset[str] = frozenset()
    persons: frozenset[str] = frozenset()

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        words = [*(text for text in self.texts if len(text) >= _SHORTEST), *self.persons]
        found = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        return re.compile(rf"(?<![^\W_])(?:{found})(?![^\W_])", re.IGNORECASE) if found else None

    def names(self, text: str) -> bool:
        """Whether a name that someone gave says who was scanned, whatever its case, accents and separators are."""
        plain, words = _folded(text), {_folded(word) for word in re.split(r"[\W_]+|(?<=\D)(?=\d)|(?<=\d)(?=\D)", text)}
        persons = (form for person in self.persons for form in (person, person.casefold().translate(_SPELT)))
        for value in map(_folded, (*self.texts, *persons)):
            if value and (value == plain or value in words or (len(value) >= _SHORTEST and value in plain)):
                return True
        return bool(_UID.search(text))

    def hidden(self, text: str) -> str:
        """A message without what identifies: names, IDs, dates, UIDs; of absolute paths only the last part is left."""
        text = _UID.sub(HIDDEN, without_folders(text))
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


def read_identity(path: AnyPath) -> Identity:
    """What the first and the last file of a DICOM study (folder, zip or file) say, empty where neither can be read.

    Patient and study are the same in all files of one study; the last is looked at in case there are two of them. Raises
    :class:`UnreachableError` where it is remote and nobody answers: it may be that it can be read later.
    """
    from cardiac_autoseg.data.dicom_files import files_of, open_files  # pydicom, which only DICOM needs
    from cardiac_autoseg.data.remote_access import UnreachableError
    from cardiac_autoseg.errors import UserError

    found: list[Dataset] = []
    try:
        with open_files(path) as files:
            paths = list(files_of(files))
            for order in (paths, paths[:0:-1]):
                headers = (_header(files.open, one) for one in islice(order, _TRIED))
                found += islice((header for header in headers if header is not None), 1)
            return _of(found)
    except UnreachableError:
        raise
    except (UserError, OSError):
        return Identity()


def _header(open_file: Callable[[Any], IO[bytes]], path: Any) -> Dataset | None:
    """The header of a file up to its pixels and the groups of its frames; None if it is not DICOM or cannot be read."""
    from pydicom.filereader import read_partial

    from cardiac_autoseg.data.dicom_files import bounded
    from cardiac_autoseg.data.remote_access import UnreachableError

    try:
        with open_file(path) as stream:
            header = read_partial(bounded(stream), stop_when=lambda tag, _vr, _length: tag >= 0x52000000)
            return header if "StudyInstanceUID" in header or "PatientID" in header or "PatientName" in header else None
    except UnreachableError:
        raise
    except Exception:  # pydicom raises nearly every type on files that are damaged or none
        return None


def _of(headers: Iterable[Dataset]) -> Identity:
    uid, texts, persons = "", set(), set()
    for header in headers:
        uid = uid or str(header.get("StudyInstanceUID") or header.get("SOPInstanceUID") or "")
        for kind, keyword, values in _elements(header):
            if kind == "PN":
                persons |= {part for value in values for part in re.split(r"[\^=,\s-]+", value) if len(part) > 2}
            elif kind in ("DA", "DT"):
                texts |= {form for value in values for form in _dates(value)}
            elif keyword in _KEYWORDS:
                texts |= {value for value in values if value}
    return Identity(uid, frozenset(texts), frozenset(persons))


def _elements(header: Dataset) -> Iterator[tuple[str, str, list[str]]]:
    """VR, keyword and texts of every element that may identify, those of sequences too, and that can be read."""
    from pydicom.datadict import keyword_for_tag

    for tag in list(header.keys()):
        try:
            # What is not asked for is not converted, which takes longest. Implicit encoding does not say the VR.
            raw = header.get_item(tag)
            if raw is None or (raw.VR not in (None, "UN", *_KINDS) and keyword_for_tag(tag) not in _KEYWORDS):
                continue
            element = header[tag]
            if element.VR == "SQ":
                for item in element.value or []:
                    yield from _elements(item)
                continue
            value = element.value
            several = value if type(value).__name__ == "MultiValue" or isinstance(value, list | tuple) else [value]
            yield element.VR, element.keyword, [str(one).strip() for one in several if one is not None]
        except Exception:  # as above, when values are asked for
            continue


def _dates(value: str) -> Iterator[str]:
    """A date as DICOM has it, and the other ways round in which people write it."""
    digits = re.sub(r"\D", "", value)[:8]
    if len(digits) == 8 and digits.strip("0"):
        year, month, day = digits[:4], digits[4:6], digits[6:]
        for parts in ((year, month, day), (day, month, year), (month, day, year)):
            yield from (mark.join(parts) for mark in ("", "-", ".", "/", "_"))


def _folded(text: str) -> str:
    """Letters and digits alone, without case and accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if letter.isalnum())


def without_folders(text: str) -> str:
    """A message without the folders above the files that it names: pages and records that say it may be passed on."""
    return _PATH.sub(lambda match: _last_part(match[0]), text) if "/" in text else text


def _last_part(text: str) -> str:
    """A text that begins with an absolute path, from the path's last part on; names of folders may have blanks in them."""
    ends = [place for place, letter in enumerate(text) if letter == "/"]
    known = next((end for end in reversed(ends) if end and os.path.isdir(text[:end])), 0)  # noqa: PTH112 - any text
    rest = text[known + 1 :]
    gone = _FOLDERS.match(rest)  # of a path that is not there
    if not known and gone is None:
        return text
    return without_folders(rest[gone.end() :] if gone else rest)


def spoken(description: str) -> str:
    """The description of a series without words and numbers that do not say how the scan was made."""
    known = re.sub(r"[^\W\d_]+", lambda match: match[0] if match[0].casefold() in _SPOKEN else HIDDEN, description)
    known = re.sub(r"\d{4,}", HIDDEN, known)
    return re.sub(rf"{HIDDEN}(?:[\W_\d]*{HIDDEN})+", HIDDEN, known)


def unquoted(error: BaseException) -> str:
    """What other people's code says went wrong, in a line: without the values that it quotes, as these may say anything."""
    text = " ".join(str(error).split())
    return _QUOTED.sub(HIDDEN, text)[:200] or type(error).__name__


def general_age(age: float | None) -> int | None:
    """An age in whole years, those of :data:`OLDEST` and more as that: fractions of a year give the birthday away."""
    return None if age is None else min(int(age), OLDEST)
