"""Prediction of many files: what to read, where to write, and reading and writing beside the network's work."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from cardiac_autoseg.bundle import Bundle
from cardiac_autoseg.data.header import SUFFIXES, is_nifti, stem
from cardiac_autoseg.data.volume import Cine, Geometry, Volume, count_frames, read_cine, read_volume, write_labels
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import atomic_path, hash_json, read_json, write_json
from cardiac_autoseg.inference.model import Model
from cardiac_autoseg.inference.statistics import Segmentation
from cardiac_autoseg.workspace import Workspace


@dataclass(frozen=True)
class Result:
    """One file done, or not: ``problem`` says why. ``shape`` is (T, Z, Y, X) or (Z, Y, X); ``seconds`` its whole time."""

    source: Path
    output: Path
    shape: tuple[int, ...] = ()
    seconds: float = 0.0
    problem: str = ""


def find_inputs(patterns: Sequence[str]) -> list[Path]:
    """The files that ``patterns`` name, each once: NIfTI files, folders (all NIfTI files in them), or globs (``**`` too).

    Raises :class:`UserError` for a pattern that names nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            names = sorted(item for item in path.iterdir() if is_nifti(item))
        elif path.is_file():
            if not path.name.lower().endswith(SUFFIXES):
                raise UserError(f"-i {pattern} is not named .nii or .nii.gz: convert it to NIfTI first")
            names = [path]
        else:
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - a pattern may be absolute
            names = [item for item in matches if item.is_file() and is_nifti(item)]
        if not names:
            what = "holds no" if path.is_dir() else "names no"
            raise UserError(f"-i {pattern} {what} NIfTI file (.nii or .nii.gz): give a file, a folder or a glob in quotes")
        found |= dict.fromkeys(names)
    return list(found)


def plan_outputs(inputs: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Where the labels of each input go: ``folder``/<stem>.nii.gz.

    Raises :class:`UserError` if two inputs would share an output, or an output would replace an input.
    """
    outputs: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    sources = {path.resolve() for path in inputs}
    for path in inputs:
        output = folder / f"{stem(path)}.nii.gz"
        if output in taken:
            raise UserError(
                f"{taken[output]} and {path} would both be written to {output}: predict them into different folders"
            )
        if output.resolve() in sources:
            raise UserError(f"{output} would replace an input: choose another output folder with -o")
        outputs[path] = taken[output] = output
        taken[output] = path
    return outputs


def done(output: Path, save_probabilities: bool) -> bool:
    """Whether everything that is to be written for an input is there."""
    return output.exists() and (not save_probabilities or _probabilities(output).exists())


def claim_folder(folder: Path, bundle: Bundle, fast: bool, resuming: bool) -> None:
    """Note in ``folder`` which model predicts into it, in ``prediction.json``.

    Raises :class:`UserError` if outputs of another model are there to be taken for this one's (``resuming``).
    """
    record = folder / "prediction.json"
    model = hash_json([[member.sha256 for member in bundle.members], bundle.postprocessing, bundle.flips, fast])
    if resuming and record.is_file():
        before = read_json(record, "Give another folder with -o, or --overwrite.")
        if before.get("model_hash") != model:
            other = f"{before.get('bundle')}{', --fast' if before.get('fast') else ''}, made {before.get('created')}"
            raise UserError(
                f"{folder} holds predictions of another model ({other}): give another folder with -o, or redo them with"
                " --overwrite"
            )
    write_json(record, {"bundle": bundle.name, "created": bundle.created, "fast": fast, "model_hash": model})


def _probabilities(output: Path) -> Path:
    return output.with_name(f"{stem(output)}.npz")


def find_bundle(workspace: Workspace | None, given: str | None) -> Path:
    """The bundle ``given`` as a path or as a name in the workspace; without it the workspace's only one, or "best".

    Raises :class:`UserError` that lists what there is.
    """
    if given is not None and Path(given).expanduser().exists():
        return Path(given).expanduser()
    if workspace is None:
        raise UserError(
            f"there is no bundle at {given}, and no workspace here to look for it by name: give its path with --model"
            if given
            else "there is no workspace here, so say which model to use with --model (a bundle's folder or .zip)"
        )
    folder = workspace.root / "models"
    folders = sorted(path for path in folder.glob("*") if (path / "bundle.json").is_file())
    # A zip beside the folder of its name is a copy of it.
    there = folders + sorted(path for path in folder.glob("*.zip") if path.with_suffix("") not in folders)
    wanted = [path for path in there if given in (path.name, path.stem)] if given else there
    if not given and len(there) > 1:
        wanted = [path for path in there if path.stem == "best"]
    if wanted:
        return wanted[0]
    names = ", ".join(path.name for path in there) or "none yet: make one with cas_ensemble"
    raise UserError(
        f"{f'there is no bundle called {given}.' if given else 'which model?'} Name one with --model; {folder} has: {names}"
    )


def predict_files(
    model: Model, outputs: Mapping[Path, Path], seconds: dict[str, float], save_probabilities: bool = False
) -> Iterator[Result]:
    """Predict every input of ``outputs`` (input -> output) in turn, yielding a result once its file is written.

    The next file is read, and the last one written, in threads beside the network. The seconds of each stage are added to
    ``seconds``; as stages overlap, they may add up to more than the whole time. A file that
    fails yields a ``problem``; the others go on.
    """
    sources = list(outputs)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = [reader.submit(_read, source) for source in sources[:1]]
        behind: list[Future[Result]] = []
        for number, source in enumerate(sources):
            reading = ahead.pop()
            ahead += [reader.submit(_read, following) for following in sources[number + 1 : number + 2]]
            writing = _segment(model, Result(source, outputs[source]), reading, seconds, save_probabilities, writer)
            # At most one result waits to be written, so memory stays bounded when the disk is slow.
            for job in behind:
                yield job.result()
            behind = [writing]
        for job in behind:
            yield job.result()


def _segment(
    model: Model,
    result: Result,
    reading: Future[tuple[Volume | Cine, float]],
    seconds: dict[str, float],
    keep: bool,
    writer: ThreadPoolExecutor,
) -> Future[Result]:
    """Wait for the image, segment it, and hand it to the writer; the future holds the result, whatever happened."""
    start = perf_counter()
    try:
        image, spent = reading.result()
        _add(seconds, "read", spent)
        prediction = model.segment(image.array, image.geometry.spacing_zyx, keep, seconds)
    except Exception as error:  # one bad file must not stop the others, whatever is wrong with it
        failed: Future[Result] = Future()
        failed.set_result(dataclasses.replace(result, problem=_words(result.source, error)))
        return failed
    result = dataclasses.replace(result, shape=image.array.shape, seconds=perf_counter() - start)
    return writer.submit(_write, result, prediction, image.geometry, seconds)


def _read(path: Path) -> tuple[Volume | Cine, float]:
    """A 3D file as a volume, a 4D file as a cine, and the seconds it took."""
    start = perf_counter()
    image = read_cine(path) if count_frames(path) > 1 else read_volume(path)
    return image, perf_counter() - start


def _write(result: Result, prediction: Segmentation, geometry: Geometry, seconds: dict[str, float]) -> Result:
    """Write the probabilities, then the labels: labels that are there say that the file is done."""
    start = perf_counter()
    try:
        if prediction.probabilities is not None:
            with (
                atomic_path(result.output.with_name(f"{stem(result.output)}.npz")) as temporary,
                temporary.open("wb") as stream,
            ):
                np.savez_compressed(stream, probabilities=prediction.probabilities)
        write_labels(result.output, prediction.labels, geometry)
    except Exception as error:  # as above
        return dataclasses.replace(result, problem=_words(result.output, error))
    _add(seconds, "write", perf_counter() - start)
    return result


def _add(seconds: dict[str, float], stage: str, spent: float) -> None:
    seconds[stage] = seconds.get(stage, 0.0) + spent


def _words(path: Path, error: Exception) -> str:
    """What went wrong with a file, naming it once."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
    return text if str(path) in text else f"{path}: {text}"
