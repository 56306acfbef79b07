"""Writing the files of a case: labels, record, page, and DICOM objects where the scan came as DICOM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cardiac_autoseg.data.identifiers import unquoted
from cardiac_autoseg.data.label_tables import write_itksnap_labels, write_slicer_colors, write_slicer_segmentation
from cardiac_autoseg.delivery.case import CaseResult
from cardiac_autoseg.delivery.inputs import INDEX, Input
from cardiac_autoseg.delivery.outputs import Wanted
from cardiac_autoseg.delivery.privacy import public
from cardiac_autoseg.delivery.record import case_record, index_row, read_records, write_table
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.clinical import unit
from cardiac_autoseg.evaluation.reference_ranges import for_index
from cardiac_autoseg.files import atomic_path, write_json
from cardiac_autoseg.report.case_images import thumbnail
from cardiac_autoseg.report.case_index import IndexRow, write_case_index
from cardiac_autoseg.report.case_page import CasePage, NumberRow, PageFinding, write_case_page
from cardiac_autoseg.report.words import index_name
from cardiac_autoseg.trust.temperature import apply_temperature

TABLE, ITKSNAP, SLICER = "measurements.csv", "labels_itksnap.txt", "labels_slicer.ctbl"


def write_probabilities(path: Path, probabilities: np.ndarray, temperature: float) -> None:
    """Write probabilities (C, …) as a compressed npz, calibrated by ``temperature``."""
    calibrated = apply_temperature(probabilities.astype(np.float32), temperature).astype(np.float16)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, probabilities=calibrated)


def write_case(folder: Path, result: CaseResult, model: str, licence: str, wanted: Wanted, item: Input) -> set[str]:
    """Write all files of a case but the labels; their names. ``item`` says what must not be in them.

    DICOM objects that cannot be made, for whatever the source lacks, leave a note on the page.
    """
    scan, name, numbers = result.scan, result.scan.name, result.numbers
    links = {"Labels (NIfTI)": f"{name}.nii.gz"}
    ends = {phase: frame for phase, frame in (("ED", numbers.ed), ("ES", numbers.es)) if frame is not None}
    if wanted.slicer:
        for phase, frame in (ends or ({"": 0} if scan.frames == 1 else {})).items():
            file = f"{name}_{phase}.seg.nrrd" if phase else f"{name}.seg.nrrd"
            write_slicer_segmentation(folder / file, result.labels[frame], scan.geometry, result.names)
            links[f"{phase or 'Labels'} (3D Slicer)"] = file
    if wanted.dicom and scan.instances:
        try:
            _write_dicom(folder, result, model, links, item.keep)
        except OSError:
            raise
        except Exception as error:  # there is no end to what a study can lack, and the labels are good without
            why = public(item, str(error) if isinstance(error, UserError) else unquoted(error))
            note = f"not all DICOM objects could be written ({why})"
            result = dataclasses.replace(result, scan=dataclasses.replace(scan, notes=(*scan.notes, note)))
    links["Numbers (JSON)"] = f"{name}.json"
    picture = thumbnail(scan.array, result.labels, scan.geometry.spacing_zyx, result.names, ends.get("ED", 0))
    write_case_page(folder / f"{name}.html", _page(result, links, model, licence))
    written = {f"{name}.html", *links.values()}
    # By their sizes, files that were cut short later are known; the JSON and the labels tell that themselves.
    others = sorted(written - {links["Labels (NIfTI)"], links["Numbers (JSON)"]})
    sizes = {"bytes": {file: (folder / file).stat().st_size for file in others}}
    write_json(folder / f"{name}.json", case_record(result, model, picture, item.keep) | sizes)
    return written


def _write_dicom(folder: Path, result: CaseResult, model: str, links: dict[str, str], keep: bool) -> None:
    """SEG of all frames and, where there is a beat to report, SR; each that is written is added to the links."""
    from cardiac_autoseg.data.dicom_seg import write_seg  # highdicom, which only DICOM input needs
    from cardiac_autoseg.data.dicom_sr import write_sr

    scan, numbers = result.scan, result.numbers
    seg = folder / f"{scan.name}_seg.dcm"
    write_seg(seg, scan, result.labels, result.names, description=f"{model}, research only"[:64], keep=keep)
    links["Segmentation (DICOM SEG, names the patient)"] = seg.name
    if scan.frames > 1:
        # Viewers that know no time in a SEG show one frame of it: these have no more than one.
        for phase, frame in (("ED", numbers.ed), ("ES", numbers.es)):
            if frame is not None:
                one = folder / f"{scan.name}_seg_{phase}.dcm"
                words = f"{phase}, {model}"[:64]
                write_seg(one, scan, result.labels, result.names, frames=[frame], description=words, keep=keep)
                links[f"{phase} segmentation (DICOM SEG, names the patient)"] = one.name
    if numbers.ed is not None and numbers.es is not None:
        report = folder / f"{scan.name}_sr.dcm"
        flags = [item.text for item in result.findings if item.severity == "warning"]
        write_sr(
            report,
            scan,
            numbers.values,
            numbers.ed,
            numbers.es,
            intervals=result.intervals,
            flags=flags,
            seg_path=seg,
            description=model,
            keep=keep,
        )
        links["Measurements (DICOM SR, names the patient)"] = report.name


def _page(result: CaseResult, links: Mapping[str, str], model: str, licence: str) -> CasePage:
    scan, numbers, quality = result.scan, result.numbers, result.quality
    rows, sources = [], []
    for name, value in numbers.values.items():
        usual = for_index(name, scan.person.sex)
        if usual is not None:
            sources.append(usual.source)
        rows.append(
            NumberRow(
                name,
                index_name(name),
                value,
                unit(name),
                result.intervals.get(name),
                None if usual is None else (usual.low, usual.high),
            )
        )
    return CasePage(
        name=scan.name,
        description=scan.description,
        image=scan.array,
        labels=result.labels,
        spacing=scan.geometry.spacing_zyx,
        names=result.names,
        times_ms=scan.times_ms,
        volumes=numbers.volumes,
        ed=numbers.ed,
        es=numbers.es,
        numbers=tuple(rows),
        quality=None if quality is None else (quality.dice, quality.low, quality.high, quality.score),
        findings=tuple(PageFinding(item.severity, item.text, item.frame, item.slice) for item in result.findings),
        notes=result.notes,
        links=links,
        model=model,
        licence=licence,
        reference_source="; ".join(dict.fromkeys(sources)),
    )


def write_folder(folder: Path, names: Mapping[str, int], failed: Mapping[str, str]) -> None:
    """What is about all cases of a folder: index page, table, and label names for ITK-SNAP and 3D Slicer.

    ``failed`` maps the names of cases that could not be done to the reason.
    """
    records = [record for record in read_records(folder, lean=True) if record["name"] not in failed]
    rows = [
        index_row(record, f"{record['stem']}.html" if (folder / f"{record['stem']}.html").is_file() else None)
        for record in records
    ]
    rows += [IndexRow(name, None, "failed", findings=reason) for name, reason in failed.items()]
    if rows:
        write_case_index(folder / INDEX, folder.resolve().name, rows)
    if records:
        write_table(folder / TABLE, records)
    write_itksnap_labels(folder / ITKSNAP, names)
    write_slicer_colors(folder / SLICER, names)
