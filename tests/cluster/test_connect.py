"""The way to the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from cardiac_autoseg.cluster.connect import connected
from cardiac_autoseg.errors import UserError


def test_connects_to_all_nodes_and_leaves(cluster: Any) -> None:
    with connected(cluster.address) as ray:
        assert ray.cluster_resources()["CPU"] == 2
        assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "127.0.0.1:x", "no.such.host.invalid:6379"])
def test_no_cluster_is_said_in_words_and_soon(address: str) -> None:
    with pytest.raises(UserError, match=r"--cluster .*no Ray cluster answers there.*ray start"), connected(address):
        pass
