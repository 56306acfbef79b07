"""How many runs a node has room for."""

from __future__ import annotations

import pytest

from cardiac_autoseg.cluster.room import Need, Node, cpu_room, gpu_room

GB = 1e9


def node(cpus: int = 16, memory: float = 64 * GB, gpus: int = 0, gpu_memory: float = 0) -> Node:
    return Node("id", "node", cpus, memory, gpus, int(gpu_memory))


def need(memory: float = 4 * GB, gpu: float = 8 * GB, devices: int = 1, threads: int | None = None, runs: int = 100) -> Need:
    return Need(memory, gpu, devices, threads, runs)


def test_a_cpu_node_is_filled_up_to_its_cores_or_its_memory() -> None:
    assert cpu_room(node(), need()).count == 16
    assert cpu_room(node(memory=10 * GB), need()).count == 2
    assert cpu_room(node(), need(threads=5)).count == 3
    assert cpu_room(node(cpus=4), need(threads=5)).count == 0
    assert cpu_room(node(), need(threads=2, devices=4)).count == 2


@pytest.mark.parametrize("most", range(1, 41))
@pytest.mark.parametrize("gpus", [1, 3])
def test_what_shares_a_gpu_fits_into_it(most: int, gpus: int) -> None:
    """In memory, and in Ray's own counting, by ten thousandths."""
    has = node(cpus=1000, memory=1e15, gpus=gpus, gpu_memory=most * 10 * GB)
    room = gpu_room(has, need(gpu=9 * GB, runs=1000), gpus)
    assert room.count == gpus * most
    ticks = round(room.gpus * 10_000)
    assert ticks * most <= 10_000 < ticks * (most + 1)


def test_a_gpu_is_shared_only_when_there_are_more_runs_than_gpus() -> None:
    has = node(gpus=4, gpu_memory=80 * GB)
    assert gpu_room(has, need(runs=4), 4).gpus == 1
    assert gpu_room(has, need(runs=5), 4).gpus == 0.5
    # On a cluster of two such nodes.
    assert gpu_room(has, need(runs=8), 8).gpus == 1


def test_cores_and_memory_bound_what_shares_gpus() -> None:
    has = node(cpus=6, gpus=1, gpu_memory=100 * GB)
    room = gpu_room(has, need(), 1)
    assert room.count * room.threads <= 6
    assert gpu_room(has, need(threads=3), 1).count == 2
    assert gpu_room(node(memory=9 * GB, gpus=1, gpu_memory=100 * GB), need(), 1).count == 2


def test_a_run_that_needs_several_gpus_has_them_whole() -> None:
    room = gpu_room(node(gpus=5, gpu_memory=80 * GB), need(devices=2), 5)
    assert (room.count, room.gpus, room.cores) == (2, 2, 2 * room.threads)
    assert room.count * room.cores <= 16
    assert gpu_room(node(gpus=1, gpu_memory=80 * GB), need(devices=2), 1).count == 0


def test_a_gpu_that_is_too_small_or_unusable_has_no_room() -> None:
    assert gpu_room(node(gpus=1, gpu_memory=8 * GB), need(), 1).count == 0
    assert gpu_room(node(gpus=1), need(), 1).count == 0
