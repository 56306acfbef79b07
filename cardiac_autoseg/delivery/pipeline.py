"""Many scans in turn: the next one is read, and the last one written, beside the networks' work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from cardiac_autoseg.bundle import Bundle
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.delivery.case import CaseResult, Given, analyse, with_given
from cardiac_autoseg.delivery.inputs import Input, read_scan
from cardiac_autoseg.delivery.outputs import Wanted, write_case, write_probabilities
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import hash_json, read_json, write_json
from cardiac_autoseg.inference.model import Model
from cardiac_autoseg.inference.statistics import Segmentation
from cardiac_autoseg.trust.fit import Trust


@dataclass(frozen=True)
class Job:
    """How scans are to be predicted: with which model, into which folder, what to write, which series to take."""

    model: Model
    trust: Trust | None
    folder: Path
    wanted: Wanted
    given: Mapping[str, Given] = dataclasses.field(default_factory=dict)
    series: str | None = None

    @property
    def words(self) -> str:
        """The model, for people."""
        bundle = self.model.bundle
        return f"cardiac_autoseg {bundle.version}, model {bundle.name}"


@dataclass(frozen=True)
class Result:
    """One scan done, or not: ``problem`` says why. ``shape`` that of the image, ``seconds`` the time it took to segment."""

    item: Input
    shape: tuple[int, ...] = ()
    seconds: float = 0.0
    case: CaseResult | None = None
    problem: str = ""


def claim_folder(folder: Path, bundle: Bundle, fast: bool, resuming: bool) -> None:
    """Note in ``folder`` which model predicts into it, in ``prediction.json``.

    Raises :class:`UserError` if outputs of another model are there to be taken for this one's (``resuming``).
    """
    record = folder / "prediction.json"
    how = [bundle.postprocessing, bundle.flips, bundle.views, bundle.orientation, fast]
    model = hash_json([[member.sha256 for member in bundle.members], how])
    if resuming and record.is_file():
        before = read_json(record, "Give another folder with -o, or --overwrite.")
        if before.get("model_hash") != model:
            other = f"{before.get('bundle')}{', --fast' if before.get('fast') else ''}, made {before.get('created')}"
            raise UserError(
                f"{folder} holds predictions of another model ({other}): give another folder with -o, or redo them with"
                " --overwrite"
            )
    write_json(record, {"bundle": bundle.name, "created": bundle.created, "fast": fast, "model_hash": model})


def deliver(job: Job, items: Sequence[Input], seconds: dict[str, float]) -> Iterator[Result]:
    """Predict every input in turn, yielding its result once its files are written.

    The seconds of each stage are added to ``seconds``; as stages overlap, they may add up to more than the whole time. A
    scan that fails yields a ``problem``; the others go on.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = [reader.submit(_read, item, job) for item in items[:1]]
        behind: list[Future[Result]] = []
        for number, item in enumerate(items):
            reading = ahead.pop()
            ahead += [reader.submit(_read, following, job) for following in items[number + 1 : number + 2]]
            writing = _segment(job, item, reading, seconds, writer)
            # At most one result waits to be written, so memory stays bounded when the disk is slow.
            for done in behind:
                yield done.result()
            behind = [writing]
        for done in behind:
            yield done.result()


def _segment(
    job: Job, item: Input, reading: Future[tuple[Scan, float]], seconds: dict[str, float], writer: ThreadPoolExecutor
) -> Future[Result]:
    """Wait for the scan, segment it, and hand it to the writer; the future holds the result, whatever happened."""
    start = perf_counter()
    try:
        scan, spent = reading.result()
        _add(seconds, "read", spent)
        geometry = scan.geometry
        segmentation = job.model.segment(
            scan.array, geometry.spacing_zyx, job.wanted.probabilities, seconds, direction=geometry.direction
        )
    except Exception as error:  # one bad scan must not stop the others, whatever is wrong with it
        failed: Future[Result] = Future()
        failed.set_result(Result(item, problem=_words(item.path, error)))
        return failed
    shape = scan.array.shape if scan.frames > 1 else scan.array.shape[1:]
    result = Result(item, shape, perf_counter() - start)
    return writer.submit(_finish, job, result, scan, segmentation, seconds)


def _read(item: Input, job: Job) -> tuple[Scan, float]:
    """The scan, with what the user knows better, and the seconds it took."""
    start = perf_counter()
    return with_given(read_scan(item, job.series), job.given.get(item.name, Given())), perf_counter() - start


def _finish(job: Job, result: Result, scan: Scan, segmentation: Segmentation, seconds: dict[str, float]) -> Result:
    """Measure and write one case."""
    start = perf_counter()
    name, bundle = result.item.name, job.model.bundle
    try:
        if segmentation.probabilities is not None:
            kept = segmentation.probabilities if scan.frames > 1 else segmentation.probabilities[:, 0]
            write_probabilities(job.folder / f"{name}.npz", kept, 1.0 if job.trust is None else job.trust.temperature)
        if not job.wanted.pages:
            labels = segmentation.labels if scan.frames > 1 else segmentation.labels[0]
            write_labels(job.folder / f"{name}.nii.gz", labels, scan.geometry)
            _add(seconds, "write", perf_counter() - start)
            return result
        case = analyse(scan, segmentation, bundle.labels, job.trust, job.given.get(name, Given()))
        _add(seconds, "measure", perf_counter() - start)
        start = perf_counter()
        write_case(job.folder, case, job.words, bundle.licence, job.wanted)
        _add(seconds, "write", perf_counter() - start)
    except Exception as error:  # as above
        return dataclasses.replace(result, problem=_words(result.item.path, error))
    # The image is not needed any more, and there may be thousands of cases.
    return dataclasses.replace(result, case=dataclasses.replace(case, scan=dataclasses.replace(scan, array=scan.array[:0])))


def _add(seconds: dict[str, float], stage: str, spent: float) -> None:
    seconds[stage] = seconds.get(stage, 0.0) + spent


def _words(path: Path, error: Exception) -> str:
    """What went wrong with a scan, naming it once."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
    return text if str(path) in text else f"{path}: {text}"
