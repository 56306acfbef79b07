"""Segmentation losses by name.

Every loss takes logits (B, C, H, W), the target (B, H, W) int64 with values 0..C-1 (0 is background), and the
progress of training in 0..1 (only ``boundary`` and ``gce`` use it), and returns a scalar. Half-precision logits are cast to
float32 first. ``p`` below is the softmax of the logits, ``p_t`` its value for the target class.

Where several processes share a batch, "the batch" of the overlap losses and of ``topk`` is that of all of them; means over
pixels are over a process's own. Each process takes its share of the slices times its loss: these add up to the loss of the
whole batch, and so do their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cardiac_autoseg.training.collectives import joined, summed

Loss = Callable[[Tensor, Tensor, float], Tensor]

SMOOTH = 1.0
"""Pixels added above and below in overlap losses: a class absent from target and prediction then costs nothing."""
BOUNDARY_WEIGHT = (0.01, 0.5)
"""Weight of the boundary term at the start and at the end of training; the region term has the rest."""

GCE_RISE = 0.5
"""Share of training over which ``gce`` turns from cross entropy into itself."""


def ce(logits: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:  # noqa: ARG001
    """Cross entropy: the mean of -log p_t over pixels."""
    return F.nll_loss(_log_softmax(logits), target)


def dice(logits: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:  # noqa: ARG001
    """Soft Dice loss over the whole batch (Milletari 2016; batch Dice of nnU-Net, Isensee 2021).

    1 minus the mean over foreground classes of (2I + 1) / (P + T + 1), where I, P and T are the sums over all pixels
    of the batch of p*t, p and t. A class absent from the batch costs P / (P + 1): nothing when it is not predicted.
    """
    return _dice(_log_softmax(logits), target)


def ce_dice(logits: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:  # noqa: ARG001
    """Cross entropy plus batch Dice loss with equal weights (nnU-Net, Isensee 2021)."""
    log_p = _log_softmax(logits)
    return F.nll_loss(log_p, target) + _dice(log_p, target)


def tversky(
    logits: Tensor,
    target: Tensor,
    progress: float = 0.0,  # noqa: ARG001
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
) -> Tensor:
    """Batch Tversky loss (Salehi 2017, arXiv 1706.05721): false positives weigh ``alpha``, false negatives ``beta``.

    1 minus the mean over foreground classes of I / (I + alpha (P - I) + beta (T - I)), smoothed so that
    alpha = beta = 1/2 is exactly :func:`dice`.
    """
    overlap, predicted, true = _sums(_log_softmax(logits), target)
    smooth = SMOOTH / 2
    errors = alpha * (predicted - overlap) + beta * (true - overlap)
    return 1 - ((overlap + smooth) / (overlap + errors + smooth)).mean()


def focal(logits: Tensor, target: Tensor, progress: float = 0.0, *, gamma: float = 2.0) -> Tensor:  # noqa: ARG001
    """Focal loss (Lin 2017, arXiv 1708.02002): the mean of -(1 - p_t)^gamma log p_t over pixels; gamma 0 or >= 1."""
    cost = F.nll_loss(_log_softmax(logits), target, reduction="none")
    return ((-torch.expm1(-cost)) ** gamma * cost).mean()


def topk(logits: Tensor, target: Tensor, progress: float = 0.0, *, fraction: float = 0.1) -> Tensor:  # noqa: ARG001
    """Cross entropy of the hardest ``fraction`` of the batch's pixels (Wu 2016, arXiv 1605.06885), at least one pixel."""
    cost = joined(F.nll_loss(_log_softmax(logits), target, reduction="none").flatten())
    return torch.topk(cost, max(1, round(fraction * cost.numel())), sorted=False).values.mean()


def boundary(logits: Tensor, target: Tensor, progress: float = 0.0) -> Tensor:
    """Boundary loss with :func:`ce_dice` as region loss (Kervadec 2019, arXiv 1812.07032).

    (1 - a) ce_dice + a * mean of p * d over foreground classes and pixels, where d is the signed distance in pixels
    (:func:`signed_distance`) and the weight a rises with ``progress`` (the paper's "rebalance" schedule) between
    the ends of BOUNDARY_WEIGHT. The distance maps are computed on the CPU.
    """
    start, end = BOUNDARY_WEIGHT
    weight = start + (end - start) * min(max(progress, 0.0), 1.0)
    log_p = _log_softmax(logits)
    distance = torch.from_numpy(signed_distance(target.cpu().numpy(), logits.shape[1]))
    surface = (log_p[:, 1:].exp() * distance.to(log_p)).mean()
    return (1 - weight) * (F.nll_loss(log_p, target) + _dice(log_p, target)) + weight * surface


def gce(logits: Tensor, target: Tensor, progress: float = 1.0, *, q: float = 0.7) -> Tensor:
    """Generalised cross entropy for noisy labels (Zhang & Sabuncu 2018, arXiv 1805.07836).

    The mean of (1 - p_t^q) / q over pixels: cross entropy as q -> 0, and 1 - p_t (mean absolute error / 2) at q = 1. Its
    gradient is p_t^q times that of cross entropy, so it gives up on labels that seem unlikely: from the start, a rare class
    seems so, and everything becomes background. Here q therefore rises from 0 to its value (the paper's 0.7) over the first
    GCE_RISE of training.
    """
    q *= min(progress / GCE_RISE, 1.0)
    cost = F.nll_loss(_log_softmax(logits), target, reduction="none")
    return (-torch.expm1(-q * cost)).mean() / q if q > 1e-3 else cost.mean()


LOSSES: dict[str, Loss] = {
    "ce": ce,
    "dice": dice,
    "ce_dice": ce_dice,
    "tversky": tversky,
    "focal": focal,
    "topk": topk,
    "boundary": boundary,
    "gce": gce,
}


def deep_supervision(loss: Loss, logits: Sequence[Tensor], target: Tensor, progress: float) -> Tensor:
    """Weighted mean of ``loss`` over outputs of falling resolution, weights 1, 1/2, 1/4, … normalised to sum 1.

    ``logits[i]`` is (B, C, H_i, W_i), the first at full resolution; the target (B, H, W) is brought to the size of
    the others by nearest neighbour.
    """
    weights = [0.5**level for level in range(len(logits))]
    terms = [
        weight * loss(output, _nearest(target, output.shape[2:]), progress)
        for weight, output in zip(weights, logits, strict=True)
    ]
    return torch.stack(terms).sum() / sum(weights)


def signed_distance(target: NDArray[np.integer], classes: int) -> NDArray[np.float32]:
    """Signed distance in pixels to each foreground class, slice by slice: (B, H, W) -> (B, classes - 1, H, W).

    Outside, the distance to the nearest pixel of the class; inside, 1 minus the distance to the nearest pixel outside
    (0 at its rim, negative further in), as in the reference code of Kervadec 2019. 0 everywhere where the class is
    absent or fills the slice.
    """
    result = np.zeros((len(target), classes - 1, *target.shape[1:]), np.float32)
    for index, one in enumerate(target):
        for channel in range(classes - 1):
            mask = one == channel + 1
            if not mask.any() or mask.all():
                continue
            distance = ndimage.distance_transform_edt(~mask)
            # Inside the class its bounding box and one pixel around it decide.
            box = tuple(
                slice(max(side.start - 1, 0), side.stop + 1) for side in ndimage.find_objects(mask.view(np.uint8))[0]
            )
            distance[box] -= np.maximum(ndimage.distance_transform_edt(mask[box]) - 1, 0)
            result[index, channel] = distance
    return result


def _log_softmax(logits: Tensor) -> Tensor:
    """log p in float32, or in float64 where that came in."""
    return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), 1)


def _sums(log_p: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Overlap, predicted and true pixel sums over the batch, each (C-1,) for the foreground classes."""
    probability = log_p[:, 1:].exp()
    foreground = torch.arange(1, log_p.shape[1], device=target.device)
    true = (target[:, None] == foreground[:, None, None]).to(log_p.dtype)
    pixels = (0, 2, 3)
    return summed((probability * true).sum(pixels), probability.sum(pixels), true.sum(pixels))


def _dice(log_p: Tensor, target: Tensor) -> Tensor:
    overlap, predicted, true = _sums(log_p, target)
    return 1 - ((2 * overlap + SMOOTH) / (predicted + true + SMOOTH)).mean()


def _nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """Target (B, H, W) sampled at the pixel nearest to the centre of each of ``size`` (h, w) cells."""
    if tuple(target.shape[1:]) == tuple(size):
        return target
    rows, columns = (
        ((torch.arange(new, device=target.device) + 0.5) * (old / new)).long()
        for new, old in zip(size, target.shape[1:], strict=True)
    )
    return target[:, rows][:, :, columns]
