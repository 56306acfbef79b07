"""The way to a Ray cluster, which somebody else started: on SLURM, on Kubernetes, or by ``ray start``."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cardiac_autoseg.errors import UserError

NAMESPACE = "cardiac_autoseg"


def import_ray() -> Any:
    """The module ``ray``; raises :class:`UserError` where it is not installed."""
    # It would otherwise report to its makers how it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--cluster needs Ray: pip install 'cardiac_autoseg[cluster]', on every machine of it") from error
    return ray


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ``ray``, connected to the cluster at ``address`` ("auto": the one that this machine belongs to).

    What was started over the connection ends with it, also when this process is killed. Raises :class:`UserError` where
    there is no such cluster, or one that was started with another Ray or another Python.
    """
    ray = import_ray()
    try:
        if address != "auto":
            _require_answer(address)
        _silence(ray)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        told = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"--cluster {address}: no Ray cluster answers there ({told[0]}). Start one with `ray start --head"
            " --disable-usage-stats` on this machine, and join others to it, as docs/cluster.md says"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise ``OSError`` or ``ValueError`` unless somebody listens at ``address``: Ray itself would look for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError("an address is HOST:PORT")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
        pass


def _silence(ray: Any) -> None:
    """Keep Ray from printing what befell its workers onto standard output, which may be JSON: who started the work is told
    by an exception, and says so. Ray has no option for it.
    """
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
