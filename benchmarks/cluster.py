"""Prediction on a cluster against the plain command, a node lost half way, and the model of throughput; results/cluster.md.

    python benchmarks/cluster.py [--studies 500] [--place DIR]

Phantom studies (one frame each) are predicted by the plain command, by a Ray cluster of two nodes of one core each on the
same two cores, and once more with one of the nodes killed half way. All runs must have the same files. Then the model of
cardiac_autoseg/scale/throughput.py, from stages measured one after the other, is held against these runs, and asked about
100,000 cines.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

import torch
from isal import igzip
from peer_measure import machine
from scaling_data import make_patients

from cardiac_autoseg.bundle import read_bundle
from cardiac_autoseg.delivery.claim import model_hash
from cardiac_autoseg.delivery.inputs import find_inputs
from cardiac_autoseg.delivery.outputs import Wanted
from cardiac_autoseg.delivery.pipeline import Request, Stages, load_job
from cardiac_autoseg.inference.model_store import default_bundle
from cardiac_autoseg.phantom.subject import write_acdc
from cardiac_autoseg.scale.throughput import HOUR, Machine, Storage, Study, bottleneck, limits, simulate

OUT = Path(__file__).parent / "results" / "cluster.md"
OF_THE_RUN = ("index.html", "cluster.log")
"""Files of the output that tell of the run itself: the folder's name, times."""
SPEEDUPS = (20, 100, 500)
"""GPUs to ask the model about: how many times faster than one core they are in the network. Assumed, none was measured."""
MANY = 100_000


def measure_study(paths: Sequence[Path], place: Path) -> Study:
    """The mean of some studies, each stage by itself, on one core; the bytes of their files."""
    torch.set_num_threads(1)
    bundle = default_bundle()
    assert bundle is not None
    items = find_inputs([str(path) for path in paths])
    output = place / "stages"
    output.mkdir()
    job = load_job(Request(str(bundle), model_hash(read_bundle(bundle), False), output, Wanted(), device="cpu"))
    spent = {"unpack": 0.0, "network": 0.0, "finish": 0.0}
    with Stages(job, {}, dicom=False) as stages:
        stages.segment(items[0], stages.read(items[0]), {}).result()  # modules are loaded
        for item in items:
            start = time.perf_counter()
            reading = stages.read(item)
            reading.result()
            spent["unpack"] += time.perf_counter() - start
            start = time.perf_counter()
            writing = stages.segment(item, reading, seconds := {})
            result = writing.result()
            assert not result.problem, result.problem
            finish = sum(seconds.get(name, 0.0) for name in ("measure", "write"))
            spent["finish"] += finish
            spent["network"] += time.perf_counter() - start - finish
    written = sum(path.stat().st_size for path in output.iterdir() if path.is_file())
    count = len(items)
    read = sum(path.stat().st_size for path in paths)
    return Study(read / count, written / count, *(value / count for value in spent.values()))


def unpacking(paths: Sequence[Path]) -> tuple[float, float]:
    """Seconds a study to read the bytes of its file (from the system's cache), and to decompress them."""
    reading = decompressing = 0.0
    for path in paths:
        start = time.perf_counter()
        content = path.read_bytes()
        reading += time.perf_counter() - start
        start = time.perf_counter()
        igzip.decompress(content)
        decompressing += time.perf_counter() - start
    return reading / len(paths), decompressing / len(paths)


def predict(scans: Sequence[Path], output: Path, options: Sequence[str], watch: Callable[[int], None]) -> dict[str, float]:
    """Run cas_predict; seconds in all ("wall"), and until the first study was done and the last. ``watch``: told each."""
    command = [sys.executable, "-m", "cardiac_autoseg", "predict", "-i", *map(str, scans), "-o", str(output), *options]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout
    seconds, last = {}, ""
    for line in process.stdout:
        if line.startswith("["):
            seconds.setdefault("first", time.perf_counter() - start)
            seconds["last"] = time.perf_counter() - start
            watch(int(line[1:].partition("/")[0]))
        if "has started" in line:
            seconds["workers"] = time.perf_counter() - start
        last = line
    if process.wait():
        sys.exit(f"cas_predict failed: {last}")
    return {**seconds, "wall": time.perf_counter() - start}


def contents(folder: Path) -> dict[str, str]:
    """Hashes of the files of a folder of predictions, but for those that tell of the run."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name not in OF_THE_RUN
    }


def on_cluster(scans: Sequence[Path], output: Path, kill_at: int | None = None) -> dict[str, float]:
    """Predict on a cluster of two nodes of one core each, one of them killed when ``kill_at`` studies are done."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes = [
        cluster.add_node(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, num_gpus=0) for _ in range(2)
    ]
    killed: list[float] = []
    start = time.perf_counter()

    def watch(done: int) -> None:
        if done == kill_at:
            killed.append(time.perf_counter() - start)
            # In a thread, as it takes a moment until all is gone.
            threading.Thread(target=cluster.remove_node, args=(nodes[1],), kwargs={"allow_graceful": False}).start()

    try:
        start = time.perf_counter()
        seconds = predict(scans, output, ("--cluster", cluster.address), watch)
    finally:
        with suppress(Exception):
            cluster.shutdown()
    return {**seconds, **({"killed": killed[0]} if killed else {})}


def future(study: Study) -> list[str]:
    """What the model says of 100,000 studies."""
    rows = []
    for about, one, counts in (
        ("CPU only, 16 cores", Machine(16), (1, 4, 16)),
        *((f"16 cores, 1 GPU of {speed} cores", Machine(16, 1, speed), (1, 4, 16)) for speed in SPEEDUPS),
    ):
        for count in counts:
            for megabytes in (100, 1000):
                storage = Storage(megabytes * 1e6, megabytes * 1e6)
                scarce, rate = bottleneck(study, [one] * count, storage)
                rows.append(
                    f"| {about} | {count} | {megabytes} MB/s | {rate:,.0f} | {scarce} | {MANY / rate:,.1f} |"
                    f" {MANY / rate * count:,.0f} |"
                )
    return rows


def limits_words(study: Study, machines: Sequence[Machine]) -> str:
    found = limits(study, machines, Storage())
    return ", ".join(f"{name} {value / HOUR:.2f}/s" for name, value in found.items() if value < float("inf"))


def run(place: Path, count: int) -> str:
    """All of it; the text of the results."""
    make_patients(place / "phantoms", 2 * ((count + 1) // 2))
    scans = sorted((place / "phantoms" / "all").glob("*/*_frame??.nii.gz"))[:count]
    cines = sorted(path for one in write_acdc(place / "cines", 3, seed=5, size="normal") for path in one.glob("*_4d.nii.gz"))
    study, cine = measure_study(scans[:20], place / "phantoms"), measure_study(cines, place / "cines")
    nothing: Callable[[int], None] = lambda _: None  # noqa: E731
    plain = predict(scans, place / "plain", (), nothing)
    spread = on_cluster(scans, place / "spread")
    lost = on_cluster(scans, place / "lost", kill_at=count // 2)
    expected = contents(place / "plain")
    same = {name: contents(place / name) == expected for name in ("spread", "lost")}
    again = (place / "lost" / "cluster.log").read_text().count("/" + str(count) + "]") - count
    both = [Machine(1, start=spread["workers"])] * 2
    modelled = {
        "cluster": simulate(study, count, both, Storage(), variation=0.2),
        "cluster, a node lost": simulate(
            study, count, [both[0], Machine(1, start=spread["workers"], lost=lost["killed"])], Storage(), variation=0.2
        ),
    }
    measured = {"cluster": spread["last"], "cluster, a node lost": lost["last"]}
    name = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}"
    lines = [
        "# Prediction on a cluster",
        "",
        f"`python benchmarks/cluster.py --studies {count}`, {name}. Ray nodes of one core each, bound to 127.0.0.1.",
        "",
        "| run | wall | first study done after | against plain | files the same as plain |",
        "|---|---|---|---|---|",
        f"| plain, {count} studies | {plain['wall']:.1f} s | {plain['first']:.1f} s | 1.00 | |",
        f"| cluster of two nodes | {spread['wall']:.1f} s | {spread['first']:.1f} s |"
        f" {spread['wall'] / plain['wall']:.2f} | {'all' if same['spread'] else '**no**'} |",
        f"| a node killed after {count // 2} | {lost['wall']:.1f} s | {lost['first']:.1f} s |"
        f" {lost['wall'] / plain['wall']:.2f} | {'all' if same['lost'] else '**no**'} |",
        "",
        f"{len(expected)} files compared; results told twice after the loss: {again}.",
        "",
        "## The model against these runs",
        "",
        "Seconds of one core for each stage of a study, measured one after the other:",
        "",
        "| study | read the bytes | decompress | unpack in all | network | measure, draw, write | bytes in | bytes out |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for about, one, paths in (("phantom frame", study, scans[:20]), ("phantom cine", cine, cines)):
        reading, decompressing = unpacking(paths)
        lines.append(
            f"| {about} | {reading:.4f} | {decompressing:.4f} | {one.unpack:.3f} | {one.network:.3f} | {one.finish:.3f} |"
            f" {one.bytes_in / 1e6:.2f} MB | {one.bytes_out / 1e6:.2f} MB |"
        )
    lines += [
        "",
        "| run | seconds to the last study, simulated | measured | simulated / measured |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {about} | {modelled[about]:.1f} | {measured[about]:.1f} | {modelled[about] / measured[about]:.2f} |"
        for about in modelled
    ]
    lines += [
        "",
        f"Two nodes of one core can do: {limits_words(study, [Machine(1)] * 2)}.",
        "",
        f"## {MANY:,} cines, as the model has it",
        "",
        "Stages of the phantom cine above. How fast a GPU is in the network is assumed, as none was measured: 20, 100 or",
        "500 times a core of this machine. Storage is shared by all. Machine hours times their price is the cost.",
        "",
        "| machines | how many | storage | studies an hour | scarce | hours | machine hours |",
        "|---|---|---|---|---|---|---|",
        *future(cine),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--place", type=Path, help="an empty folder to work in, that is kept (default: a temporary one)")
    values = parser.parse_args()
    work: Any = partial(run, count=values.studies)
    if values.place:
        values.place.mkdir(parents=True)
        text = work(values.place)
    else:
        with tempfile.TemporaryDirectory() as place:
            text = work(Path(place))
    print(text)
    OUT.write_text(text)


if __name__ == "__main__":
    main()
