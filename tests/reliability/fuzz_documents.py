"""A valid document for every reader of JSON, and the reader, with what is done first with what it returns."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from cardiac_autoseg.annotation.profile import read_profile
from cardiac_autoseg.bundle import file_names, read_bundle
from cardiac_autoseg.comparison import margins
from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source, load_dataset
from cardiac_autoseg.data.nnunet import read_description
from cardiac_autoseg.data.parsing import class_values, values_beside
from cardiac_autoseg.data.volume import Geometry, write_labels
from cardiac_autoseg.delivery.outputs import Wanted, done
from cardiac_autoseg.delivery.record import index_row, read_records, write_table
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, StructureScore
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.files import hash_json, read_json, write_json_if_changed
from cardiac_autoseg.inference.external import is_scored
from cardiac_autoseg.inference.finished import _finished
from cardiac_autoseg.model_card import model_card
from cardiac_autoseg.preprocessing.identity import FileHashes
from cardiac_autoseg.preprocessing.prepare import load_fingerprint
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.report import tables, words
from cardiac_autoseg.report.build import _fingerprint as _fingerprint_table
from cardiac_autoseg.report.case_index import write_case_index
from cardiac_autoseg.report.collect import Evaluated, _result, read_bundle_record, read_checked
from cardiac_autoseg.report.runs import describe_workspace, read_run
from cardiac_autoseg.scale import estimate
from cardiac_autoseg.scale.devices import Slot
from cardiac_autoseg.scale.matrix import last_step
from cardiac_autoseg.training.inputs import load_plan, load_splits
from cardiac_autoseg.training.progress import curve
from cardiac_autoseg.training.record import cut_log, open_record, read_log
from cardiac_autoseg.trust.trust import Trust
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.fingerprint import CaseMeasurement, SourceMeasurement, build_fingerprint
from planning.plan import describe_plan
from planning.planner import RULES, make_plan
from planning.splits import make_splits

KEY = RunKey("unet", "expert", "ce_dice", "0", 0)
GEOMETRY = Geometry((2, 2, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
VALUES = {value: name for name, value in LABELS.items()}


@dataclass(frozen=True)
class Document:
    """``valid`` JSON, where it lies below a workspace, and what reads it there: raises UserError, or succeeds."""

    path: str
    valid: Any
    read: Callable[[Workspace], object]
    lines: bool = False
    """One document a line, as in ``log.jsonl``."""


def dataset() -> Dataset:
    cases = tuple(
        Case(f"p{n}_{phase}", f"p{n}", f"i/p{n}.nii.gz", n, phase, n, "NOR", 170.0, 70.5, {"expert": LabelRef("l.nii", n)})
        for n in range(5)
        for phase in ("ED", "ES")
    )
    return Dataset("demo", cases, {"expert": Source(VALUES), "novice": Source(VALUES, True, "drawn", "")})


def _evaluation() -> Any:
    results = []
    for case in dataset().cases:
        size = 100.0 if case.phase == "ED" else 45.0
        scores = [StructureScore(name, 0.9, 5.0, 2.0, 1.0, False, size + len(case.id), size) for name in ("RV", "MYO", "LV")]
        results.append(CaseResult(CaseMeta(case.id, case.subject, case.phase, case.group), tuple(scores), ()))
    return dataclasses.replace(summarise(results), reference="expert").to_json()


def _record() -> Any:
    number = {"value": 55.0, "unit": "%", "interval_90": [50.0, 60.0]}
    finding = {"code": "noise", "severity": "warning", "text": "noisy", "frame": 1, "slice": None}
    quality = {"dice": 0.9, "low": 0.8, "high": 0.95, "score": 90.0, "suspect": False, "by_class": {"LV": 0.9}}
    return {
        **{"format": "cardiac_autoseg case", "format_version": 1, "name": "a", "status": "ok", "shape": [2, 3, 4, 5]},
        **{"ed_frame": 1, "es_frame": None, "heart_rate": 60.5, "numbers": {"LV_EF": number}, "quality": quality},
        **{"findings": [finding], "notes": ["x"], "bytes": {"a.html": 0}, "thumbnail": "data:image/png;base64,AAAA"},
    }


def _fingerprint() -> Any:
    drawn = SourceMeasurement(5, dict.fromkeys(("RV", "MYO", "LV"), 90.0), (80.0, 90.0), (1.0,) * 7, 99.0)
    cases = [
        CaseMeasurement(case.id, (8, 200, 210), (10.0, 1.4, 1.5), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), {"expert": drawn})
        for case in dataset().cases
    ]
    subjects = {case.id: case.subject for case in dataset().cases}
    return build_fingerprint("demo", tuple(LABELS), cases, subjects, "0" * 16)


def _use_plan(workspace: Workspace) -> None:
    plan = load_plan(workspace, "unet")
    describe_plan(plan)
    RULES[plan.architecture].count(plan.network, plan.patch, len(plan.classes))
    plan.hash()


def _use_bundle(workspace: Workspace) -> None:
    record = read_bundle_record(workspace.model("m"))
    tables.combination_table(record)
    bundle = read_bundle(workspace.model("m"))
    file_names(bundle)
    model_card(bundle)


def _use_trust(workspace: Workspace) -> None:
    from cardiac_autoseg.errors import UserError

    try:
        trust = Trust.from_json(read_json(workspace.root / "quality.json"))
    except ValueError as error:  # as load_trust does
        raise UserError(str(error)) from error
    trust.quality.predict(dict.fromkeys(trust.quality.features, 0.5))
    trust.intervals.predict({"LV_EF": 50.0, "LV_EDV": 140.0}, {"LV_EF": (1.0, 2.0, 3.0), "LV_EDV": (1.0, 1.0, 1.0)})
    trust.domain.distances({"slices": 10.0, "pixel": 1.0})


def _use_run(workspace: Workspace) -> None:
    folder = workspace.run(KEY)
    state = read_run(KEY, folder)
    json.dumps(state.to_json())
    _finished(KEY, folder, make_splits({f"p{n}": None for n in range(5)}), lambda _: None)
    open_record(folder, {"steps": 100, "plan_hash": "0"})


def _use_log(workspace: Workspace) -> None:
    folder = workspace.run(KEY)
    for name in ("loss", "dice", "val_dice", "lr"):
        curve(read_log(folder), name)
    last_step(folder)
    cut_log(folder / "log.jsonl", 2)


def _use_records(workspace: Workspace) -> None:
    records = read_records(workspace.root)
    write_case_index(workspace.root / "index.html", "t", [index_row(record, f"{record['stem']}.html") for record in records])
    write_table(workspace.root / "t.csv", records)


def _use_done(workspace: Workspace) -> None:
    (workspace.root / "a.html").touch()
    write_labels(workspace.root / "a.nii.gz", np.zeros((1, 2, 2), np.uint8), GEOMETRY)
    done(workspace.root, "a", Wanted(slicer=True))


def _use_evaluation(workspace: Workspace) -> None:
    path = workspace.root / "evaluation.json"
    result = _result([Evaluated("m", path, read_checked(path))], dataset(), False)
    for row in tables.limited(result):
        words.agreement_sentence(row)
    for name in ("LV", "RV"):
        words.structure_sentence(name, result.evaluation.summary)
    tables.accuracy_table(result), tables.agreement_table(result), tables.reclassification_tables(result)
    tables.level_table(result, dataset()), tables.comparison_table([result, result], dataset())


def _use_speeds(workspace: Workspace) -> None:
    (workspace.root / "plans").mkdir(exist_ok=True)
    plan = make_plan(_fingerprint(), "unet", "cpu", 8.0, 2.0)
    with mock.patch.object(estimate, "measure_speed", return_value=9.5):
        estimate.find_speed(workspace, plan, make_splits({f"p{n}": None for n in range(5)}), Slot("cpu", 1))


def _use_store(workspace: Workspace) -> None:
    store = PreprocessedStore(workspace)
    if store.has("p0_ED", "expert"):
        store.spacing("p0_ED")
        store.data_hash(["p0_ED"], "expert")


def documents(bundle: Path, quality: Path) -> dict[str, Document]:
    """All of them by name; ``bundle`` and ``quality`` are a ``bundle.json`` and a ``quality.json``."""
    fingerprint = _fingerprint()
    plan = make_plan(fingerprint, "unet", "cpu", 8.0, 2.0)
    enet = make_plan(fingerprint, "enet", "cpu", 8.0, 2.0)
    trust = json.loads(quality.read_text())
    for item in trust["quality"]["classes"].values():
        item.update({name: item[name][:2] for name in ("features", "thresholds", "leaves")})
    run = {
        **{"format_version": 1, "status": "done", "step": 100, "steps": 100, "val_dice": 0.9, "slices_per_second": 9.5},
        **{"seconds": {"train": 60.0}, "hardware": {"device": "cpu", "host": "h"}, "pid": 1, "plan_hash": "0"},
        **{"recipe": {"policy": {"mirror_probability": [0.0, 0.5]}}, "updated": "2024-01-01T00:00:00+00:00", "error": ""},
    }
    folder = f"runs/{KEY.architecture}/{KEY.gt}/{KEY.loss}/fold_0/seed_0"
    log = [{"step": n, "loss": 0.5, "dice": 0.5, "lr": 0.001, "val_dice": 0.8} for n in range(1, 4)]
    declared = {"format_version": 1, "declared": "2024-01-01T00:00:00+00:00", "margins": {"dice": 0.02, "LV_EF": 3}}
    declared |= {"hash": "0", "history": [{"margins": {"dice": 1.0}, "declared": "", "hash": "0", "edited": False}]}
    key = {
        "image": "0",
        "labels": {"expert": "0"},
        "original_spacing": [1, 1, 1],
        "original_shape": [1, 1, 1],
        "shape": [1, 1, 1],
    }
    store = {"format_version": 1, "spacing": [1.5, 1.5], "clip_percentiles": [0.5, 99.5], "cases": {"p0_ED": key}}
    speeds = {"format_version": 1, "unet, 1 thread": {"slices_per_second": 9.5, "plan_hash": plan.hash()}}
    profile = {"name": "x", "endocardium_mm": 1.0, "polygon_vertices": 8, "slip": 0.1, "papillary_share": 0.5}

    def read(path: str, reader: Callable[[Path], object]) -> Callable[[Workspace], object]:
        return lambda workspace: reader(workspace.root / path)

    plain = json.loads(json.dumps(dataclasses.asdict(dataset()) | {"format_version": 1}))
    return {
        "index": Document("dataset.json", plain, lambda w: load_dataset(w.dataset).labelled("expert")),
        "status": Document("dataset.json", plain, describe_workspace),
        "fingerprint": Document("fingerprint.json", fingerprint.to_json(), lambda w: load_fingerprint(w).hash()),
        "fingerprint table": Document("fingerprint.json", fingerprint.to_json(), _fingerprint_table),
        "plan of a U-Net": Document("plans/unet.json", plan.to_json(), _use_plan),
        "plan of an ENet": Document("plans/unet.json", enet.to_json(), _use_plan),
        "folds": Document(
            "splits.json", make_splits({f"p{n}": None for n in range(7)}).to_json(), lambda w: load_splits(w).hash()
        ),
        "bundle": Document("models/m/bundle.json", json.loads(bundle.read_text()), _use_bundle),
        "trust": Document("quality.json", trust, _use_trust),
        "run": Document(f"{folder}/run.json", run, _use_run),
        "log": Document(f"{folder}/log.jsonl", log, _use_log, lines=True),
        "test set of a run": Document(
            f"{folder}/test_x/about.json", {"identity": "0", "done": True}, lambda w: is_scored(w, w.run(KEY), "x")
        ),
        "case": Document("a.json", _record(), _use_records),
        "case done": Document("a.json", _record(), _use_done),
        "evaluation": Document("evaluation.json", _evaluation(), _use_evaluation),
        "margins": Document("margins.json", declared, read("margins.json", margins.load)),
        "margins to declare": Document(
            "m.json", {"margins": {"dice": 0.02}}, lambda w: margins.redeclare(w.margins, w.root / "m.json")
        ),
        "speeds": Document("speeds.json", speeds, _use_speeds),
        "profile": Document("p.json", profile, read("p.json", read_profile)),
        "store": Document("preprocessed/index.json", store, _use_store),
        "hashes of files": Document(
            "files.json",
            {"format_version": 2, "files": {"/etc/hostname": [1, 2, 3, "0"]}},
            lambda w: FileHashes(w.root / "files.json")(Path("/etc/hostname")),
        ),
        "labels.json": Document("labels.json", {"1": "RV", "2": "MYO", "3": "LV"}, lambda w: values_beside([w.root])),
        "nnU-Net": Document(
            "n.json",
            {"labels": {"background": 0, "RV": 1}, "file_ending": ".nii.gz", "name": "x"},
            lambda w: class_values(read_description(w.root / "n.json")["labels"], w.root),
        ),
        "any JSON": Document("x.json", {"a": [1, 2.5, None, True, "x", {}]}, _use_any),
    }


def _use_any(workspace: Workspace) -> None:
    values = read_json(workspace.root / "x.json")
    hash_json(values)
    write_json_if_changed(workspace.root / "x.json", values)
