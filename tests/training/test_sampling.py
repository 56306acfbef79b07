"""Sampling depends on (seed, step) alone and shows every slice equally often."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cardiac_autoseg.training.sampling import SliceBank, build_bank, draw_centres, draw_slices, step_generator


def bank(count: int = 7) -> SliceBank:
    rng = np.random.default_rng(0)
    volumes = []
    for size in ((40, 50), (60, 30)):
        label = np.zeros((count, *size), np.uint8)
        label[1:3, 10:20, 12:26] = 3
        volumes.append((rng.random((count, *size)).astype(np.float16), {0: label}))
    return build_bank(volumes, (32, 32), torch.device("cpu"))


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (7, 7), (5, 16), (1, 4)])
def test_every_slice_is_seen_once_per_pass(count: int, batch: int) -> None:
    steps = 3 * count
    seen = torch.cat([draw_slices(count, batch, seed=4, step=step) for step in range(steps)])
    for start in range(0, len(seen) - count + 1, count):
        assert sorted(seen[start : start + count].tolist()) == list(range(count))


def test_draws_do_not_depend_on_earlier_draws() -> None:
    alone = torch.rand(5, generator=step_generator(3, 17))
    for step in range(17):
        torch.rand(step + 1, generator=step_generator(3, step))
    assert torch.equal(alone, torch.rand(5, generator=step_generator(3, 17)))
    assert not torch.equal(alone, torch.rand(5, generator=step_generator(4, 17)))
    assert not torch.equal(alone, torch.rand(5, generator=step_generator(3, 18)))


def test_bank_keeps_slices_and_pads_with_background() -> None:
    made = bank()
    assert len(made) == 14
    assert made.images.shape == made.labels.shape == (14, 60, 50)
    assert made.images[0, 40:].abs().sum() == 0
    assert made.labels[1, 10:20, 12:26].eq(3).all()
    assert made.labels.count_nonzero() == 4 * 10 * 14


def test_annotators_share_the_images() -> None:
    rng = np.random.default_rng(1)
    image, other = rng.random((3, 40, 40)).astype(np.float16), rng.random((2, 40, 40)).astype(np.float16)
    drawn = {who: np.full((3, 40, 40), who + 2, np.uint8) for who in (-1, 1)}
    made = build_bank([(image, drawn), (other, {1: np.ones((2, 40, 40), np.uint8)})], (32, 32), torch.device("cpu"))
    assert len(made) == 8
    assert made.images.shape == (5, 40, 40)
    assert made.image.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert made.annotator.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    assert made.labels[:, 0, 0].tolist() == [1, 1, 1, 3, 3, 3, 1, 1]
    assert torch.equal(made.images[made.image[3]], torch.from_numpy(image[0]))


def test_patches_are_centred_on_the_heart_even_where_a_slice_has_none() -> None:
    made = bank()
    assert torch.equal(made.hearts, torch.tensor([[15.0, 19.0]]).expand(14, 2))


def test_some_patches_lie_anywhere_and_all_centres_inside() -> None:
    made = bank()
    chosen = torch.arange(14).repeat(300)
    centres = draw_centres(made, chosen, (32, 32), 0.15, 0.2, step_generator(0, 0))
    near = ((centres - made.hearts[chosen]).abs() <= 0.2 * 32).all(dim=1)
    assert 0.8 < near.float().mean() < 0.95
    far = centres[~near]
    assert (far >= 0).all()
    assert (far <= made.sizes[chosen][~near]).all()
