"""Phantom data of any size, quickly: a few rendered patients, and noisy copies of them under further names."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cardiac_autoseg.bundle import load_bundle, save_bundle
from cardiac_autoseg.data.volume import Geometry, Volume, read_volume, write_labels, write_volume
from cardiac_autoseg.inference.model_store import default_bundle
from cardiac_autoseg.phantom.subject import write_acdc
from cardiac_autoseg.preprocessing.store import save_array

RENDERED = 10
"""Patients of two cases each; the others are copies of them."""


def make_patients(folder: Path, cases: int) -> None:
    """Patients with ED and ES, ``cases`` frames in all, in ACDC's layout; ``_prediction``: the labels a pixel off."""
    rendered = write_acdc(folder / "rendered", RENDERED, size="small", cine_4d=False)
    for number in range(cases // 2):
        source, target = rendered[number % RENDERED], folder / "all" / f"patient{number:04d}"
        target.mkdir(parents=True)
        for path in source.iterdir():
            new = target / path.name.replace(source.name, target.name)
            if path.name.endswith("_gt.nii.gz"):
                shutil.copy(path, new)
                labels = read_volume(path)
                moved = np.roll(labels.array, 1, axis=2)
                write_labels(new.with_name(new.name.replace("_gt", "_prediction")), moved, labels.geometry)
            elif path.name.endswith(".nii.gz"):
                write_volume(new, noisy(read_volume(path), number), read_volume(path).geometry)
            else:
                shutil.copy(path, new)


def noisy(volume: Volume, seed: int) -> np.ndarray:
    """The image with a little noise: another content, else it would be taken for the same person's."""
    return volume.array.astype(np.int16) + np.random.default_rng(seed).integers(0, 3, volume.array.shape, np.int16)


def part(folder: Path, cases: int, target: Path) -> tuple[Path, Path]:
    """Folders with links to the first ``cases`` cases of :func:`make_patients`: the data set, and predictions of them."""
    data, predictions = target / "data", target / "predictions"
    data.mkdir(parents=True)
    predictions.mkdir()
    for patient in sorted((folder / "all").iterdir())[: cases // 2]:
        (data / patient.name).symlink_to(patient)
        for path in patient.glob("*_prediction.nii.gz"):
            (predictions / path.name.replace("_prediction", "")).symlink_to(path)
    return data, predictions


def make_scans(folder: Path, frames: tuple[int, ...], slices: tuple[int, ...]) -> Mapping[tuple[str, int], Path]:
    """Scans of 8 slices and so many frames, and of one frame and so many slices, by ("frames" or "slices", number)."""
    volume = read_volume(next(iter(sorted((folder / "rendered").glob("patient001/*_frame??.nii.gz")))))
    found = {}
    for count in frames:
        array = np.stack([noisy(Volume(_stack(volume.array, 8), volume.geometry), seed) for seed in range(count)])
        found["frames", count] = folder / "scans" / f"frames{count}.nii.gz"
        write_volume(found["frames", count], array if count > 1 else array[0], _resized(volume, 8))
    for count in slices:
        found["slices", count] = folder / "scans" / f"slices{count}.nii.gz"
        write_volume(found["slices", count], _stack(volume.array, count).astype(np.int16), _resized(volume, count))
    return found


def _stack(array: np.ndarray, slices: int) -> np.ndarray:
    """``array`` (Z, Y, X) with its planes stretched to ``slices``."""
    return array[np.linspace(0, len(array) - 1, slices).round().astype(int)]


def _resized(volume: Volume, slices: int) -> Geometry:
    return dataclasses.replace(volume.geometry, size=(*volume.geometry.size[:2], slices))


def make_ensemble(path: Path, networks: int) -> None:
    """A bundle of so many networks, all of them the first of the default model."""
    default = default_bundle()
    assert default is not None, "the package was installed without its model"
    bundle, found = load_bundle(default, 1)
    members = tuple(dataclasses.replace(bundle.members[0], fold=str(fold)) for fold in range(networks))
    bundle = dataclasses.replace(bundle, name=path.name, members=members, files={}, card={})
    save_bundle(path, bundle, [found[0].state_dict()] * networks)


def enlarge_store(preprocessed: Path, side: int, megabytes: int) -> int:
    """Pad the slices of a store to ``side`` x ``side`` pixels and repeat them until they take at least so many megabytes.

    None of it is left in the page cache. Returns the bytes.
    """
    paths = sorted(preprocessed.glob("**/*.npy"))
    shapes = [(path, np.load(path, mmap_mode="r")) for path in paths]
    padded = sum(len(array) * side * side * array.itemsize for _, array in shapes)
    times = -(-megabytes * 2**20 // padded)
    for path, array in shapes:
        more = [(0, 0), *((0, max(0, side - size)) for size in array.shape[1:])]
        larger = np.pad(array, more, mode="wrap" if array.dtype == np.float16 else "constant")
        save_array(path, np.tile(larger, (times, 1, 1)))
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sum(path.stat().st_size for path in paths)
