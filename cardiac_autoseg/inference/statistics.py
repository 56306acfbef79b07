"""What the networks said beyond the labels: how far they agree and how sure they are, in a few numbers per slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cardiac_autoseg.preprocessing.resample import resize_maps

Counts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""The fields of :class:`SliceStatistics`, for a run of slices (Z in place of T, Z), on the CPU."""


@dataclass(frozen=True)
class SliceStatistics:
    """Areas in mm² per frame T, slice Z and class C (background first), before postprocessing.

    An *opinion* is one network at one view (turn or zoom) of the slice; there are M of them. ``consensus`` is the area
    the mean of all gives to a class, (T, Z, C); ``areas`` the area each opinion gives to it, (M, T, Z, C); ``overlaps``
    the part of ``areas`` that lies in the consensus, (M, T, Z, C). ``expected`` is the sum of the mean probability,
    (T, Z, C); ``entropy`` the sum of the entropy (nats) of the mean probabilities, (T, Z). A single opinion agrees with
    itself.
    """

    consensus: NDArray[np.float32]
    areas: NDArray[np.float32]
    overlaps: NDArray[np.float32]
    expected: NDArray[np.float32]
    entropy: NDArray[np.float32]

    @property
    def opinions(self) -> int:
        """M."""
        return int(self.areas.shape[0])


def count_opinions(mean: Tensor, opinions: Sequence[Tensor], pixel: float) -> Counts:
    """Areas of the classes in the mean of all opinions and in each of them.

    ``mean`` are probabilities (C, Z, Y, X), ``opinions`` labels (Z, Y', X') uint8 each; one on another grid is brought to
    that of the mean, pixel by nearest pixel. ``pixel`` is the area of a pixel of ``mean`` in mm².
    """
    classes, slices = mean.shape[:2]
    consensus = mean.max(0).indices
    index = torch.arange(slices, device=mean.device)[:, None, None] * classes**2 + consensus * classes
    tables = []
    for opinion in opinions:
        if opinion.shape != consensus.shape:
            resized = torch.nn.functional.interpolate(opinion[:, None].float(), consensus.shape[1:], mode="nearest-exact")
            opinion = resized[:, 0].to(torch.uint8)
        table = torch.bincount((index + opinion).ravel(), minlength=slices * classes**2)
        tables.append(table.reshape(slices, classes, classes))
    joint = torch.stack(tables).float().mul_(pixel)
    entropy = torch.special.entr(mean).sum(dim=(0, 2, 3)).mul_(pixel)
    fields = (joint[0].sum(2), joint.sum(2), joint.diagonal(dim1=2, dim2=3), mean.sum(dim=(2, 3)).T.mul(pixel), entropy)
    consensus_area, areas, overlaps, expected, uncertainty = (field.cpu() for field in fields)
    return consensus_area, areas, overlaps, expected, uncertainty


def count_groups(
    consensus: Sequence[tuple[Tensor, int]], opinions: Sequence[Tensor], size: tuple[int, int], spacing: tuple[float, float]
) -> Counts:
    """How far ``opinions`` agree with the mean of the means in ``consensus``, each weighted by its number of opinions.

    On the grid of the networks, where there are fewest pixels to count; of several grids on that of the first.
    """
    mean = consensus[0][0]
    if len(consensus) > 1:
        grid = (mean.shape[2], mean.shape[3])
        mean = torch.stack([resize_maps(part.transpose(0, 1), grid) * (own / len(opinions)) for part, own in consensus])
        mean = mean.sum(0).transpose(0, 1)
    pixel = size[0] * size[1] * spacing[0] * spacing[1] / (mean.shape[2] * mean.shape[3])
    return count_opinions(mean, opinions, pixel)


def slice_statistics(parts: Sequence[Counts], shape: tuple[int, int]) -> SliceStatistics:
    """The statistics of a whole image of ``shape`` (T, Z) from those of consecutive runs of its T * Z slices."""
    consensus, areas, overlaps, expected, entropy = (
        torch.cat([part[number] for part in parts], dim=1 if number in (1, 2) else 0).numpy() for number in range(5)
    )
    opinions, classes = areas.shape[0], areas.shape[-1]
    return SliceStatistics(
        consensus.reshape(*shape, classes),
        areas.reshape(opinions, *shape, classes),
        overlaps.reshape(opinions, *shape, classes),
        expected.reshape(*shape, classes),
        entropy.reshape(shape),
    )


@dataclass(frozen=True)
class Segmentation:
    """Labels (T, Z, Y, X) or (Z, Y, X) uint8 as the image is, how far networks and views agree, and, if kept, the mean
    probabilities (C, …) float16, before postprocessing and temperature.
    """

    labels: NDArray[np.uint8]
    statistics: SliceStatistics
    probabilities: NDArray[np.float16] | None = None
