"""Turns, zooms, the quick look and the region: none may move the heart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cardiac_autoseg.bundle import Bundle
from cardiac_autoseg.inference.look import look
from cardiac_autoseg.inference.model import Model
from cardiac_autoseg.inference.orientation import (
    DISPLAY,
    turn_by_header,
    turn_by_look,
    turned,
    turned_back,
    turned_spacing,
    turned_tensor,
)
from cardiac_autoseg.inference.predictor import Group, predict
from cardiac_autoseg.inference.region import Region, region_of
from cardiac_autoseg.inference.views import PLAIN, VIEWS, from_view, to_view
from planning.plan import Plan

MakePlan = Callable[..., Plan]
SPACING = (8.0, 1.3, 1.1)


class Brightness(nn.Module):
    """Says LV where a pixel is bright, MYO where it is grey, background where it is dark: a network that knows no place."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        levels = torch.tensor([0.0, 9.0, 0.5, 1.0], device=images.device)[None, :, None, None]
        return -200 * (images - levels) ** 2


@pytest.fixture
def group(make_plan: MakePlan) -> Group:
    return Group(make_plan(clip_percentiles=(0.0, 100.0)), (Brightness().eval(),))


def heart(size: tuple[int, int], centre: tuple[float, float], slices: int = 3) -> np.ndarray:
    """A bright disc in a grey ring, lying off the centre of the slices."""
    y, x = np.mgrid[: size[0], : size[1]]
    distance = np.hypot((y - centre[0]) * SPACING[1], (x - centre[1]) * SPACING[2])
    plane = np.where(distance < 20, 100.0, np.where(distance < 30, 50.0, 0.0))
    return np.repeat(plane[None], slices, 0).astype(np.float32)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(60, 60), (48, 80)])
def test_a_view_is_undone(view: tuple[float, float], shape: tuple[int, int]) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    blob = np.exp(-((y - shape[0] / 2 - 4) ** 2 + (x - shape[1] / 2 + 5) ** 2) / 60)
    image = torch.tensor(blob, dtype=torch.float32)[None, None]
    seen = to_view(image, view)
    assert (view == PLAIN) == torch.equal(seen, image)
    torch.testing.assert_close(from_view(seen, view), image, atol=0.05, rtol=0)


def test_views_turn_and_zoom_in_pixels() -> None:
    """A quarter turn, and a zoom by two, of a slice whose sides differ, against numpy."""
    image = torch.rand((1, 1, 40, 40), generator=torch.Generator().manual_seed(0))
    quarter = to_view(image, (90.0, 1.0))[0, 0]
    expected = [torch.rot90(image[0, 0], k) for k in (1, 3)]
    assert min(float((quarter - item).abs().max()) for item in expected) < 1e-4
    wide = torch.zeros(1, 1, 40, 80)
    wide[..., 15:25, 35:45] = 1
    assert float(to_view(wide, (0.0, 2.0)).sum()) == pytest.approx(400, rel=0.05)
    assert float(to_view(wide, (30.0, 1.0)).sum()) == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("turn", range(8))
def test_turns_are_undone_and_agree_with_torch(turn: int) -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(turned_back(turned(array, turn), turn), array)
    np.testing.assert_array_equal(turned_tensor(torch.from_numpy(array), turn).numpy(), turned(array, turn))
    transposed = turned(array, turn).shape == (2, 4, 3)
    assert turned_spacing(SPACING, turn) == ((SPACING[0], SPACING[2], SPACING[1]) if transposed else SPACING)


@pytest.mark.parametrize("turn", range(8))
def test_header_tells_the_turn_that_undoes_another(turn: int) -> None:
    """Axes of an image that was laid otherwise: the header's turn brings them back to the display's."""
    x, y = np.array([0.712, 0.701, -0.034]), np.array([-0.308, 0.268, -0.913])
    coordinates = np.stack(np.meshgrid(np.arange(5), np.arange(5), indexing="ij"), -1)
    points = coordinates[..., :1] * y + coordinates[..., 1:] * x
    laid = np.moveaxis(turned(np.moveaxis(points, -1, 0), turn), 0, -1)
    axes = laid[0, 1] - laid[0, 0], laid[1, 0] - laid[0, 0]
    direction = np.column_stack([*axes, np.cross(*axes)]).ravel()
    found = turn_by_header(direction, DISPLAY)
    assert found is not None
    np.testing.assert_allclose(turned(np.moveaxis(laid, -1, 0), found), np.moveaxis(points, -1, 0))


def test_header_along_the_body_tells_nothing() -> None:
    assert turn_by_header(np.eye(3).ravel(), DISPLAY) is None
    assert turn_by_header(np.diag([-1.0, -1.0, 1.0]).ravel(), DISPLAY) is None


def test_look_turns_only_where_the_network_is_clearly_surer() -> None:
    """A network that is sure only where the bright half lies on top."""
    image = torch.zeros(2, 10, 10)
    image[:, :5] = 1

    def predict_upright(slices: torch.Tensor) -> torch.Tensor:
        sure = 0.99 if float(slices[:, :5].mean()) > 0.9 else 0.8
        heart = torch.full_like(slices, sure)
        return torch.stack([1 - heart, heart])

    def found(lying: torch.Tensor, predict: Callable[[torch.Tensor], torch.Tensor]) -> int:
        return turn_by_look(lying, predict(lying), predict)

    assert found(image, predict_upright) == 0
    lying = torch.rot90(image, 1, (1, 2))
    assert turned_tensor(lying, found(lying, predict_upright))[:, :5].mean() == 1
    assert found(image, lambda slices: torch.stack([1 - 0.8 * slices, 0.8 * slices])) == 0
    assert found(image, lambda slices: torch.stack([torch.ones_like(slices), 0 * slices])) == 0


def test_region_holds_the_heart_with_its_margin() -> None:
    labels = np.zeros((3, 100, 80), np.uint8)
    labels[1, 40:50, 30:45] = 3
    labels[2, 0, 0] = 1  # a speck
    region = region_of([labels], (200, 160), (1.0, 1.0))
    assert region == Region(slice(50, 130), slice(30, 120))
    assert region_of([np.zeros_like(labels)], (200, 160), (1.0, 1.0)) is None
    assert region_of([labels], (80, 70), (1.0, 1.0)) is None  # it would be nearly everything
    moved = np.roll(labels, 20, 1)
    both = region_of([labels, moved], (200, 160), (1.0, 1.0))
    assert both is not None
    assert both.y.stop == 170


@pytest.mark.parametrize("turn", [0, 3, 6])
def test_region_and_turn_change_nothing_but_the_work(group: Group, turn: int) -> None:
    image = turned(heart((180, 200), (70.0, 120.0)), turn)
    spacing = turned_spacing(SPACING, turn)
    found = look(group, image, spacing, (), None, torch.device("cpu"))
    assert found.turn == 0
    assert found.region is not None
    whole = predict([group], image, spacing, amp=False, keep_probabilities=True)
    part = predict([group], image, spacing, region=found.region, amp=False, keep_probabilities=True)
    assert (whole.labels != part.labels).mean() < 0.002  # pixels on edges, as the two grids differ by less than a pixel
    assert whole.labels.max() == 3
    assert part.probabilities is not None
    assert part.probabilities.shape == (4, *image.shape)
    np.testing.assert_allclose(part.probabilities.astype(float).sum(0), 1, atol=0.01)


def test_model_lays_the_image_as_its_networks_know_it(group: Group, tmp_path: Path) -> None:
    """Labels always lie as the image does, whichever way that is."""
    del tmp_path
    labels = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    bundle = Bundle("test", labels, {"a": group.plan}, (), orientation=DISPLAY)
    model = Model(bundle, (group,), (), VIEWS, torch.device("cpu"))
    image = heart((180, 200), (70.0, 120.0))
    direction = (0.712, -0.308, 0.631, 0.701, 0.268, -0.661, -0.034, -0.913, -0.406)
    expected = model.segment(image, SPACING, direction=direction)
    for turn in range(8):
        laid = model.segment(
            np.ascontiguousarray(turned(image, turn)),
            turned_spacing(SPACING, turn),
            direction=turn_direction(direction, turn),
        )
        np.testing.assert_array_equal(turned_back(laid.labels, turn), expected.labels)
        np.testing.assert_allclose(laid.statistics.consensus, expected.statistics.consensus, rtol=1e-5)


def turn_direction(direction: tuple[float, ...], turn: int) -> tuple[float, ...]:
    x, y, _ = np.reshape(direction, (3, 3)).T
    if turn >= 4:
        x, y = y, x
    for _ in range(turn % 4):
        x, y = y, -x
    return tuple(np.column_stack([x, y, np.cross(x, y)]).ravel())


def test_statistics_are_areas_in_mm2(group: Group) -> None:
    image = np.stack([heart((100, 120), (50.0, 60.0), 2), heart((100, 120), (50.0, 60.0), 2) * 0])
    found = predict([group], image, SPACING, views=VIEWS, amp=False)
    statistics = found.statistics
    assert statistics.areas.shape == (len(VIEWS), 2, 2, 4)
    assert statistics.opinions == len(VIEWS)
    voxels = np.stack([(found.labels == value).sum((-1, -2)) for value in range(4)], -1) * SPACING[1] * SPACING[2]
    np.testing.assert_allclose(statistics.consensus[0, :, 2:], voxels[0, :, 2:], rtol=0.05)
    np.testing.assert_allclose(statistics.consensus[0, :, 3], np.pi * 20**2, rtol=0.05)
    assert (statistics.overlaps <= statistics.areas + 1e-3).all()
    assert (statistics.overlaps <= statistics.consensus + 1e-3).all()
    np.testing.assert_allclose(statistics.areas.sum(-1), 100 * 120 * SPACING[1] * SPACING[2], rtol=1e-3)
    np.testing.assert_allclose(statistics.expected.sum(-1), 100 * 120 * SPACING[1] * SPACING[2], rtol=1e-3)
    assert (statistics.entropy[0] > statistics.entropy[1]).all()
    alone = predict([group], image, SPACING, amp=False).statistics
    np.testing.assert_array_equal(alone.overlaps, alone.areas)


def test_two_grids_have_one_statistic(group: Group) -> None:
    other = dataclasses.replace(group, plan=dataclasses.replace(group.plan, spacing=(1.9, 1.2)))
    image = heart((100, 120), (50.0, 60.0), 2)
    statistics = predict([group, other], image, SPACING, amp=False).statistics
    assert statistics.opinions == 2
    np.testing.assert_allclose(statistics.areas[:, 0, :, 3], np.pi * 20**2, rtol=0.06)
    assert (statistics.overlaps[..., 3] / statistics.areas[..., 3] > 0.95).all()
