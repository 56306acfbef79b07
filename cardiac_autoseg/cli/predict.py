"""``cas_predict``: from scans to segmentations, clinical numbers and pages."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from cardiac_autoseg.bundle import Bundle
    from cardiac_autoseg.delivery.inputs import Input
    from cardiac_autoseg.delivery.outputs import Wanted
    from cardiac_autoseg.delivery.people import Given
    from cardiac_autoseg.delivery.pipeline import Request, Result
    from cardiac_autoseg.delivery.place import Place


WHICH = "(--names FILE writes which is which, --keep-identifiers leaves their names)"
PATIENT = "the .dcm files name the patient, as archives need it: leave them out of what you pass on (--no-dicom makes none)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_predict``."""
    parser = common.make_parser(
        "Segment short-axis cine-MRI: NIfTI files (3D or 4D) and DICOM studies. For each scan: the labels in its own"
        " geometry, the clinical numbers, how far to trust them, and a page to look at; for DICOM also SEG and SR objects."
        " index.html lists all cases. Cases whose outputs are there are skipped, so the same command goes on where a stopped"
        " one left off. For research only: not a medical device."
    )
    parser.add_argument(
        "-i", "--input", nargs="+", required=True, metavar="IN",
        help="NIfTI files, folders of them, DICOM studies (folder or .zip), or globs in quotes; also as URLs, such as"
        " 's3://bucket/scans/*.nii.gz' (docs/remote.md)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the results, or its URL")
    parser.add_argument(
        "--model", metavar="BUNDLE",
        help="bundle: folder, .zip, or name; without it the workspace's only one or the one called best, else the one that"
        " comes with the package",
    )  # fmt: skip
    parser.add_argument(
        "--series", metavar="NUMBER", help="the DICOM series to take (number or UID), where several could be meant"
    )
    person = parser.add_argument_group("what the files do not say (for a single case; for more, a table)")
    person.add_argument("--ed", type=common.at_least(1), metavar="FRAME", help="end-diastole, counted from 1")
    person.add_argument("--es", type=common.at_least(1), metavar="FRAME", help="end-systole, counted from 1")
    person.add_argument("--heart-rate", metavar="BPM", help="beats per minute")
    person.add_argument("--sex", metavar="M|F", help="for the reference ranges")
    person.add_argument("--height", metavar="CM", help="with the weight, for values per body surface area")
    person.add_argument("--weight", metavar="KG")
    person.add_argument(
        "--people", metavar="CSV", help="table with the columns case, sex, age, height_cm, weight_kg, heart_rate, ed, es"
    )
    what = parser.add_argument_group("what to write")
    what.add_argument("--labels-only", action="store_true", help="labels, and nothing else")
    what.add_argument("--no-dicom", action="store_true", help="no DICOM objects, whatever the input")
    what.add_argument("--slicer", action="store_true", help="also ED and ES as <name>_ED.seg.nrrd for 3D Slicer")
    what.add_argument(
        "--save-probabilities",
        action="store_true",
        help="also <name>.npz: calibrated probabilities (classes, [frames,] Z, Y, X) float16",
    )
    what.add_argument("--json", action="store_true", help="print the results as JSON, progress to stderr")
    privacy = parser.add_argument_group("who was scanned (docs/privacy.md)")
    privacy.add_argument(
        "--keep-identifiers",
        action="store_true",
        help="leave in the results what says who was scanned; without it this is hidden",
    )
    privacy.add_argument("--names", metavar="CSV", help="write which input each case is, for yourself: not into the results")
    parser.add_argument("--fast", action="store_true", help="one network instead of all, and each slice as it is")
    parser.add_argument("--overwrite", action="store_true", help="predict again where outputs are there")
    common.add_cluster(parser, "scans")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; without it a GPU where there is one")
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from pathlib import Path

    with common.loading():
        from cardiac_autoseg.bundle import read_bundle
        from cardiac_autoseg.data.remote import any_path, is_url
        from cardiac_autoseg.delivery.inputs import find_inputs, keep_inputs
        from cardiac_autoseg.delivery.outputs import Wanted
        from cardiac_autoseg.delivery.people import given_for
        from cardiac_autoseg.delivery.place import opened
        from cardiac_autoseg.delivery.privacy import with_identity, write_names
        from cardiac_autoseg.errors import UserError
        from cardiac_autoseg.inference.model_store import find_bundle

    output = any_path(values.output)
    if output.exists() and not output.is_dir():
        raise UserError(f"-o {output} is a file: name a folder")
    if values.labels_only and values.slicer:
        raise UserError("--labels-only leaves out what --slicer asks for: give one of them")
    items = with_identity(find_inputs(values.input, output), values.keep_identifiers)
    keep_inputs(items, output)
    called = {item.called: item.name for item in items if item.called}
    given = given_for([item.name for item in items], values.people, _single(values), called)
    if values.names and is_url(values.names):
        raise UserError(f"--names {values.names} is a URL: the table is for yourself alone, name a local file")
    if values.names:
        write_names(Path(values.names).expanduser(), items, output)
    elif called:
        _say(
            values,
            f"{len(called)} of {len(items)} scans are called after the patient: their results are called case_…\n{WHICH}",
        )
    wanted = Wanted(not values.labels_only, not values.no_dicom, values.slicer, values.save_probabilities)
    path = find_bundle(common.workspace_or_none(values.workspace), values.model)
    bundle = read_bundle(path)
    # Two at once would mix two models' results; who waits finds done what the other did.
    with opened(output, [item.name for item in items], partial(_say, values)) as place:
        return _into_folder(values, place, path, bundle, items, wanted, given)


def _into_folder(
    values: argparse.Namespace,
    place: Place,
    path: Path,
    bundle: Bundle,
    items: list[Input],
    wanted: Wanted,
    given: dict[str, Given],
) -> int:
    """Predict what is not done yet into a folder that is ours alone."""
    from cardiac_autoseg.delivery.claim import claim_folder
    from cardiac_autoseg.delivery.inputs import RECORD
    from cardiac_autoseg.delivery.outputs import done
    from cardiac_autoseg.errors import UserError

    todo = [item for item in items if values.overwrite or not done(place.folder, item.name, wanted)]
    model = claim_folder(place.folder, bundle, values.fast, [item for item in items if item not in todo])
    place.send(RECORD)
    if len(todo) < len(items):
        skipped = len(items) - len(todo)
        _say(values, f"{skipped} of {len(items)} scans are done in {place.shown}: skipped (redo them with --overwrite)")
    failed: dict[str, str] = {}
    try:
        if todo:
            _predict(values, path, model, place, todo, wanted, given, failed)
    except (KeyboardInterrupt, OSError):
        # The disk, perhaps: what can be written is.
        with suppress(OSError, UserError):
            if wanted.pages:
                _write_folder(values, place, bundle.labels, failed)
        raise
    if wanted.pages:
        _write_folder(values, place, bundle.labels, failed)
    if wanted.pages and wanted.dicom and any(item.dicom for item in items):
        _say(values, PATIENT)
    if values.json:
        _print_json(place.folder if wanted.pages else None, items, failed)
    if len(failed) == len(items):
        return common.USER_ERROR
    return common.SOME_FAILED if failed else common.OK


def _predict(
    values: argparse.Namespace,
    path: Path,
    model_hash: str,
    place: Place,
    todo: list[Input],
    wanted: Wanted,
    given: dict[str, Given],
    failed: dict[str, str],
) -> None:
    """Predict what is to be done; the names of the cases that fail, and why, are added to ``failed``."""
    from time import perf_counter

    with common.loading():
        from cardiac_autoseg.cluster.journal import kept_journal
        from cardiac_autoseg.delivery.pipeline import FIRST_SLICE, Request
        from cardiac_autoseg.delivery.privacy import shown

    start = perf_counter()
    request = Request(
        bundle=str(path),
        model_hash=model_hash,
        folder=place.folder,
        wanted=wanted,
        fast=values.fast,
        device=values.device,
        anew=values.overwrite,
        given=given,
        series=values.series,
        remote=place.remote,
    )
    seconds: dict[str, float] = {}
    with kept_journal(place, bool(values.cluster)) as note:

        def tell(line: str) -> None:
            _say(values, line)
            note(line)

        results = (_on_cluster if values.cluster else _here)(values, request, todo, seconds, tell)
        for number, result in enumerate(results, start=1):
            head = f"[{number}/{len(todo)}] {shown(result.item)}"
            if result.problem:
                failed[result.item.name] = result.problem
                note(f"{head}: FAILED. {result.problem}")
                # Here with the folders above it, so that it is found.
                head = head if result.item.called else f"[{number}/{len(todo)}] {result.item.path}"
                common.tell(f"{head}: FAILED. {result.problem}")
            else:
                found = f"; {result.words}" if result.words else ""
                tell(f"{head}: {' x '.join(map(str, result.shape))}, {result.seconds:.2f} s{found}")
    took = perf_counter() - start
    first = seconds.pop(FIRST_SLICE, None)
    _say(
        values, f"\n{len(todo) - len(failed)} predicted into {place.shown}, {len(failed)} failed, in {took:.1f} s; by stage:"
    )
    for stage, spent in seconds.items():
        _say(values, f"  {stage:<12} {spent:8.2f} s   {spent / len(todo):.3f} s a scan")
    if first is not None:
        _say(values, f"the first slice was through a network {first:.2f} s after the launch")


def _here(
    values: argparse.Namespace, request: Request, todo: list[Input], seconds: dict[str, float], say: Callable[[str], None]
) -> Iterator[Result]:
    """Predict in this process."""
    from time import perf_counter

    with common.loading():
        from cardiac_autoseg.delivery.pipeline import deliver, load_job
        from cardiac_autoseg.inference.predictor import flip_axes

        start = perf_counter()
        job = load_job(request)
    model = job.model
    images = len(flip_axes(model.flips)) * len(model.views)
    say(f"model {request.bundle}: {len(model.bundle.members)} network(s), {images} view(s) of each slice, on {model.device}")
    if request.wanted.probabilities:
        classes = sorted(model.labels, key=lambda name: model.labels[name])
        say(f"classes of the probabilities: {', '.join(classes)}")
    if job.trust is None and request.wanted.pages:
        why = "--fast leaves no second opinion" if values.fast else "this model brings nothing to judge its results with"
        say(f"{why}: no quality score and no intervals")
    seconds["load model"] = perf_counter() - start
    yield from deliver(job, todo, seconds)


def _on_cluster(
    values: argparse.Namespace, request: Request, todo: list[Input], seconds: dict[str, float], say: Callable[[str], None]
) -> Iterator[Result]:
    """Predict on the machines of a cluster."""
    from cardiac_autoseg.cluster.connect import connected
    from cardiac_autoseg.cluster.predict import deliver_on_cluster

    with connected(values.cluster) as ray:
        say(f"model {request.bundle}, on the cluster {values.cluster}")
        yield from deliver_on_cluster(ray, request, todo, seconds, say)


def _write_folder(values: argparse.Namespace, place: Place, labels: dict[str, int], failed: dict[str, str]) -> None:
    """What is about all cases of the folder."""
    from cardiac_autoseg.delivery.inputs import INDEX
    from cardiac_autoseg.delivery.write import ITKSNAP, SLICER, TABLE, write_folder

    place.refresh()
    write_folder(place.folder, labels, failed)
    place.send(INDEX, TABLE, ITKSNAP, SLICER)
    _say(values, f"look at {place.shown / INDEX}")


def _say(values: argparse.Namespace, text: str) -> None:
    """Print progress, out of the way of the JSON where that is wanted."""
    print(text, file=sys.stderr if values.json else sys.stdout, flush=True)


def _single(values: argparse.Namespace) -> dict[str, str]:
    """What the options say of a single case, as a line of the table would."""
    columns = {"height": "height_cm", "weight": "weight_kg"}
    options = ("ed", "es", "heart_rate", "sex", "height", "weight")
    found = {columns.get(option, option): getattr(values, option) for option in options}
    return {column: str(value) for column, value in found.items() if value is not None}


def _print_json(output: Path | None, items: list[Input], failed: dict[str, str]) -> None:
    """The records of the cases asked for, without pictures, in ``output`` (None: there are none); why others failed."""
    import json

    from cardiac_autoseg.delivery.record import read_records

    records = {} if output is None else {record["name"]: record for record in read_records(output)}
    rows = []
    for item in items:
        if item.name in failed:
            rows.append({"name": item.name, "status": "failed", "problem": failed[item.name]})
        else:
            record = records.get(item.name, {"name": item.name, "status": "done"})
            rows.append({key: value for key, value in record.items() if key not in ("thumbnail", "stem")})
    print(json.dumps(rows, indent=1))
