"""Sampling depends on (seed, step) alone and shows every slice equally often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cardiac_autoseg.training.inputs import fold_cases, load_inputs
from cardiac_autoseg.training.runner import fill_bank
from cardiac_autoseg.training.sampling import (
    SliceBank,
    build_bank,
    draw_centres,
    draw_slices,
    fits,
    resident,
    step_generator,
)
from cardiac_autoseg.workspace import RunKey, Workspace


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


def test_bank_gives_slices_padded_with_background() -> None:
    made = bank()
    images, labels = made.slices(torch.arange(14))
    assert len(made) == 14
    assert images.shape == labels.shape == (14, 60, 50)
    assert (images.dtype, labels.dtype) == (torch.float16, torch.uint8)
    assert images[0, :40].count_nonzero() > 0
    assert images[0, 40:].count_nonzero() == 0
    assert labels[1, 10:20, 12:26].eq(3).all()
    assert labels.count_nonzero() == 4 * 10 * 14


def test_annotators_share_the_images() -> None:
    rng = np.random.default_rng(1)
    image, other = rng.random((3, 40, 40)).astype(np.float16), rng.random((2, 40, 40)).astype(np.float16)
    drawn = {who: np.full((3, 40, 40), who + 2, np.uint8) for who in (-1, 1)}
    made = build_bank([(image, drawn), (other, {1: np.ones((2, 40, 40), np.uint8)})], (32, 32), torch.device("cpu"))
    images, labels = made.slices(torch.arange(8))
    assert len(made) == 8
    assert made.image.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert made.bytes == 40 * 40 * (2 * 5 + 8)
    assert made.annotator.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    assert labels[:, 0, 0].tolist() == [1, 1, 1, 3, 3, 3, 1, 1]
    assert torch.equal(images, torch.from_numpy(np.concatenate((image, image, other))))


def test_slices_kept_on_the_device_are_the_same() -> None:
    rng = np.random.default_rng(2)
    sizes = ((3, 40, 50), (2, 60, 30))
    volumes = [
        (rng.random(size).astype(np.float16), {who: rng.integers(0, 4, size, np.uint8) for who in range(3)})
        for size in sizes
    ]
    made = build_bank(volumes, (32, 32), torch.device("cpu"))
    assert made.resident is None
    kept = resident(made)
    assert kept.resident is not None
    chosen = torch.tensor([14, 0, 7, 7, 3, 11])
    for one, other in zip(made.slices(chosen), kept.slices(chosen), strict=True):
        assert torch.equal(one, other)
    assert sum(part.nbytes for part in kept.resident) == made.bytes


def test_a_gpu_keeps_what_takes_half_of_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (100, 200))
    assert fits(50, torch.device("cuda"))
    assert not fits(51, torch.device("cuda"))
    assert not fits(0, torch.device("cpu"))


def test_volumes_are_read_only_where_slices_are_drawn() -> None:
    """However many there are: the rest of the data set is not touched."""

    class Counted(np.ndarray):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return np.asarray(super().__getitem__(index))

    read: list[Any] = []
    labels = np.zeros((9, 40, 40), np.uint8)
    labels[:, 10:20, 12:26] = 3
    volumes = [(np.ones((9, 40, 40), np.float16).view(Counted), {0: labels.view(Counted)}) for _ in range(5)]
    made = build_bank(volumes, (32, 32), torch.device("cpu"))
    assert read == []
    chosen = torch.tensor([4, 12, 40])
    made.slices(chosen)
    made.hearts(chosen)
    made.hearts(chosen)
    assert read == [4, 4, 3, 3, 4, 4, 4, 3, 4]


def test_patches_are_centred_on_the_heart_even_where_a_slice_has_none() -> None:
    made = bank()
    assert torch.equal(made.hearts(torch.arange(14)), torch.tensor([[15.0, 19.0]]).expand(14, 2))
    assert torch.equal(made.hearts(torch.tensor([9, 2, 9])), torch.tensor([[15.0, 19.0]]).expand(3, 2))


def test_a_volume_without_a_heart_has_it_in_its_middle() -> None:
    empty = (np.ones((2, 40, 50), np.float16), {0: np.zeros((2, 40, 50), np.uint8)})
    made = build_bank([empty], (64, 64), torch.device("cpu"))
    assert made.hearts(torch.tensor([1, 0])).tolist() == [[20, 25], [20, 25]]


def test_some_patches_lie_anywhere_and_all_centres_inside() -> None:
    made = bank()
    chosen = torch.arange(14).repeat(300)
    centres = draw_centres(made, chosen, (32, 32), 0.15, 0.2, step_generator(0, 0))
    near = ((centres - made.hearts(chosen)).abs() <= 0.2 * 32).all(dim=1)
    assert 0.8 < near.float().mean() < 0.95
    far = centres[~near]
    assert (far >= 0).all()
    assert (far <= made.sizes[chosen][~near]).all()


def test_a_run_reads_its_slices_from_the_files_of_the_store(prepared_workspace: Path) -> None:
    plan, splits, dataset, store = load_inputs(Workspace(prepared_workspace), "enet")
    cases = fold_cases(dataset, store, splits, RunKey("enet", "expert", "ce_dice", "0", 0), print)
    made, _ = fill_bank(store, cases, plan, torch.device("cpu"))
    assert all(isinstance(array.base, np.memmap) for volume in made.volumes for array in volume)
    images, labels = made.slices(torch.arange(len(made)))
    start = 0
    for case in cases.trained:
        image, label = store.image(case), store.labels(case, "expert")
        here = (slice(start, start + len(image)), *(slice(size) for size in image.shape[1:]))
        assert np.array_equal(images[here].numpy(), image)
        assert np.array_equal(labels[here].numpy(), label)
        start += len(image)
    assert start == len(made)
