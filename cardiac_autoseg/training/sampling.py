"""The slices of a training run, read where they lie, and which of them each step sees.

Every draw depends on (seed, step) alone, never on what was drawn before: a resumed run repeats exactly what an
uninterrupted one would have drawn, without any random state in the checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class SliceBank:
    """All training slices; a batch is padded with zeros at the high end to one size, ``shape``.

    The ``volumes``, each an image (Z, Y, X) float16 and who-drew-it's labels (Z, Y, X) uint8, are arrays that may be mapped
    from files: then the system's page cache holds what fits of them, for all runs together, and a data set may be larger
    than the memory. A slice is there once for each annotator who drew it; of each of these labellings: ``volume`` (N,) and
    ``plane`` (N,), where it is, ``image`` (N,), its place among all images, ``annotator`` (N,) who drew it, all int64, and
    ``sizes`` (N, 2) float32, its unpadded size. ``resident`` are all images (M, H, W) and labels (N, H, W) on the device,
    where they are kept there.
    """

    volumes: tuple[tuple[NDArray[np.float16], NDArray[np.uint8]], ...]
    volume: Tensor
    plane: Tensor
    image: Tensor
    annotator: Tensor
    sizes: Tensor
    shape: tuple[int, int]
    device: torch.device
    centres: Tensor
    """(N, 2) float32, the hearts that were asked for so far, NaN for the others; see :meth:`hearts`."""
    resident: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.volume)

    @property
    def bytes(self) -> int:
        """What all padded slices take: two bytes a pixel for the images, one for the labels."""
        images = 1 + int(self.image.max())
        return (2 * images + len(self)) * self.shape[0] * self.shape[1]

    def slices(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, H, W) float16 and labels (B, H, W) uint8 of labellings ``chosen`` (B,), on the bank's device."""
        if self.resident is not None:
            return self.resident[0][self.image[chosen].to(self.device)], self.resident[1][chosen.to(self.device)]
        images, labels = np.zeros((len(chosen), *self.shape), np.float16), np.zeros((len(chosen), *self.shape), np.uint8)
        for row, (volume, plane) in enumerate(zip(self.volume[chosen].tolist(), self.plane[chosen].tolist(), strict=True)):
            image, label = self.volumes[volume]
            height, width = image.shape[1:]
            images[row, :height, :width], labels[row, :height, :width] = image[plane], label[plane]
        return torch.from_numpy(images).to(self.device), torch.from_numpy(labels).to(self.device)

    def hearts(self, chosen: Tensor) -> Tensor:
        """Centres (B, 2) of the heart in pixels (y, x), float32: of the slice where it is labelled, else of its volume.

        They are found when first asked for: finding all at the start would read the whole data set.
        """
        for index in chosen[self.centres[chosen, 0].isnan()].tolist():
            label = self.volumes[int(self.volume[index])][1]
            heart = _centre(np.asarray(label[int(self.plane[index])])) or _centre(np.asarray(label.any(axis=0)))
            self.centres[index] = torch.tensor(heart) if heart else self.sizes[index] / 2
        return self.centres[chosen]


def build_bank(
    volumes: Sequence[tuple[NDArray[np.float16], Mapping[int, NDArray[np.uint8]]]],
    patch: tuple[int, int],
    device: torch.device,
) -> SliceBank:
    """A bank of volumes, each an image (Z, Y, X) with its labels (Z, Y, X) by annotator, that gives batches on ``device``.

    The slices are kept on a GPU where they fit (:func:`fits`), and are otherwise read from the volumes.
    """
    height = max(patch[0], *(image.shape[1] for image, _ in volumes))
    width = max(patch[1], *(image.shape[2] for image, _ in volumes))
    pairs: list[tuple[NDArray[np.float16], NDArray[np.uint8]]] = []
    rows: list[tuple[int, ...]] = []
    first = 0
    for array, drawn in volumes:
        depth, *size = array.shape
        for who, label in drawn.items():
            rows += [(len(pairs), plane, first + plane, who, *size) for plane in range(depth)]
            pairs.append((array, label))
        first += depth
    table = torch.tensor(rows)
    volume, plane, image, annotator = table[:, :4].T
    sizes, centres = table[:, 4:].float(), torch.full((len(rows), 2), torch.nan)
    bank = SliceBank(tuple(pairs), volume, plane, image, annotator, sizes, (height, width), device, centres)
    return resident(bank) if fits(bank.bytes, device) else bank


def fits(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes are kept on ``device``: where they take at most half of a GPU's free memory.

    The rest is for the network. On the CPU they never are: the page cache does it, and gives way to those who need memory.
    """
    return device.type == "cuda" and 2 * size <= torch.cuda.mem_get_info(device)[0]


def resident(bank: SliceBank) -> SliceBank:
    """``bank`` with all its slices on its device, filled volume by volume."""
    images = torch.zeros((1 + int(bank.image.max()), *bank.shape), dtype=torch.float16, device=bank.device)
    labels = torch.zeros((len(bank), *bank.shape), dtype=torch.uint8, device=bank.device)
    start = 0
    for image, label in bank.volumes:
        depth, rows, columns = image.shape
        first = int(bank.image[start])
        # Copies, since torch does not take read-only arrays.
        images[first : first + depth, :rows, :columns] = torch.from_numpy(image.copy()).to(bank.device)
        labels[start : start + depth, :rows, :columns] = torch.from_numpy(label.copy()).to(bank.device)
        start += depth
    return dataclasses.replace(bank, resident=(images, labels))


def _centre(mask: NDArray[Any]) -> tuple[float, float] | None:
    """Centre (y, x) of the bounding box of ``mask``, None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return ((rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2) if len(rows) else None


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, on the CPU."""
    # A hash of both, since neighbouring seeds give correlated streams in some generators.
    mixed = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(mixed)


def draw_slices(count: int, batch: int, seed: int, step: int) -> Tensor:
    """Indices (batch,) of the slices of a step: consecutive pieces of one shuffled pass over the data after another."""
    first, stop = step * batch, (step + 1) * batch
    pieces = [
        _shuffled(count, seed, epoch)[max(0, first - epoch * count) : stop - epoch * count]
        for epoch in range(first // count, (stop - 1) // count + 1)
    ]
    return torch.from_numpy(np.concatenate(pieces))


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """One pass over the data. Kept, since drawing it for each of its steps would take time by the square of the data set."""
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def draw_centres(
    bank: SliceBank, chosen: Tensor, patch: tuple[int, int], anywhere_share: float, jitter: float, generator: torch.Generator
) -> Tensor:
    """Patch centres (batch, 2) in pixels (y, x): the heart give or take ``jitter`` of the patch, for a share anywhere."""
    size = torch.tensor(patch, dtype=torch.float32)
    uniform = torch.rand((len(chosen), 2), generator=generator)
    near = bank.hearts(chosen) + (2 * uniform - 1) * jitter * size
    anywhere = uniform * bank.sizes[chosen]
    random = torch.rand((len(chosen), 1), generator=generator) < anywhere_share
    return torch.where(random, anywhere, near)
