"""Trained models from Python, in memory: arrays or SimpleITK images in, labels out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import nn

from cardiac_autoseg.bundle import Bundle, load_bundle
from cardiac_autoseg.data.volume import from_sitk, to_sitk
from cardiac_autoseg.device import pick_device
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.inference.look import look
from cardiac_autoseg.inference.orientation import turned, turned_back, turned_spacing
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.inference.predictor import Group, predict
from cardiac_autoseg.inference.statistics import Segmentation
from cardiac_autoseg.inference.views import PLAIN, View
from cardiac_autoseg.networks.frozen import frozen

LARGEST_MM = 2000.0
"""No scanner makes larger slices; networks would need memory without bound for them."""


@dataclass(frozen=True)
class Model:
    """A trained ensemble in memory. Make one with :func:`load_model`.

    Examples
    --------
    >>> model = load_model("models/best")                   # doctest: +SKIP
    >>> labels = model(array, spacing=(10.0, 1.4, 1.4))     # doctest: +SKIP
    """

    bundle: Bundle
    groups: tuple[Group, ...]
    flips: tuple[int, ...]
    views: tuple[View, ...]
    device: torch.device

    @property
    def labels(self) -> dict[str, int]:
        """The value of each class in the output, by name."""
        return dict(self.bundle.labels)

    def __call__(self, array: NDArray[np.generic], spacing: tuple[float, float, float]) -> NDArray[np.uint8]:
        """Segment an image.

        Parameters
        ----------
        array
            Short-axis image (Z, Y, X), or cine (T, Z, Y, X), in any intensity unit.
        spacing
            (z, y, x), mm.

        Returns
        -------
        uint8 labels of the shape of ``array``, with the values of :attr:`labels`.

        Raises
        ------
        UserError
            If the array is not 3D or 4D, is empty or not finite, or the spacing is not positive or absurdly large.
        """
        return self.segment(array, spacing).labels

    def segment(
        self,
        array: NDArray[np.generic],
        spacing: tuple[float, float, float],
        keep_probabilities: bool = False,
        seconds: dict[str, float] | None = None,
        direction: Sequence[float] | None = None,
    ) -> Segmentation:
        """As a call, but with how far networks and views agree, and, if ``keep_probabilities``, the probabilities
        (C, Z, Y, X) or (C, T, Z, Y, X) float16 of the networks, before postprocessing.

        Where the bundle says how its training images lie, the image is laid likewise for the networks: by ``direction`` (the
        row-major 3 x 3 matrix of a geometry) if that tells, else by what they recognise. The result always lies as the image
        does. The seconds of each stage are added to ``seconds``.
        """
        _check(array, spacing)
        stages: dict[str, float] = {} if seconds is None else seconds
        start = perf_counter()
        found = look(self.groups[0], array, spacing, self.bundle.orientation, direction, self.device)
        stages["look"] = stages.get("look", 0.0) + perf_counter() - start
        segmentation = predict(
            self.groups,
            turned(array, found.turn),
            turned_spacing(spacing, found.turn),
            flips=self.flips,
            views=self.views,
            region=found.region,
            device=self.device,
            keep_probabilities=keep_probabilities,
            seconds=stages,
        )
        start = perf_counter()
        clean = POSTPROCESSING[self.bundle.postprocessing]
        labels = np.ascontiguousarray(turned_back(segmentation.labels, found.turn))
        for frame in labels.reshape(-1, *array.shape[-3:]):
            frame[:] = clean(frame, self.bundle.labels)
        stages["postprocess"] = stages.get("postprocess", 0.0) + perf_counter() - start
        kept = segmentation.probabilities
        return dataclasses.replace(
            segmentation, labels=labels, probabilities=None if kept is None else turned_back(kept, found.turn)
        )

    def predict(self, image: sitk.Image) -> sitk.Image:
        """Segment a 3D or 4D SimpleITK image: uint8 labels in exactly its geometry.

        Raises :class:`UserError` for other images, as a call does.
        """
        volume = from_sitk(image)
        labels = to_sitk(self(volume.array, volume.geometry.spacing_zyx), volume.geometry)
        # The whole geometry, with what a 4D image says about its time axis.
        labels.CopyInformation(image)
        return labels


def load_model(path: str | Path, device: str | torch.device | None = None, fast: bool = False) -> Model:
    """Load a bundle that ``cas_ensemble`` made.

    Parameters
    ----------
    path
        The bundle: a folder or a ``.zip``.
    device
        "cpu", "cuda", "cuda:1", …; None: a GPU where there is one.
    fast
        Only the first network, and each slice as it is, neither mirrored nor turned: many times faster, a little less
        accurate.

    Raises
    ------
    UserError
        If the bundle is missing, damaged or foreign, or the device is not there.
    """
    chosen = pick_device(device)
    bundle, networks = load_bundle(Path(path), count=1 if fast else None)
    ready = [frozen(network, chosen) for network in networks]
    return Model(bundle, _groups(bundle, ready), () if fast else bundle.flips, (PLAIN,) if fast else bundle.views, chosen)


def _groups(bundle: Bundle, networks: Sequence[nn.Module]) -> tuple[Group, ...]:
    """Networks by plan, so that an image is resampled once for each plan.

    Of an ensemble of folds only the networks of the best one's fold are asked how far they agree: of a patient in
    cross-validation there are no more, so that is what a predicted quality can be fitted on.
    """
    groups = []
    for key in dict.fromkeys(member.plan for member in bundle.members):
        own = [pair for pair in zip(bundle.members, networks, strict=True) if pair[0].plan == key]
        first = [network for member, network in own if member.fold == bundle.members[0].fold]
        rest = [network for member, network in own if member.fold != bundle.members[0].fold]
        groups.append(Group(bundle.plans[key], (*first, *rest), len(first)))
    return tuple(groups)


def _check(array: NDArray[np.generic], spacing: tuple[float, float, float]) -> None:
    if array.ndim not in (3, 4) or array.size == 0:
        raise UserError(
            f"an image of shape {array.shape} is neither (Z, Y, X) nor (T, Z, Y, X): give a stack of slices or a cine"
        )
    if array.dtype.kind not in "iufb":
        raise UserError(f"an image of type {array.dtype} is not a grey-scale image: give numbers")
    if len(spacing) != 3 or not all(np.isfinite(value) and value > 0 for value in spacing):
        raise UserError(f"spacing {tuple(spacing)} is not three positive numbers (z, y, x) in mm: correct the header")
    sides = array.shape[-2] * spacing[1], array.shape[-1] * spacing[2]
    if max(sides) > LARGEST_MM:
        raise UserError(
            f"slices of {sides[0]:.0f} x {sides[1]:.0f} mm are not of a person: correct the spacing in the header"
        )
    if array.dtype.kind == "f":
        broken = sum(int((~np.isfinite(frame)).sum()) for frame in array.reshape(-1, *array.shape[-3:]))
        if broken:
            raise UserError(f"the image has {broken} voxels that are NaN or infinite: export it again")
