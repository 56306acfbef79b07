"""The preprocessed store: images once, one label array per source, each written atomically beside the key that made it.

A key names everything a file depends on: content of the source file, frame, label values, target spacing,
normalisation. An array whose key still fits is kept, any other is made again; so a second run does nothing, a killed
run goes on, and a change redoes what depends on it and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.load import load_image, load_labels, require_same_geometry
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import atomic_path, hash_json, read_json, write_cache, write_json_if_changed
from cardiac_autoseg.locks import waiting
from cardiac_autoseg.preprocessing.identity import FileHashes, Learned
from cardiac_autoseg.preprocessing.matrices import resample_image, resample_labels, target_size
from cardiac_autoseg.preprocessing.normalise import normalise
from cardiac_autoseg.temporaries import clear_unfinished
from cardiac_autoseg.threads import Spread, available_cores, in_process
from cardiac_autoseg.threads import in_threads as in_threads
from cardiac_autoseg.versions import STORE_FORMAT, require_version
from cardiac_autoseg.workspace import Workspace
from planning.typed import build, convert


@dataclass(frozen=True)
class Grid:
    """What all arrays of the store share: target spacing (y, x) in mm and the normalisation's percentiles."""

    spacing: tuple[float, float]
    clip_percentiles: tuple[float, float]


@dataclass(frozen=True)
class _Entry:
    """A case in ``index.json``: keys of image and labels, spacing (z, y, x) in mm and shape before, shape after."""

    image: str
    labels: dict[str, str]
    original_spacing: tuple[float, float, float]
    original_shape: tuple[int, int, int]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Outcome:
    """What preprocessing did: arrays made, arrays kept, and what went wrong by case."""

    made: int
    kept: int
    failed: dict[str, str]


class PreprocessedStore:
    """Reading side of the store. Arrays are (Z, Y, X) at the plan's in-plane spacing."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        path = workspace.preprocessed / "index.json"
        index = read_json(path, "Run cas_plan_and_preprocess first.")
        require_version(index, STORE_FORMAT, path, "run cas_plan_and_preprocess again")
        try:
            self.grid = build(Grid, {name: index[name] for name in ("spacing", "clip_percentiles")})
            convert(dict[str, _Entry], index["cases"], "cases")
            self.keys: dict[str, dict[str, Any]] = index["cases"]
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is not a whole index ({error}): run cas_plan_and_preprocess again") from error

    def image(self, case_id: str, mapped: bool = False) -> NDArray[np.float16]:
        """Normalised image, float16 in [0, 1]; ``mapped`` as in :meth:`_load`."""
        return self._load(image_path(self.workspace, case_id), mapped)

    def labels(self, case_id: str, source: str, mapped: bool = False) -> NDArray[np.uint8]:
        """Labels of one source, uint8; ``mapped`` as in :meth:`_load`."""
        return self._load(label_path(self.workspace, case_id, source), mapped)

    def spacing(self, case_id: str) -> tuple[float, float, float]:
        """Original (z, y, x) spacing of the case in mm."""
        z, y, x = self.keys[case_id]["original_spacing"]
        return z, y, x

    def has(self, case_id: str, source: str) -> bool:
        """Whether the case is in the store with labels of ``source``."""
        return case_id in self.keys and source in self.keys[case_id]["labels"]

    def data_hash(self, case_ids: Sequence[str], source: str) -> str:
        """Identifies the images of some cases and, where ``source`` drew any, their labels."""
        keys = [(case, self.keys[case]) for case in sorted(case_ids)]
        return hash_json([(case, key["image"], key["labels"].get(source)) for case, key in keys])

    def changed(self, dataset: Dataset, case_ids: Sequence[str], sources: Sequence[str]) -> list[str]:
        """The cases whose image, or labels by one of ``sources``, are not what the arrays were made from.

        Files that nothing has touched since are not read. Files that are gone are no change: the arrays are still theirs.
        """
        hashes = FileHashes(self.workspace.preprocessed / "files.json")
        wanted, found = set(case_ids), []
        for case in dataset.cases:
            if case.id not in wanted:
                continue
            entry = self.keys[case.id]
            try:
                same = _image_key(self.workspace, self.grid, hashes, case) == entry["image"]
                for source in set(sources) & case.labels.keys():
                    key = _label_key(self.workspace, dataset, self.grid, hashes, case, source)
                    same &= key == entry["labels"].get(source)
            except UserError:
                continue
            if not same:
                found.append(case.id)
        return found

    def _load(self, path: Path, mapped: bool) -> NDArray[Any]:
        """The array in memory, or ``mapped``: read-only, read from the file as it is used.

        A mapped array stays what it is when the file is replaced, as this module does. A process has about 65,000 maps.
        """
        try:
            array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("it is a zip of arrays")
            # As a plain array, since slices of numpy's memmap class cost three times as much.
            return np.asarray(array)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} cannot be read ({error}): run cas_plan_and_preprocess again") from error


def image_path(workspace: Workspace, case_id: str) -> Path:
    """Where the preprocessed image of a case lies."""
    return workspace.preprocessed / "images" / f"{case_id}.npy"


def label_path(workspace: Workspace, case_id: str, source: str) -> Path:
    """Where the preprocessed labels of a case lie."""
    return workspace.preprocessed / "labels" / source / f"{case_id}.npy"


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array)


def is_whole_array(path: Path) -> bool:
    """Whether an array that :func:`save_array` wrote is there, and as long as its header says; its values are not read."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True


def preprocess(
    workspace: Workspace,
    dataset: Dataset,
    grid: Grid,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    workers: int | None = None,
    spread: Spread = in_process,
) -> Outcome:
    """Bring the store up to date with the index and ``grid``, in threads or as ``spread`` does it.

    Threads, since unpacking and resampling release Python's lock, and a thread cannot be killed behind our back as a
    worker process can. There are two a core (``workers`` None), as half of their time they wait for the disk. A case that
    fails is left out and named in the outcome; the others go on. ``index.json`` is written at the end, for what is there.
    """
    hashes = FileHashes(workspace.preprocessed / "files.json")
    entries: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    made = kept = 0
    make = partial(_preprocessor, workspace, dataset, grid)
    workers = workers or min(16, 2 * available_cores())
    with _alone(workspace):
        for number, (case, result) in enumerate(spread(make, dataset.cases, workers), start=1):
            if isinstance(result, UserError):
                failed[case.id] = str(result)
            else:
                entries[case.id], new, old, learned = result
                made, kept = made + new, kept + old
                hashes.learn(learned)
            progress(number, len(dataset.cases))
        failed = {case.id: failed[case.id] for case in dataset.cases if case.id in failed}
        if not entries:
            raise UserError("no case could be preprocessed:\n  " + "\n  ".join(failed.values()))
        hashes.save()
        _write_index(workspace, grid, entries)
    return Outcome(made, kept, failed)


def preprocess_labels(workspace: Workspace, dataset: Dataset, sources: Sequence[str], workers: int | None = None) -> Outcome:
    """Bring only the labels of ``sources`` up to date, in a store that exists; all else in it stays, stale or not.

    Cases that are not in the store are left out; so are the labels of a case whose image is not the one preprocessed.
    """
    hashes = FileHashes(workspace.preprocessed / "files.json")
    failed: dict[str, str] = {}
    made = kept = 0
    with _alone(workspace):
        store = PreprocessedStore(workspace)
        for entry in store.keys.values():
            entry["labels"] = {name: key for name, key in entry["labels"].items() if name not in sources}

        def work(case: Case) -> _Prepared:
            if _image_key(workspace, store.grid, hashes, case) != store.keys[case.id]["image"]:
                raise UserError(f"{case.image} has changed since it was preprocessed: run cas_plan_and_preprocess again")
            wanted = {name: ref for name, ref in case.labels.items() if name in sources}
            return _preprocess_case(workspace, dataset, store.grid, hashes, replace(case, labels=wanted))

        there = [case for case in dataset.cases if case.id in store.keys and not case.labels.keys().isdisjoint(sources)]
        for case, result in in_threads(work, there, workers):
            if isinstance(result, UserError):
                failed[case.id] = str(result)
            else:
                entry, new, old, _ = result
                store.keys[case.id]["labels"] |= entry["labels"]
                made, kept = made + new, kept + old - 1  # the image is not counted
        hashes.save()
        _write_index(workspace, store.grid, store.keys)
    return Outcome(made, kept, failed)


def _write_index(workspace: Workspace, grid: Grid, entries: dict[str, dict[str, Any]]) -> None:
    about = {"format_version": STORE_FORMAT, "spacing": grid.spacing, "clip_percentiles": grid.clip_percentiles}
    cases = {case: entries[case] for case in sorted(entries)}
    write_json_if_changed(workspace.preprocessed / "index.json", {**about, "cases": cases})


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """Wait until no other process writes arrays, and clear the unfinished files that a killed one left behind."""
    with waiting(workspace.preprocessed / ".lock"):
        for kind in ("images", "labels/*"):
            for folder in workspace.preprocessed.glob(kind):
                clear_unfinished(folder)
        yield


_Prepared = tuple[dict[str, Any], int, int, Learned]
"""Index entry of a case, how many of its arrays were made and kept, and the hashes of its files."""


def _preprocessor(workspace: Workspace, dataset: Dataset, grid: Grid) -> Callable[[Case], _Prepared]:
    """What preprocesses cases, in one process."""
    return partial(_preprocess_case, workspace, dataset, grid, FileHashes(workspace.preprocessed / "files.json"))


def case_files(workspace: Workspace, case: Case) -> list[Path]:
    """The files of a case: its image, and its labels."""
    return [workspace.resolve(case.image), *(workspace.resolve(ref.path) for ref in case.labels.values())]


def _preprocess_case(workspace: Workspace, dataset: Dataset, grid: Grid, hashes: FileHashes, case: Case) -> _Prepared:
    """Make the arrays of a case that are not there, or were made of something else."""
    image_key = _image_key(workspace, grid, hashes, case)
    label_keys = {source: _label_key(workspace, dataset, grid, hashes, case, source) for source in case.labels}
    # The image goes under None, the labels under their source.
    keys: dict[str | None, str] = {None: image_key} | dict(label_keys.items())
    paths = {name: image_path(workspace, case.id) if name is None else label_path(workspace, case.id, name) for name in keys}
    stale = [source for source in keys if not _fits(paths[source], keys[source])]
    if stale:
        image = load_image(workspace, case)
        spacing = image.geometry.spacing_zyx
        size = target_size((image.array.shape[1], image.array.shape[2]), spacing[1:], grid.spacing)
        for source in stale:
            if source is None:
                array: NDArray[Any] = resample_image(normalise(image.array, grid.clip_percentiles), size)
                extra = {"original_spacing": spacing, "original_shape": image.array.shape, "shape": array.shape}
            else:
                labels = load_labels(workspace, dataset, case, source)
                require_same_geometry(image, labels, case, source)
                array = resample_labels(labels.array, size)
                extra = {}
            save_array(paths[source], array)
            write_cache(paths[source].with_suffix(".json"), {"key": keys[source], **extra})
    about = read_json(paths[None].with_suffix(".json"))
    entry = {
        "image": image_key,
        "labels": label_keys,
        **{name: about[name] for name in ("original_spacing", "original_shape", "shape")},
    }
    return entry, len(stale), len(paths) - len(stale), hashes.known(case_files(workspace, case))


def _image_key(workspace: Workspace, grid: Grid, hashes: FileHashes, case: Case) -> str:
    """What the preprocessed image of a case depends on."""
    content = hashes(workspace.resolve(case.image))
    return hash_json([STORE_FORMAT, grid.spacing, grid.clip_percentiles, content, case.image_frame])


def _label_key(workspace: Workspace, dataset: Dataset, grid: Grid, hashes: FileHashes, case: Case, source: str) -> str:
    """What the preprocessed labels that ``source`` drew on a case depend on."""
    values, ref = sorted(dataset.sources[source].values.items()), case.labels[source]
    content = hashes(workspace.resolve(ref.path))
    return hash_json([STORE_FORMAT, grid.spacing, dataset.labels, values, content, ref.frame])


def _fits(path: Path, key: str) -> bool:
    """Whether the array is there, whole, and was made with ``key``; the key is written after the array."""
    try:
        return is_whole_array(path) and bool(read_json(path.with_suffix(".json"))["key"] == key)
    except (UserError, KeyError, TypeError):
        return False
