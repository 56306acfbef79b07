"""A Ray cluster of several nodes on this machine, that nothing outside of it can reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

# Before Ray is imported: without it, it takes the address that others see this machine by.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="session")
def make_cluster() -> Iterator[Any]:
    """Makes a cluster of ``nodes`` nodes of ``cpus`` cores each (and ``gpus``, which are only said to be there)."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOOPBACK.items():
            patch.setenv(name, value)
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        made = []

        def make(nodes: int = 2, cpus: int = 1, gpus: int = 0) -> Any:
            cluster = Cluster()
            made.append(cluster)
            for _ in range(nodes):
                cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=100 << 20, include_dashboard=False)
            return cluster

        yield make
        for cluster in made:
            cluster.shutdown()


@pytest.fixture(scope="session")
def cluster(make_cluster: Any) -> Any:
    """Two nodes of one core, for all tests that leave them as they are; its ``address`` is what ``--cluster`` takes."""
    return make_cluster()
