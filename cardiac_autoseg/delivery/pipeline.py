"""Many scans in turn: the next one is read, and the last one written, beside the networks' work."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from cardiac_autoseg.bundle import read_bundle
from cardiac_autoseg.data.identifiers import unquoted
from cardiac_autoseg.data.remote import RemotePath
from cardiac_autoseg.data.scan import Scan
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.delivery.claim import label_note, model_hash
from cardiac_autoseg.delivery.inputs import Input, read_scan
from cardiac_autoseg.delivery.outputs import Wanted, clear_case
from cardiac_autoseg.delivery.people import Given, with_given
from cardiac_autoseg.delivery.place import put_case, read_fetched, staged
from cardiac_autoseg.delivery.privacy import private, public
from cardiac_autoseg.errors import UserError, is_out_of_memory
from cardiac_autoseg.files import DISK
from cardiac_autoseg.inference.model import Model, load_model
from cardiac_autoseg.inference.model_store import bundle_called
from cardiac_autoseg.inference.statistics import Segmentation
from cardiac_autoseg.trust.trust import Trust, load_trust

Reading = Future[tuple[Scan, float]]
"""A scan that is being read, and the seconds that took."""
FIRST_SLICE = "first slice"
"""Of the stages in seconds the one that is not a stage: from the start of the process until a network was through once."""


@dataclass(frozen=True)
class Request:
    """How scans are to be predicted: with which model (its bundle, a path or a name, and its hash), ``fast`` or not, on
    which device, into which folder, what to write, which series to take; ``anew``: files of these cases that are not written
    again are removed; ``remote``: where the files go, which are then made in a temporary folder instead of ``folder``.
    """

    bundle: str
    model_hash: str
    folder: Path
    wanted: Wanted
    fast: bool = False
    device: str | None = None
    anew: bool = False
    given: Mapping[str, Given] = dataclasses.field(default_factory=dict)
    series: str | None = None
    remote: RemotePath | None = None


@dataclass(frozen=True)
class Job:
    """A request, with the model and what judges its results."""

    request: Request
    model: Model
    trust: Trust | None

    @property
    def words(self) -> str:
        """The model, for people."""
        bundle = self.model.bundle
        return f"cardiac_autoseg {bundle.version}, model {bundle.name}"


def load_job(request: Request) -> Job:
    """Load the model that a request names; :class:`UserError` as :func:`load_model`, and if it is not the one meant."""
    path = bundle_called(None, request.bundle)
    # Asked of the whole bundle: a fast model has only one of its networks.
    if model_hash(read_bundle(path), request.fast) != request.model_hash:
        raise UserError(f"{path} is another model than the one that was asked for: install the same release everywhere")
    model = load_model(path, request.device, request.fast)
    # The quality was fitted on what all networks and views say together.
    return Job(request, model, None if request.fast else load_trust(path))


@dataclass(frozen=True)
class Result:
    """One scan done, or not: ``problem`` says why. ``shape`` that of the image, ``seconds`` the time it took to segment,
    ``words`` what was found (:attr:`CaseResult.words`).
    """

    item: Input
    shape: tuple[int, ...] = ()
    seconds: float = 0.0
    words: str = ""
    problem: str = ""


class Stages:
    """The stages of a scan in one process: the next is read, and the last written, beside the networks' work.

    A context manager. Scans that fail have results as well, which say why; but errors of the disk that is written to are
    raised, as the other scans would fare no better.
    """

    def __init__(self, job: Job, seconds: dict[str, float], dicom: bool) -> None:
        self.job = job
        self._reader, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        _after_first_slice(job, dicom, seconds, self._writer)

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._writer.shutdown()

    def read(self, item: Input) -> Reading:
        """Begin to read a scan."""
        return self._reader.submit(_read, item, self.job)

    def segment(self, item: Input, reading: Reading, seconds: dict[str, float]) -> Future[Result]:
        """Wait for the scan, segment it, and begin to write; for one scan at a time. The seconds of its stages are added."""
        return _segment(self.job, item, reading, seconds, self._writer)


def deliver(job: Job, items: Sequence[Input], seconds: dict[str, float]) -> Iterator[Result]:
    """Predict every input in turn, yielding its result once its files are written.

    The seconds of each stage are added to ``seconds``; as stages overlap, they may add up to more than the whole time. A
    scan that fails yields a ``problem``; the others go on.
    """
    with Stages(job, seconds, any(item.dicom for item in items)) as stages:
        ahead = [stages.read(item) for item in items[:1]]
        behind: list[Future[Result]] = []
        for number, item in enumerate(items):
            reading = ahead.pop()
            ahead += [stages.read(following) for following in items[number + 1 : number + 2]]
            writing = stages.segment(item, reading, seconds)
            # At most one result waits to be written, so memory stays bounded when the disk is slow.
            for done in behind:
                yield done.result()
            behind = [writing]
        for done in behind:
            yield done.result()


def _after_first_slice(job: Job, dicom: bool, seconds: dict[str, float], writer: ThreadPoolExecutor) -> None:
    """When the first slices are through a network, note it as :data:`FIRST_SLICE` and let the writer load its modules.

    The writer has nothing to write yet, but earlier than that its loading would be in the way. Only Linux says when a
    process began.
    """
    stat = Path("/proc/self/stat")

    def note(*_: object) -> None:
        handle.remove()
        writer.submit(_load_writers, job.request.wanted, dicom)
        if stat.is_file():
            began = int(stat.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
            seconds[FIRST_SLICE] = time.clock_gettime(time.CLOCK_BOOTTIME) - began

    handle = job.model.groups[0].networks[0].register_forward_hook(note)


def _segment(
    job: Job, item: Input, reading: Reading, seconds: dict[str, float], writer: ThreadPoolExecutor
) -> Future[Result]:
    """Wait for the scan, segment it, and hand it to the writer; the future holds the result, whatever happened."""
    start = perf_counter()
    try:
        scan, spent = reading.result()
        _add(seconds, "read", spent)
        geometry = scan.geometry
        segmentation = job.model.segment(
            scan.array, geometry.spacing_zyx, job.request.wanted.probabilities, seconds, direction=geometry.direction
        )
    except Exception as error:  # one bad scan must not stop the others, whatever is wrong with it
        failed: Future[Result] = Future()
        failed.set_result(Result(item, problem=_words(item, job.request.folder, error)))
        return failed
    shape = scan.array.shape if scan.frames > 1 else scan.array.shape[1:]
    result = Result(item, shape, perf_counter() - start)
    return writer.submit(_finish, job, result, scan, segmentation, seconds)


def _read(item: Input, job: Job) -> tuple[Scan, float]:
    """The scan, with what the user knows better, and the seconds it took."""
    start = perf_counter()

    def read(here: Input) -> Scan:
        given = job.request.given.get(here.name, Given())
        return private(with_given(read_scan(here, job.request.series), given), here)

    return read_fetched(item, read), perf_counter() - start


def _load_writers(wanted: Wanted, dicom: bool) -> None:
    """Import what :func:`_finish` needs; in its own thread this costs no time while networks work."""
    if wanted.pages:
        import cardiac_autoseg.delivery.write
    if wanted.pages and wanted.dicom and dicom:
        import cardiac_autoseg.data.dicom_seg
        import cardiac_autoseg.data.dicom_sr  # noqa: F401


def _finish(job: Job, result: Result, scan: Scan, segmentation: Segmentation, seconds: dict[str, float]) -> Result:
    """Measure and write one case."""
    try:
        with staged(job.request.folder, job.request.remote) as folder:
            return _finish_in(folder, job, result, scan, segmentation, seconds)
    finally:
        if scan.fetched is not None:
            scan.fetched.remove()


def _finish_in(
    folder: Path, job: Job, result: Result, scan: Scan, segmentation: Segmentation, seconds: dict[str, float]
) -> Result:
    start = perf_counter()
    name, bundle = result.item.name, job.model.bundle
    try:
        note = label_note(result.item, job.request.model_hash)
        written: set[str] = set()
        if segmentation.probabilities is not None:
            from cardiac_autoseg.delivery.write import write_probabilities

            kept = segmentation.probabilities if scan.frames > 1 else segmentation.probabilities[:, 0]
            write_probabilities(folder / f"{name}.npz", kept, 1.0 if job.trust is None else job.trust.temperature)
            written.add(f"{name}.npz")
            _add(seconds, "write", perf_counter() - start)
            start = perf_counter()
        case = None
        if job.request.wanted.pages:
            from cardiac_autoseg.delivery.case import analyse
            from cardiac_autoseg.delivery.write import write_case

            case = analyse(scan, segmentation, bundle.labels, job.trust, job.request.given.get(name, Given()))
            _add(seconds, "measure", perf_counter() - start)
            start = perf_counter()
            written |= write_case(folder, case, job.words, bundle.licence, job.request.wanted, result.item)
        if job.request.anew:
            clear_case(job.request.remote or folder, name, written)
        # Last, as they say that the case is done.
        labels = segmentation.labels if scan.frames > 1 else segmentation.labels[0]
        write_labels(folder / f"{name}.nii.gz", labels, scan.geometry, note)
        if job.request.remote is not None:
            put_case(folder, job.request.remote, name)
        _add(seconds, "write", perf_counter() - start)
    except Exception as error:  # as above
        if isinstance(error, OSError) and (error.errno in DISK or not folder.is_dir()):
            raise  # the others would fare no better
        return dataclasses.replace(result, problem=_words(result.item, folder, error))
    return result if case is None else dataclasses.replace(result, words=case.words)


def _add(seconds: dict[str, float], stage: str, spent: float) -> None:
    seconds[stage] = seconds.get(stage, 0.0) + spent


def _words(item: Input, folder: Path, error: Exception) -> str:
    """What went wrong with a scan, naming it once; nothing of where it lies or who was scanned, as pages say it too."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {unquoted(error)}"
    if is_out_of_memory(error):
        text = f"there is not enough memory for it ({text}): end other programs, or try --fast"
    text = text if str(item.path) in text else f"{item.path}: {text}"
    return text if item.keep else public(item, text.replace(str(folder), folder.name or str(folder)))
