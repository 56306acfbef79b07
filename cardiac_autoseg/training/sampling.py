"""The slices of a training run, all in memory, and which of them each step sees.

Every draw depends on (seed, step) alone, never on what was drawn before: a resumed run repeats exactly what an
uninterrupted one would have drawn, without any random state in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class SliceBank:
    """All training slices, padded at their high end to a common size.

    ``images`` (M, H, W) float16. For each labelling of a slice, of which there are as many as annotators drew it: ``labels``
    (N, H, W) uint8, ``image`` (N,) its place in ``images``, ``annotator`` (N,) int64 who drew it, ``sizes`` (N, 2) the
    unpadded size, ``hearts`` (N, 2) centre of the heart in pixels (y, x), of the slice where it is labelled, else of its
    volume. ``images`` and ``labels`` are on the device, the rest is on the CPU.
    """

    images: Tensor
    labels: Tensor
    image: Tensor
    annotator: Tensor
    sizes: Tensor
    hearts: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def build_bank(
    volumes: Sequence[tuple[NDArray[np.float16], Mapping[int, NDArray[np.uint8]]]],
    patch: tuple[int, int],
    device: torch.device,
) -> SliceBank:
    """Put volumes, each an image (Z, Y, X) with its labels (Z, Y, X) by annotator, into one bank on ``device``.

    The bank is filled in place, so that the slices exist only once in memory.
    """
    height = max(patch[0], *(image.shape[1] for image, _ in volumes))
    width = max(patch[1], *(image.shape[2] for image, _ in volumes))
    slices = sum(len(image) for image, _ in volumes)
    count = sum(len(image) * len(labels) for image, labels in volumes)
    images = torch.zeros((slices, height, width), dtype=torch.float16, device=device)
    labels = torch.zeros((count, height, width), dtype=torch.uint8, device=device)
    place, annotator = np.empty(count, np.int64), np.empty(count, np.int64)
    sizes, hearts = np.empty((count, 2), np.float32), np.empty((count, 2), np.float32)
    first = start = 0
    for image, drawn in volumes:
        depth, rows, columns = image.shape
        images[first : first + depth, :rows, :columns] = torch.from_numpy(image)
        for who, label in drawn.items():
            stop = start + depth
            labels[start:stop, :rows, :columns] = torch.from_numpy(label)
            place[start:stop], annotator[start:stop] = range(first, first + depth), who
            sizes[start:stop] = rows, columns
            whole = _centre(np.asarray(label.any(axis=0)), (rows / 2, columns / 2))
            for offset, plane in enumerate(label):
                hearts[start + offset] = _centre(plane > 0, whole)
            start = stop
        first += depth
    return SliceBank(images, labels, *(torch.from_numpy(array) for array in (place, annotator, sizes, hearts)))


def _centre(mask: NDArray[np.bool_], otherwise: tuple[float, float]) -> tuple[float, float]:
    """Centre (y, x) of the bounding box of ``mask``."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return otherwise
    return (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, on the CPU."""
    # A hash of both, since neighbouring seeds give correlated streams in some generators.
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(mixed)


def draw_slices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Indices (batch,) of the slices of a step: consecutive pieces of one shuffled pass over the data after another."""
    first = step * batch
    epochs = range(first // count, (first + batch - 1) // count + 1)
    order = np.concatenate([np.random.default_rng([seed, 1, epoch]).permutation(count) for epoch in epochs])
    start = first - epochs[0] * count
    return torch.from_numpy(order[start : start + batch])


def draw_centres(
    bank: SliceBank, chosen: Tensor, patch: tuple[int, int], anywhere_share: float, jitter: float, generator: torch.Generator
) -> Tensor:
    """Patch centres (batch, 2) in pixels (y, x): the heart give or take ``jitter`` of the patch, for a share anywhere."""
    size = torch.tensor(patch, dtype=torch.float32)
    uniform = torch.rand((len(chosen), 2), generator=generator)
    near = bank.hearts[chosen] + (2 * uniform - 1) * jitter * size
    anywhere = uniform * bank.sizes[chosen]
    random = torch.rand((len(chosen), 1), generator=generator) < anywhere_share
    return torch.where(random, anywhere, near)
