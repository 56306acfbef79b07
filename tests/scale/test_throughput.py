"""The model of throughput, against what must hold, and against the simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cardiac_autoseg.scale.throughput import HOUR, Machine, Storage, Study, bottleneck, limits, simulate

STUDY = Study(bytes_in=20e6, bytes_out=2e6, unpack=0.3, network=5.0, finish=0.7)


def test_one_core_does_one_thing_after_the_other() -> None:
    assert simulate(STUDY, 1, [Machine(1)], Storage()) == pytest.approx(6.0)
    assert simulate(STUDY, 10, [Machine(1)], Storage()) == pytest.approx(60.0)
    assert simulate(STUDY, 10, [Machine(1, start=7.0)], Storage()) == pytest.approx(67.0)
    assert bottleneck(STUDY, [Machine(1)], Storage()) == ("cores", pytest.approx(HOUR / 6))


def test_stages_overlap_where_there_are_means_for_each() -> None:
    """One GPU as fast as a core: the network is all that is waited for, but for the first unpacking and the last finish."""
    assert simulate(STUDY, 10, [Machine(1, gpus=1)], Storage()) == pytest.approx(0.3 + 10 * 5.0 + 0.7)
    assert bottleneck(STUDY, [Machine(1, gpus=1)], Storage()) == ("GPUs", pytest.approx(HOUR / 5))


def test_the_bottleneck_moves_as_the_gpu_becomes_faster() -> None:
    storage = Storage(read=2e9, write=2e9)
    names = [bottleneck(STUDY, [Machine(16, 1, speedup)] * 2, storage)[0] for speedup in (1, 10, 100, 1000)]
    assert names == ["GPUs", "GPUs", "cores", "cores"]
    assert bottleneck(STUDY, [Machine(16, 1, 1000)] * 8, storage)[0] == "storage"


def test_a_cluster_of_both_kinds_does_what_both_do() -> None:
    both = [Machine(12), Machine(10, 1, 50)]
    assert limits(STUDY, both, Storage())["cores"] == pytest.approx(HOUR * (12 / 6 + 10 / 1))
    assert limits(STUDY, both, Storage())["GPUs"] == pytest.approx(HOUR * (12 / 6 + 50 / 5))


@pytest.mark.parametrize("seed", range(12))
def test_the_simulation_comes_to_what_the_model_says(seed: int) -> None:
    draw = np.random.default_rng(seed)
    study = Study(*draw.uniform(1e6, 5e7, 2), *draw.uniform(0.05, 4, 3))
    machine = Machine(int(draw.integers(1, 6)), int(draw.integers(0, 2)), float(draw.uniform(1, 20)))
    machines, storage = [machine] * int(draw.integers(1, 4)), Storage(*draw.uniform(1e6, 2e8, 2))
    count = 400
    seconds = simulate(study, count, machines, storage, variation=0.5, seed=seed)
    _, rate = bottleneck(study, machines, storage)
    ideal = count / rate * HOUR
    assert 0.93 * ideal < seconds  # the studies of one draw may be smaller than the mean
    # Threads that wait for each other cost something where two parts are nearly as scarce.
    assert seconds <= 1.25 * ideal


def test_a_lost_machine_leaves_its_work_to_the_others() -> None:
    alone, two = simulate(STUDY, 40, [Machine(1)], Storage()), simulate(STUDY, 40, [Machine(1)] * 2, Storage())
    lost = simulate(STUDY, 40, [Machine(1), Machine(1, lost=two / 2)], Storage())
    assert two < lost < alone
    # Half of the time both, then one; and at most what was at hand is done twice.
    assert lost == pytest.approx(1.5 * two, abs=3 * 6.0)
    assert simulate(STUDY, 4, [Machine(1, lost=10.0)], Storage()) == math.inf
