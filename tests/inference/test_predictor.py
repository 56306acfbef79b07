from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import cardiac_autoseg.inference.predictor as predictor
from cardiac_autoseg.bundle import Bundle
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.inference.model import Model
from cardiac_autoseg.inference.predictor import Group, flip_axes, predict, predict_probabilities
from cardiac_autoseg.inference.views import PLAIN
from cardiac_autoseg.preprocessing.normalise import normalise
from planning.plan import Plan

MakePlan = Callable[..., Plan]
MakeNetwork = Callable[[Plan, int], nn.Module]
SPACING = (8.0, 1.3, 1.1)


def image(*shape: int, seed: int = 0) -> np.ndarray:
    """Smooth random intensities, as of 0 to 400 units."""
    noise = torch.rand((1, 1, *shape[-3:]), generator=torch.Generator().manual_seed(seed))
    smooth = functional.avg_pool3d(functional.pad(noise, (2, 2, 2, 2)), (1, 5, 5), 1)[0, 0].numpy()
    frames = int(np.prod(shape[:-3]))
    return (400 * np.stack([smooth * (1 + 0.1 * frame) ** 2 for frame in range(frames)])).reshape(shape)


def test_flip_axes_count() -> None:
    assert flip_axes(False) == [()]
    assert flip_axes((1,)) == [(), (-1,)]
    assert sorted(map(sorted, flip_axes(True))) == [[], [-2], [-2, -1], [-1]]
    assert flip_axes(True) == flip_axes((0, 1))


@pytest.mark.parametrize(("flips", "batch"), [(False, 1), (False, 3), (True, 1), (True, 3), (True, 64), ((0,), 5)])
def test_batching_changes_nothing(make_plan: MakePlan, make_network: MakeNetwork, flips: bool, batch: int) -> None:
    plan = make_plan()
    networks = [make_network(plan, seed) for seed in range(2)]
    images = torch.from_numpy(normalise(image(5, 22, 31), (0.5, 99.5)))
    expected = slow_probabilities(networks, images, plan.divisor, flip_axes(flips))
    found = predict_probabilities(networks, images, plan.divisor, flips, batch=batch, amp=False)
    assert found.shape == (4, 5, 22, 31)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.sum(0), torch.ones(5, 22, 31))


def slow_probabilities(
    networks: list[nn.Module], images: torch.Tensor, divisor: tuple[int, int], mirrors: list
) -> torch.Tensor:
    """One slice, one mirror image, one network at a time; padding written out by hand."""
    result = torch.zeros(4, *images.shape)
    for z, plane in enumerate(images):
        for axes in mirrors:
            mirrored = plane.flip(axes) if axes else plane
            height, width = plane.shape
            canvas = torch.zeros([-(-n // d) * d for n, d in zip(plane.shape, divisor, strict=True)])
            top, left = (canvas.shape[0] - height) // 2, (canvas.shape[1] - width) // 2
            canvas[top : top + height, left : left + width] = mirrored
            for network in networks:
                with torch.no_grad():
                    values = network(canvas[None, None]).softmax(1)[0, :, top : top + height, left : left + width]
                result[:, z] += values.flip(axes) if axes else values
    return result / (len(networks) * len(mirrors))


def test_mirrored_image_gives_mirrored_result(make_plan: MakePlan, make_network: MakeNetwork) -> None:
    plan = make_plan()
    networks = [make_network(plan, 0)]
    # 22 needs an uneven padding to 24 only if it were one-sided; 23 needs one pixel, on one side.
    images = torch.from_numpy(normalise(image(2, 22, 23), (0.5, 99.5)))
    plain = predict_probabilities(networks, images, plan.divisor, True, amp=False)
    for axes in ((-1,), (-2,), (-2, -1)):
        mirrored = predict_probabilities(networks, images.flip(axes), plan.divisor, True, amp=False)
        torch.testing.assert_close(mirrored.flip(axes), plain, atol=1e-6, rtol=0)
    symmetric = images + images.flip(-1)
    result = predict_probabilities(networks, symmetric / 2, plan.divisor, (1,), amp=False)
    torch.testing.assert_close(result, result.flip(-1), atol=1e-6, rtol=0)
    assert not torch.allclose(plain, predict_probabilities(networks, images, plan.divisor, False, amp=False), atol=1e-3)


def test_bfloat16_is_close(make_plan: MakePlan, make_network: MakeNetwork) -> None:
    plan = make_plan()
    networks = [make_network(plan, 0)]
    images = torch.from_numpy(normalise(image(2, 24, 24), (0.5, 99.5)))
    exact = predict_probabilities(networks, images, plan.divisor, amp=False)
    rough = predict_probabilities(networks, images, plan.divisor, amp=True)
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().mean() < 0.02


@pytest.mark.parametrize("shape", [(3, 40, 33), (1, 1, 1), (2, 7, 64)])
def test_labels_have_the_grid_of_the_image(make_plan: MakePlan, make_network: MakeNetwork, shape: tuple[int, ...]) -> None:
    plan = make_plan()
    labels = predict([Group(plan, (make_network(plan, 0),))], image(*shape), SPACING, flips=True).labels
    assert labels.shape == shape
    assert labels.dtype == np.uint8
    assert labels.max() < 4


def test_cine_is_its_frames(make_plan: MakePlan, make_network: MakeNetwork) -> None:
    plan = make_plan()
    networks = [make_network(plan, 0)]
    cine = image(3, 4, 26, 30)
    whole = predict([Group(plan, tuple(networks))], cine, SPACING).labels
    assert whole.shape == cine.shape
    for frame, labels in zip(cine, whole, strict=True):
        np.testing.assert_array_equal(predict([Group(plan, tuple(networks))], frame, SPACING).labels, labels)


def test_chunks_change_nothing(make_plan: MakePlan, make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan()
    groups = [Group(plan, (make_network(plan, 0),))]
    cine = image(3, 4, 26, 30)
    whole = predict(groups, cine, SPACING, amp=False, keep_probabilities=True)
    monkeypatch.setattr(predictor, "CHUNK_VALUES", {"cpu": 4 * 26 * 30 * 5})
    chunked = predict(groups, cine, SPACING, amp=False, keep_probabilities=True)
    assert whole.probabilities is not None
    assert chunked.probabilities is not None
    assert whole.probabilities.shape == (4, *cine.shape)
    np.testing.assert_array_equal(whole.labels, chunked.labels)
    np.testing.assert_allclose(whole.probabilities, chunked.probabilities, atol=1e-3)


def test_same_as_a_slow_reference(make_plan: MakePlan, make_network: MakeNetwork, enet_plan: Plan) -> None:
    """Networks on two grids, against a loop that shares only the networks and the normalisation with the predictor."""
    plan = make_plan()
    members = [(plan, make_network(plan, 0)), (plan, make_network(plan, 1)), (enet_plan, make_network(enet_plan, 2))]
    groups = [Group(plan, (members[0][1], members[1][1])), Group(enet_plan, (members[2][1],))]
    raw = image(3, 37, 45)
    found = predict(groups, raw, SPACING, flips=True, amp=False, keep_probabilities=True)
    total = torch.zeros(4, *raw.shape)
    for member_plan, network in members:
        values = torch.from_numpy(normalise(raw, member_plan.clip_percentiles))
        size = [max(1, round(n * a / b)) for n, a, b in zip(raw.shape[1:], SPACING[1:], member_plan.spacing, strict=True)]
        for z in range(raw.shape[0]):
            small = functional.interpolate(values[z][None, None], size, mode="bicubic", antialias=True).clamp(0, 1)
            probabilities = slow_probabilities([network], small[0], member_plan.divisor, flip_axes(True))
            back = functional.interpolate(probabilities.transpose(0, 1), raw.shape[1:], mode="bilinear", antialias=True)
            total[:, z] += back[0] / 3
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities, total.numpy(), atol=2e-3)
    # Where two classes are as likely as each other to the last bit, either is right.
    margin = total.topk(2, 0).values.diff(dim=0)[0].abs().numpy()
    differs = found.labels != total.argmax(0).numpy()
    assert not (differs & (margin > 1e-4)).any()
    assert len(np.unique(found.labels)) > 1


def test_seconds_are_added_up(make_plan: MakePlan, make_network: MakeNetwork) -> None:
    plan = make_plan()
    seconds = {"network": 100.0}
    predict([Group(plan, (make_network(plan, 0),))], image(2, 16, 16), SPACING, seconds=seconds)
    assert set(seconds) == {"normalise", "resample", "network"}
    assert seconds["network"] > 100


def test_statistics_of_several_groups_on_the_image_s_own_grid(make_plan: MakePlan, make_network: MakeNetwork) -> None:
    """Nothing is resampled here, so the consensus and its probabilities are the same, however networks are grouped."""
    plan = make_plan()
    networks = [make_network(plan, number) for number in range(3)]
    raw, spacing = image(3, 24, 28), (8.0, *plan.spacing)
    together = predict([Group(plan, tuple(networks))], raw, spacing, amp=False)
    apart = predict([Group(plan, (networks[0],)), Group(plan, tuple(networks[1:]))], raw, spacing, amp=False)
    np.testing.assert_array_equal(apart.labels, together.labels)
    for name in ("consensus", "areas", "overlaps", "expected", "entropy"):
        ours, theirs = getattr(apart.statistics, name), getattr(together.statistics, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=0.5, err_msg=name)
    pixels = raw.shape[1] * raw.shape[2] * spacing[1] * spacing[2]
    np.testing.assert_allclose(apart.statistics.expected.sum(-1), pixels, rtol=1e-3)


def test_a_slice_larger_than_any_scanner_s_is_refused(make_plan: MakePlan, make_network: MakeNetwork) -> None:
    plan = make_plan()
    bundle = Bundle("test", {name: value for value, name in enumerate(plan.classes)}, {"a": plan}, ())
    model = Model(bundle, (Group(plan, (make_network(plan, 0),)),), (), (PLAIN,), torch.device("cpu"))
    with pytest.raises(UserError, match="correct the spacing"):
        model(image(2, 20, 20), (1000.0, 1000.0, 1000.0))
