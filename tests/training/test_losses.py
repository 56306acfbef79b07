"""The losses against the formulas of their papers, in plain numpy, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from cardiac_autoseg.training import losses
from cardiac_autoseg.training.losses import LOSSES, deep_supervision, signed_distance

Array = NDArray[np.float64]


def batch(seed: int = 0, classes: int = 4, shape: tuple[int, int, int] = (3, 7, 5)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, shape, generator=generator)


def softmax(logits: Tensor) -> Array:
    exponentials = np.exp(logits.numpy())
    return exponentials / exponentials.sum(1, keepdims=True)


def target_probability(logits: Tensor, target: Tensor) -> Array:
    p = softmax(logits)
    return np.array([p[b, c, y, x] for (b, y, x), c in np.ndenumerate(target.numpy())])


def counts(logits: Tensor, target: Tensor, c: int) -> tuple[float, float, float]:
    """True positives, false positives and false negatives of class c, soft, over the batch."""
    p, t = softmax(logits)[:, c], target.numpy() == c
    return (p * t).sum(), (p * ~t).sum(), ((1 - p) * t).sum()


def tversky_by_hand(logits: Tensor, target: Tensor, alpha: float, beta: float) -> float:
    values = []
    for c in range(1, logits.shape[1]):
        tp, fp, fn = counts(logits, target, c)
        values.append((tp + 0.5) / (tp + alpha * fp + beta * fn + 0.5))
    return 1 - float(np.mean(values))


def ce_by_hand(logits: Tensor, target: Tensor) -> float:
    return float(-np.log(target_probability(logits, target)).mean())


def dice_by_hand(logits: Tensor, target: Tensor) -> float:
    values = []
    for c in range(1, logits.shape[1]):
        tp, fp, fn = counts(logits, target, c)
        values.append((2 * tp + 1) / (2 * tp + fp + fn + 1))
    return 1 - float(np.mean(values))


def topk_by_hand(logits: Tensor, target: Tensor) -> float:
    cost = np.sort(-np.log(target_probability(logits, target)))[::-1]
    return float(cost[: round(0.1 * cost.size)].mean())


def distance_by_hand(mask: NDArray[np.bool_]) -> Array:
    """Kervadec's signed distance by brute force over all pairs of pixels."""
    result = np.zeros(mask.shape)
    inside, outside = np.argwhere(mask), np.argwhere(~mask)
    if len(inside) and len(outside):
        result[~mask] = cdist(outside, inside).min(1)
        result[mask] = -(cdist(inside, outside).min(1) - 1)
    return result


def boundary_by_hand(logits: Tensor, target: Tensor, progress: float) -> float:
    p, classes = softmax(logits), logits.shape[1]
    terms = [
        p[b, c, y, x] * distance[y, x]
        for b in range(len(target))
        for c in range(1, classes)
        for distance in [distance_by_hand(target[b].numpy() == c)]
        for y, x in np.ndindex(distance.shape)
    ]
    weight = 0.01 + 0.49 * progress
    return (1 - weight) * (ce_by_hand(logits, target) + dice_by_hand(logits, target)) + weight * float(np.mean(terms))


def gce_by_hand(pt: Array, q: float) -> float:
    return float(((1 - pt**q) / q).mean())


def by_hand(name: str, logits: Tensor, target: Tensor, progress: float) -> float:
    if name == "boundary":
        return boundary_by_hand(logits, target, progress)
    pt = target_probability(logits, target)
    return {
        "ce": lambda: ce_by_hand(logits, target),
        "dice": lambda: dice_by_hand(logits, target),
        "ce_dice": lambda: ce_by_hand(logits, target) + dice_by_hand(logits, target),
        "tversky": lambda: tversky_by_hand(logits, target, 0.3, 0.7),
        "focal": lambda: float((-((1 - pt) ** 2) * np.log(pt)).mean()),
        "topk": lambda: topk_by_hand(logits, target),
        "gce": lambda: gce_by_hand(pt, 0.7 * min(progress / 0.5, 1)),
    }[name]()


def test_names() -> None:
    assert set(LOSSES) == {"ce", "dice", "ce_dice", "tversky", "focal", "topk", "boundary", "gce"}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 4])
def test_agrees_with_the_formula_in_numpy(name: str, classes: int) -> None:
    for seed in range(3):
        logits, target = batch(seed, classes)
        assert LOSSES[name](logits, target, 0.3).item() == pytest.approx(by_hand(name, logits, target, 0.3), abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    logits, target = batch(1, shape=(2, 4, 3))
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target, 0.5), logits.requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_for_extreme_logits(name: str, sign: int) -> None:
    _, target = batch()
    hot = torch.nn.functional.one_hot(target, 4).permute(0, 3, 1, 2).float()
    logits = (sign * (200 * hot - 100)).requires_grad_()
    value = LOSSES[name](logits, target, 1.0)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("present", [(0,), (3,), (0, 2)])
def test_finite_when_classes_are_absent(name: str, present: tuple[int, ...]) -> None:
    logits, target = batch()
    target = torch.tensor(present)[target % len(present)]
    value = LOSSES[name](logits.requires_grad_(), target, 0.7)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_computed_in_float32(name: str) -> None:
    logits, target = batch()
    half = logits.bfloat16()
    value = LOSSES[name](half, target, 0.5)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(LOSSES[name](half.float(), target, 0.5).item(), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_falls_when_descending(name: str) -> None:
    logits, target = batch()
    start = LOSSES[name](logits, target, 0.5).item()
    for _ in range(20):
        logits = logits.detach().requires_grad_()
        LOSSES[name](logits, target, 0.5).backward()
        assert logits.grad is not None
        logits = logits - 5 * logits.grad
    assert LOSSES[name](logits, target, 0.5).item() < start


def test_uniform_prediction_in_closed_form() -> None:
    logits, target = torch.zeros(1, 2, 2, 2), torch.tensor([[[0, 0], [0, 1]]])
    assert LOSSES["ce"](logits, target, 0).item() == pytest.approx(math.log(2))
    assert LOSSES["dice"](logits, target, 0).item() == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))
    assert LOSSES["focal"](logits, target, 0).item() == pytest.approx(0.25 * math.log(2))
    assert LOSSES["gce"](logits, target, 0).item() == pytest.approx(math.log(2))
    assert LOSSES["gce"](logits, target, 1).item() == pytest.approx((1 - 0.5**0.7) / 0.7)


def test_perfect_prediction_costs_nothing() -> None:
    _, target = batch()
    logits = 100 * torch.nn.functional.one_hot(target, 4).permute(0, 3, 1, 2).float()
    for name in set(LOSSES) - {"boundary"}:
        assert LOSSES[name](logits, target, 0).item() == pytest.approx(0, abs=1e-6)


def test_dice_is_over_the_batch_and_ignores_the_background() -> None:
    """One slice all right, one all wrong: batch Dice pools their pixels; the background's own Dice never enters."""
    target = torch.zeros(2, 2, 2, dtype=torch.long)
    target[:, 0] = 1
    predicted = target.clone()
    predicted[1] = 0
    logits = 100 * torch.nn.functional.one_hot(predicted, 2).permute(0, 3, 1, 2).float()
    assert LOSSES["dice"](logits, target, 0).item() == pytest.approx(1 - (2 * 2 + 1) / (2 + 4 + 1))


def test_absent_class_costs_nothing_unless_predicted() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    nothing, everything = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    nothing[:, 0], everything[:, 1] = 100, 100
    assert LOSSES["dice"](nothing, target, 0).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES["dice"](everything, target, 0).item() == pytest.approx(16 / 17)


def test_limits() -> None:
    logits, target = batch(4)
    cross_entropy = losses.ce(logits, target).item()
    pt = target_probability(logits, target)
    assert losses.focal(logits, target, gamma=0).item() == pytest.approx(cross_entropy, abs=1e-12)
    assert losses.gce(logits, target, q=1e-8).item() == pytest.approx(cross_entropy, rel=1e-6)
    assert losses.gce(logits, target, q=1).item() == pytest.approx(float((1 - pt).mean()), abs=1e-12)
    assert losses.topk(logits, target, fraction=1).item() == pytest.approx(cross_entropy, abs=1e-12)
    assert losses.tversky(logits, target, alpha=0.5, beta=0.5).item() == pytest.approx(losses.dice(logits, target).item())


def test_tversky_punishes_missing_more_than_excess() -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[:, :2] = 1
    missing, excess = target.clone(), target.clone()
    missing[:, 1], excess[:, 2] = 0, 1
    cost = [
        LOSSES["tversky"](100 * torch.nn.functional.one_hot(p, 2).permute(0, 3, 1, 2).float(), target, 0).item()
        for p in (missing, excess)
    ]
    assert cost[0] > cost[1]


def test_topk_looks_at_the_hardest_pixels_only() -> None:
    logits = torch.zeros(1, 2, 1, 10)
    logits[0, 0] = torch.tensor([5.0] * 9 + [-5.0])
    target = torch.zeros(1, 1, 10, dtype=torch.long)
    hardest = math.log(1 + math.exp(5.0))
    assert LOSSES["topk"](logits, target, 0).item() == pytest.approx(hardest)


def test_signed_distance_of_a_line() -> None:
    line = np.array([[[0, 0, 1, 1, 1, 1, 1, 0]]])
    assert signed_distance(line, 2)[0, 0, 0].tolist() == [2, 1, 0, -1, -2, -1, 0, 1]


def test_signed_distance_agrees_with_brute_force() -> None:
    random = np.random.default_rng(0)
    target = (random.random((3, 12, 9)) < 0.2).astype(int)
    target[0, 0:6, 0:5] = 2  # touches two borders
    target[1, 3:9, 2:7] = 2
    distance = signed_distance(target, 4)
    for b, c in np.ndindex(3, 3):
        np.testing.assert_allclose(distance[b, c], distance_by_hand(target[b] == c + 1), atol=1e-5)


def test_signed_distance_of_absent_and_full_classes_is_zero() -> None:
    assert not signed_distance(np.ones((1, 4, 4), int), 3).any()


def test_boundary_weight_rises_with_progress() -> None:
    """A region term of (nearly) nothing leaves weight times the sum of the distance inside the object."""
    target = torch.zeros(1, 9, 9, dtype=torch.long)
    target[:, 2:7, 2:7] = 1
    logits = 100 * torch.nn.functional.one_hot(target, 2).permute(0, 3, 1, 2).float()
    inside = -(1 * 8 + 2 * 1) / 81  # rim of 16 pixels at 0, ring of 8 at -1, middle at -2
    for progress, weight in [(0.0, 0.01), (0.5, 0.255), (1.0, 0.5), (7.0, 0.5)]:
        assert LOSSES["boundary"](logits, target, progress).item() == pytest.approx(weight * inside, abs=1e-6)


def test_boundary_term_prefers_near_misses() -> None:
    target = torch.zeros(1, 1, 20, dtype=torch.long)
    target[..., 2:6] = 1
    cost = []
    for start in (6, 15):
        predicted = target.clone()
        predicted[..., start : start + 2] = 1
        logits = 20 * torch.nn.functional.one_hot(predicted, 2).permute(0, 3, 1, 2).float()
        cost.append(LOSSES["boundary"](logits, target, 1.0).item())
    assert cost[0] < cost[1]


def test_deep_supervision_weights_and_targets() -> None:
    target = torch.zeros(2, 8, 12, dtype=torch.long)
    target[:, 2:6, 4:8] = 3
    outputs = [torch.randn(2, 4, 8 // step, 12 // step) for step in (1, 2, 4)]
    small, tiny = torch.zeros(2, 4, 6, dtype=torch.long), torch.zeros(2, 2, 3, dtype=torch.long)
    small[:, 1:3, 2:4] = 3
    tiny[:, :, 1] = target[:, [2, 6], 6]
    expected = (
        4 * losses.ce(outputs[0], target) + 2 * losses.ce(outputs[1], small) + losses.ce(outputs[2], tiny)
    ).item() / 7
    assert deep_supervision(LOSSES["ce"], outputs, target, 0.0).item() == pytest.approx(expected, rel=1e-5)


def test_deep_supervision_of_one_output_is_the_loss() -> None:
    logits, target = batch()
    for name, loss in LOSSES.items():
        assert deep_supervision(loss, [logits], target, 0.4).item() == pytest.approx(loss(logits, target, 0.4).item()), name


def test_gce_learns_classes_that_are_rare() -> None:
    """Its gradient is small where the label seems unlikely, as a rare class does at first; it must come back from there."""
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(8, 32, 32, dtype=torch.int64)
    for number in range(8):
        y, x = 4 + number, 14 - number
        target[number, y : y + 10, x : x + 10] = 1
        target[number, y + 3 : y + 7, x + 3 : x + 7] = 2
    images = torch.tensor([0.2, 0.5, 0.8])[target][:, None] + 0.05 * torch.randn(8, 1, 32, 32, generator=generator)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 12, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv2d(12, 3, 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.02)
    for step in range(600):
        optimiser.zero_grad()
        LOSSES["gce"](network(images), target, step / 600).backward()
        optimiser.step()
    found = network(images).argmax(1)
    for value in (1, 2):
        both = ((found == value) & (target == value)).sum()
        assert 2 * both > 0.8 * ((found == value).sum() + (target == value).sum())
