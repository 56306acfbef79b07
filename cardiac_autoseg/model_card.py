"""The model card of a bundle: Markdown in which every number comes from the bundle's record.

Sections after Mitchell et al. 2019 (Model Cards for Model Reporting, arXiv 1810.03993): what it is, data, recipe, scores,
limits, use, licence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.errors import UserError

if TYPE_CHECKING:
    from cardiac_autoseg.bundle import Bundle

ARCHITECTURES = {"unet": "U-Net", "attention_unet": "Attention U-Net", "enet": "ENet"}
USE = (
    "For research only. It is not a medical device and must not be used for diagnosis or treatment. A person who can read"
    " cardiac MRI has to look at every contour before a number is used."
)
LIMITS = (
    "Short-axis cine-MRI (balanced SSFP) only: long-axis views, late enhancement, mapping and perfusion are foreign to it.",
    "The networks are 2D and see one slice at a time. The most basal and the most apical slices, where it is a matter of"
    " convention what belongs to a ventricle, are the least reliable, those of the RV above all.",
    "Volumes mean what the training labels meant: where these count papillary muscles to the cavity, so does the model.",
    "Scanners, sequences, ages and diseases that the data do not have are untested: check it on labelled scans of your own.",
)
ACDC = {
    "what": "ACDC (Automated Cardiac Diagnosis Challenge), training part: short-axis cine-MRI of 100 patients of the"
    " University Hospital of Dijon, on 1.5 T and 3 T scanners of one vendor (Siemens), in five groups of 20: normal (NOR),"
    " dilated (DCM) and hypertrophic cardiomyopathy (HCM), infarction with reduced ejection fraction (MINF), abnormal right"
    " ventricle (RV). Labels at end-diastole and end-systole by a clinical expert; papillary muscles belong to the cavity.",
    "licence": "CC BY-NC-SA 4.0",
    "cite": "O. Bernard et al. Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and"
    " Diagnosis: Is the Problem Solved? IEEE Transactions on Medical Imaging 2018, 37(11), 2514–2525, doi"
    " 10.1109/TMI.2018.2837502",
    "limits": "One hospital and one vendor; no children, no congenital heart disease.",
}


def licence_note(bundle: Bundle) -> str:
    """The text of the bundle's ``LICENSE``: that of its weights, apart from that of the code."""
    cite = f"\nWhoever uses them cites the data:\n{ACDC['cite']}\n" if _is_acdc(bundle) else ""
    return (
        f"The weights in this folder are under the terms of the data they were trained on:\n\n{bundle.licence}\n\n"
        "They are not under the Apache License 2.0 of cardiac_autoseg, the program that made them and uses them. Without any"
        f" warranty.\n{cite}\n{USE}\n"
    )


def _is_acdc(bundle: Bundle) -> bool:
    return str(bundle.training_data.get("dataset", "")).lower() == "acdc"


def model_card(bundle: Bundle) -> str:
    """The card as Markdown, in which texts of the record are texts, and no HTML.

    Raises :class:`UserError` where the record of data, recipe or scores is not as ``cas_ensemble`` writes it.
    """
    try:
        sections = _sections(bundle)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(
            f"the bundle {bundle.name!r} says its data, recipe or scores in another way than cas_ensemble writes them"
            f" ({type(error).__name__}: {error}): make it again with cas_ensemble"
        ) from error
    shown = [(title, lines) for title, lines in sections.items() if lines]
    text = "\n".join(
        "\n".join([f"{'##' if number else '#'} {title}", "", *lines, ""]) for number, (title, lines) in enumerate(shown)
    )
    # None of our own words needs it, and renderers of Markdown take it for the beginning of HTML.
    return text.replace("<", "&lt;")


def _sections(bundle: Bundle) -> dict[str, list[str]]:
    return {
        f"Model card: {bundle.name}": _what(bundle),
        "Intended use": [USE],
        "Data": _data(bundle),
        "Recipe": _recipe(bundle),
        "Accuracy": _accuracy(bundle),
        "Quality score": _quality(bundle),
        "Limits": [f"* {line}" for line in _limits(bundle)],
        "Licence": _licence(bundle),
        "Files": _files(bundle),
    }


def _what(bundle: Bundle) -> list[str]:
    structures = [name for name, value in bundle.labels.items() if value]
    kinds = dict.fromkeys(ARCHITECTURES.get(member.architecture, member.architecture) for member in bundle.members)
    count = len(bundle.members)
    plans = [bundle.plans[member.plan] for member in bundle.members]
    parameters = ", ".join(dict.fromkeys(f"{plan.parameters / 1e6:.2f} M" for plan in plans))
    spacings = ", ".join(dict.fromkeys(f"{plan.spacing[0]:g} x {plan.spacing[1]:g} mm" for plan in plans))
    images = 2 ** len(bundle.flips) * len(bundle.views)
    averaged = (
        f" Each slice is seen in {images} views (mirrored, turned or zoomed), and the results are averaged."
        if images > 1
        else ""
    )
    return [
        f"Segments {', '.join(structures)} on short-axis cine-MRI, slice by slice: the mean of {count}"
        f" {' and '.join(kinds)} network{'s' if count > 1 else ''} ({parameters} weights each) on pixels of {spacings}."
        f"{averaged} Postprocessing: {bundle.postprocessing}.",
        "",
        f"Made {bundle.created} with cardiac_autoseg {bundle.version}. {USE.split('. ')[0]}.",
    ]


def _data(bundle: Bundle) -> list[str]:
    data = bundle.training_data
    lines = [ACDC["what"], ""] if _is_acdc(bundle) else []
    counts = ", ".join(f"{data[name]} {name}" for name in ("cases", "subjects") if name in data)
    lines.append(
        f"Trained on {data.get('dataset', 'an unnamed data set')}: {counts or 'size not recorded'}, labels of"
        f" {data.get('source', 'an unnamed source')!r}{' (SIMULATED)' if data.get('simulated') else ''}."
    )
    folds = dict.fromkeys(member.fold for member in bundle.members)
    if set(folds) - {"all"}:
        lines.append("Each network was trained without the patients of its own fold, on which it was scored.")
    if data.get("note"):
        lines.append(f"Note on the labels: {data['note']}.")
    if data.get("spacing_mm"):
        ranges = ", ".join(f"{axis} {low:.3g} to {high:.3g}" for axis, (low, high) in data["spacing_mm"].items())
        lines.append(f"Spacing of the scans, mm: {ranges} (z: between slices).")
    if _is_acdc(bundle):
        lines += ["", f"Licence of the data: {ACDC['licence']}. Cite: {ACDC['cite']}."]
    return lines


def _recipe(bundle: Bundle) -> list[str]:
    plans = {member.plan: bundle.plans[member.plan] for member in bundle.members}.values()
    lines = []
    for plan in plans:
        name, widths = ARCHITECTURES.get(plan.architecture, plan.architecture), ", ".join(map(str, plan.network.widths))
        low, high = plan.clip_percentiles
        lines.append(
            f"* {name}, feature maps {widths}; patches of {plan.patch[0]} x {plan.patch[1]} pixels, {plan.batch} a step;"
            f" learning rate {plan.learning_rate:g}; {plan.gflops_per_slice:.2f} GFLOP a patch; each volume's intensities"
            f" are cut at its percentiles {low:g} and {high:g} and scaled to 0 … 1."
        )
    losses, seeds = (sorted({getattr(member, name) for member in bundle.members}) for name in ("loss", "seed"))
    folds = sorted({member.fold for member in bundle.members})
    lines.append(f"* Loss {', '.join(losses)}; folds {', '.join(folds)}; seeds {', '.join(map(str, seeds))}.")
    recipe = bundle.card.get("recipe")
    if not recipe:
        return [*lines, "* Steps, augmentation, hardware and time were not recorded."]
    machines = "; ".join(
        f"{item['name']} ({item['device']}, {item['threads']} threads, PyTorch {item['torch']})"
        for item in recipe["hardware"]
    )
    hours = recipe["seconds"] / 3600
    lines += [
        f"* {_cell(recipe['steps'])} steps; {recipe['optimiser']}, weight decay {_cell(recipe['weight_decay'])}.",
        f"* Augmentation: {', '.join(name.replace('_', ' ') for name in recipe['augmentation']) or 'none'}.",
        *(f"* Changed from the plan's recipe: {change}." for change in recipe["overrides"]),
        f"* Cost: {hours:.1f} h of training in all ({recipe['networks']} networks) on {machines}. Energy was not measured.",
    ]
    return lines


def _accuracy(bundle: Bundle) -> list[str]:
    scores = bundle.card.get("scores")
    if not scores:
        dice = bundle.scores.get("mean_dice")
        known = "" if dice is None else f"Mean cross-validated Dice {dice:.3f}, as the ensemble was chosen by it. "
        return [f"{known}No scores by structure, phase and group are recorded with it."]
    lines = [
        *([scores["note"], ""] if scores["note"] else []),
        f"On {scores['cases']} frames of {scores['patients']} patients that the networks had not seen (cross-validation),"
        f" against {scores['reference']!r}: mean Dice {scores['mean_dice']:.4f}. A choice among models by the same patients"
        " makes this a little optimistic.",
        "",
        *_structure_table(scores["structures"]),
    ]
    if scores["groups"]:
        lines += ["", "By group of patients: mean Dice / HD95 in mm.", "", *_group_table(scores["groups"])]
    title = "Clinical indices, prediction less reference: bias and 95 % limits of agreement."
    return [*lines, "", title, "", *_index_table(scores["indices"])]


def _structure_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ["structure", "phase", "n", "missed", "Dice", "SD", "HD95 mm"]
    numbers = [(_number(row["dice_mean"], 3), _number(row["dice_sd"], 3), _number(row["hd95_mean"], 1)) for row in rows]
    words = [(row["structure"], row["phase"], row["n"], row["n_missed"]) for row in rows]
    return _table(header, [(*left, *right) for left, right in zip(words, numbers, strict=True)])


def _group_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys((row["structure"], row["phase"]) for row in rows))
    cells = {
        (row["group"], row["structure"], row["phase"]): f"{_number(row['dice_mean'], 3)} / {_number(row['hd95_mean'], 1)}"
        for row in rows
    }
    groups = list(dict.fromkeys(row["group"] for row in rows))
    body = [[group, *(cells.get((group, *column), "-") for column in columns)] for group in groups]
    return _table(["group", *(" ".join(column) for column in columns)], body)


def _index_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    header = ["index", "unit", "group", "n", "bias", "limits", "mean absolute error"]
    limits = [f"{_number(row['loa_low'], 1)} … {_number(row['loa_high'], 1)}" for row in rows]
    words = [(row["index"], row["unit"], row["group"], row["n"], _number(row["bias"], 1)) for row in rows]
    errors = [_number(row["mae"], 1) for row in rows]
    return _table(header, [(*left, middle, right) for left, middle, right in zip(words, limits, errors, strict=True)])


def _quality(bundle: Bundle) -> list[str]:
    quality = bundle.card.get("quality")
    if not quality:
        return []
    lines = [
        "How well the quality score of a case tells its Dice, on patients that neither the networks nor the score had seen:",
        "",
    ]
    for name, value in quality.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = [[_cell(row.get(key)) for key in value[0]] for row in value]
            lines += ["", f"{_words(name)}:", "", *_table([_words(key) for key in value[0]], rows), ""]
        else:
            lines.append(f"* {_words(name)}: {_cell(value)}")
    return lines


def _limits(bundle: Bundle) -> list[str]:
    lying = (
        "Images are turned to lie as the training scans did, by their header or by what the networks recognise; where both"
        " fail, the segmentation does."
        if bundle.orientation
        else "Hearts must lie as in the training scans: mirrored or turned images are segmented worse."
    )
    return [*LIMITS, lying, *([ACDC["limits"]] if _is_acdc(bundle) else [])]


def _licence(bundle: Bundle) -> list[str]:
    terms = bundle.licence or "not recorded: ask its maker before you pass it on"
    derived = (
        " The weights are derived from ACDC and are under its terms: attribution, no commercial use, share alike."
        if _is_acdc(bundle)
        else ""
    )
    apart = "The code of cardiac_autoseg is under the Apache License 2.0, which does not extend to them."
    return [f"Weights: {terms}.{derived} {apart}"]


def _files(bundle: Bundle) -> list[str]:
    rows = [[member.file, f"`{member.sha256}`"] for member in bundle.members if member.file]
    return _table(["file", "SHA-256"], rows) if rows else []


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows)
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *cells)]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:z.{digits}f}"


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
