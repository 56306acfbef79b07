"""Many scans on many machines: each worker loads the model once, and does what ``cas_predict`` does with each scan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from cardiac_autoseg.cluster.spread import Needs, spread_over
from cardiac_autoseg.delivery.inputs import Input
from cardiac_autoseg.delivery.pipeline import FIRST_SLICE, Request, Result, Stages, load_job
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.inference.model_store import packaged_folder

MEMORY = 1536 << 20
"""Bytes that a worker asks for: what cas_predict takes with a cine of some hundred images, and some more."""
MOST_PER_GPU = 8
"""Workers that share a GPU: its network waits for reading and writing, of which each does its own."""


def deliver_on_cluster(
    ray: Any, request: Request, items: Sequence[Input], seconds: dict[str, float], say: Callable[[str], None]
) -> Iterator[Result]:
    """As :func:`cardiac_autoseg.delivery.pipeline.deliver`, in the order in which scans are done.

    All machines see the same files. A scan that fails is tried once more; one that kills its worker a second time is set
    aside (see :mod:`cardiac_autoseg.cluster.spread`). ``say`` is told what happens to the workers.
    """
    if Path(request.bundle).parent == packaged_folder():
        # It lies elsewhere on other machines.
        request = dataclasses.replace(request, bundle=Path(request.bundle).name)
    request = dataclasses.replace(request, folder=request.folder.resolve())
    here = [dataclasses.replace(item, path=item.path.absolute()) if isinstance(item.path, Path) else item for item in items]
    spread = spread_over(ray, find_needs(ray.nodes(), request.device), say)
    for item, found in spread(partial(predictor, request), here):
        if isinstance(found, UserError):
            yield Result(item, problem=str(found))
            continue
        result, spent = found
        for stage, value in spent.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
        yield result


def predictor(request: Request) -> Callable[[Input], tuple[Result, dict[str, float]]]:
    """What predicts scans in one process: the result of each, and the seconds of its stages. Several threads call it, so
    that one scan is read and one written while another is in the network.
    """
    stages, alone = Stages(load_job(request), {}, dicom=True), Lock()

    def predict(item: Input) -> tuple[Result, dict[str, float]]:
        seconds: dict[str, float] = {}
        reading = stages.read(item)
        with alone:
            writing = stages.segment(item, reading, seconds)
        result = writing.result()
        if result.problem:
            raise UserError(result.problem)
        seconds.pop(FIRST_SLICE, None)
        return result, seconds

    return predict


def find_needs(nodes: Sequence[dict[str, Any]], device: str | None) -> Needs:
    """What a worker takes on a cluster of these ``nodes`` (as Ray lists them): a core; where there are GPUs, and ``device``
    is not "cpu", such a share of one that all cores of its machine have work.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    shares = [int(one.get("CPU", 0) // one["GPU"]) for one in alive if one.get("GPU", 0) >= 1]
    if device == "cpu" or not shares:
        return Needs(1, 0.0, MEMORY)
    return Needs(1, 1 / min(max(1, min(shares)), MOST_PER_GPU), MEMORY)
