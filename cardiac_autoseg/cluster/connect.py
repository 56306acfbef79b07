"""The way to a Ray cluster, which somebody else started: on SLURM, on Kubernetes, or by ``ray start``."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cardiac_autoseg.errors import UserError, first_line

NAMESPACE = "cardiac_autoseg"
ANSWER = 10.0
"""Seconds in which somebody must answer at the address of a cluster."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ``ray``, connected to the cluster at ``address`` ("auto": the one that this machine belongs to).

    What was started over the connection ends with it, also when this process is killed. Raises :class:`UserError` where
    there is no such cluster, or one that was started with another Ray or another Python.
    """
    try:
        found = _find() if address == "auto" else address
        # Ray itself would look for minutes.
        local = _require_answer(found)
        ray = _import_ray(local)
        _silence(ray)
        ray.init(address=found, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--cluster {address}: no Ray cluster answers there ({first_line(error)}). Start one with `ray start --head"
            " --disable-usage-stats` on this machine, and join others to it, as docs/cluster.md says"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _import_ray(local: bool) -> Any:
    """The module ``ray``; ``local``: for a cluster that only this machine can reach."""
    # It would otherwise report to its makers how it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:
        # The only way to keep it from taking the loopback address for that by which others see this machine.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("--cluster needs Ray: pip install 'cardiac_autoseg[cluster]', on every machine of it") from error
    return ray


def _find() -> str:
    """The address of the cluster that this machine belongs to; ``OSError`` if there is none."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    note = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    if not note.is_file():
        raise FileNotFoundError("this machine belongs to none, and RAY_ADDRESS is not set")
    return note.read_text(encoding="utf-8").strip()


def _require_answer(address: str) -> bool:
    """Raise ``OSError`` or ``ValueError`` unless somebody listens at ``address``; whether he does for this machine alone."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError("an address is HOST:PORT")
    host = host.strip("[]")
    with socket.create_connection((host, int(port)), timeout=ANSWER):
        pass
    if not _is_loopback(host):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 1))  # nothing is sent: this only asks for the way there
            own = probe.getsockname()[0]
            with socket.create_connection((own, int(port)), timeout=ANSWER):
                return _is_loopback(own)
        except OSError:
            return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _silence(ray: Any) -> None:
    """Keep Ray from printing what befell its workers onto standard output, which may be JSON: who started the work is told
    by an exception, and says so. Ray has no option for it.
    """
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
