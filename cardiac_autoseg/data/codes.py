"""The coded concepts of the DICOM outputs: structures, measurements and units.

Codes come from the standard's code dictionary as pydicom carries it (``pydicom.sr.codedict``): SNOMED CT (SCT), LOINC (LN),
DICOM (DCM) and UCUM units. Where the standard has no code that says the same thing, the code is of the private scheme
``99CAS``: volumes and mass indexed to body surface area, and structures other than RV, MYO and LV. The standard has a code
for each ventricle and for the myocardium of the left one, but none for a ventricle's cavity: a cavity is coded as its
ventricle, as other programs do it, and named a cavity in the segment's label.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.sr.coding import Code

from cardiac_autoseg.colors import structure_title

PRIVATE = "99CAS"
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
LEFT_VENTRICLE = Code("87878005", "SCT", "Left ventricle")
RIGHT_VENTRICLE = Code("53085002", "SCT", "Right ventricle")
LEFT_MYOCARDIUM = Code("49848007", "SCT", "Left Ventricle Myocardium")
HEART = Code("80891009", "SCT", "Heart")
CARDIAC_MRI = Code("241620005", "SCT", "Cardiac MRI")
CYCLE_POINT = Code("272518008", "SCT", "Cardiac Cycle Point")
END_DIASTOLE = Code("416190007", "SCT", "End Diastole")
END_SYSTOLE = Code("416430001", "SCT", "End Systole")
COMMENT = Code("121106", "DCM", "Comment")
UPPER_UNCERTAINTY = Code("371886008", "SCT", "+, range of upper measurement uncertainty")
LOWER_UNCERTAINTY = Code("371885007", "SCT", "-, range of lower measurement uncertainty")


@dataclass(frozen=True)
class Structure:
    """A structure as other programs show it (``title``) and as they understand it (``code``)."""

    title: str
    code: Code


@dataclass(frozen=True)
class Quantity:
    """What a measurement is, its UCUM unit, and the structure it is from (``LV``, ``RV``, ``MYO``, None for the heart).

    ``phase`` is "ED" or "ES" for what is measured in that frame alone, None for what needs several frames or none.
    """

    code: Code
    unit: Code
    structure: str | None
    phase: str | None


STRUCTURES = {
    name: Structure(structure_title(name), code)
    for name, code in (("LV", LEFT_VENTRICLE), ("MYO", LEFT_MYOCARDIUM), ("RV", RIGHT_VENTRICLE))
}


def structure(name: str) -> Structure:
    """The structure of a label; one that is not RV, MYO or LV has its name as title and a private code."""
    return STRUCTURES.get(name) or Structure(name, Code(name.upper()[:16], PRIVATE, name[:64]))


def quantity(name: str) -> Quantity | None:
    """The coded measurement of a name such as ``LV_EF`` or ``LV_EDVi``; None for a name without a code."""
    return QUANTITIES.get(name)


def _unit(ucum: str) -> Code:
    return Code(ucum, "UCUM", ucum)


def _quantities() -> dict[str, Quantity]:
    """All measurements by name. The index of a volume or mass ends in ``i`` and is per m² of body surface area."""
    ml, gram, percent, flow, rate = _unit("mL"), _unit("g"), _unit("%"), _unit("L/min"), _unit("mL/s")
    indexed = "indexed to body surface area"
    listed = {
        "LV_EDV": Quantity(Code("8821-1", "LN", "Left Ventricular ED Volume"), ml, "LV", "ED"),
        "LV_ESV": Quantity(Code("8823-7", "LN", "Left Ventricular ES Volume"), ml, "LV", "ES"),
        "LV_SV": Quantity(Code("90096001", "SCT", "Stroke Volume"), ml, "LV", None),
        "LV_EF": Quantity(Code("8811-2", "LN", "Left ventricular ejection fraction by MR"), percent, "LV", None),
        "LV_mass": Quantity(Code("18087-7", "LN", "Left Ventricle Mass"), gram, "MYO", "ED"),
        "LV_CO": Quantity(Code("82799009", "SCT", "Cardiac Output"), flow, "LV", None),
        "RV_EDV": Quantity(Code("8822-9", "LN", "Right Ventricular ED Volume"), ml, "RV", "ED"),
        "RV_ESV": Quantity(Code("8824-5", "LN", "Right Ventricular ES Volume"), ml, "RV", "ES"),
        "RV_SV": Quantity(Code("429483009", "SCT", "RV Stroke Volume"), ml, "RV", None),
        "RV_EF": Quantity(Code("8818-7", "LN", "Right ventricular ejection fraction by MR"), percent, "RV", None),
        "RV_CO": Quantity(Code("428628004", "SCT", "RV Cardiac Output"), flow, "RV", None),
        "LV_SVi": Quantity(Code("277381004", "SCT", "Stroke Index"), _unit("mL/m2"), "LV", None),
        "LV_COi": Quantity(Code("54993008", "SCT", "Cardiac Index"), _unit("L/min/m2"), "LV", None),
        "RV_SVi": Quantity(Code("429619008", "SCT", "RV Stroke Index"), _unit("mL/m2"), "RV", None),
        "RV_COi": Quantity(Code("427990004", "SCT", "RV Cardiac Index"), _unit("L/min/m2"), "RV", None),
        "HR": Quantity(Code("8867-4", "LN", "Heart rate"), _unit("/min"), None, None),
        "BSA": Quantity(Code("8277-6", "LN", "BSA"), _unit("m2"), None, None),
    }
    for name in ("LV_EDV", "LV_ESV", "LV_mass", "RV_EDV", "RV_ESV"):
        base = listed[name]
        code = Code(f"{name}i", PRIVATE, f"{base.code.meaning} {indexed}")
        listed[f"{name}i"] = Quantity(code, _unit(f"{base.unit.value}/m2"), base.structure, base.phase)
    for side in ("LV", "RV"):
        listed[f"{side}_PER"] = Quantity(Code("122616", "DCM", "Peak Ejection Rate"), rate, side, None)
        listed[f"{side}_PFR"] = Quantity(Code("122618", "DCM", "Peak Filling Rate"), rate, side, None)
        listed[f"{side}_CI"] = listed[f"{side}_COi"]
    listed["CO"], listed["CI"] = listed["LV_CO"], listed["LV_COi"]
    return listed


QUANTITIES = _quantities()
