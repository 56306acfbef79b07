"""The table of what was measured: medians, ratios, what was wanted; the rows that are not there yet say so."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import peer_dice
import peer_predict as told
import peer_stages
import peer_start
from paired import READINGS
from peer_measure import machine, records
from peer_setup import CORES, PACKAGES, Bench

import cardiac_autoseg

RESULT = Path(__file__).parent / "results" / "peer.md"
MISSING, DICE_WANTED = "not measured", "20 x (GPU 10)"


@dataclass(frozen=True)
class Compare:
    """One row: a number of two variants; ``wanted``: the ratio that is wanted on a CPU and on a GPU, None: not asked for.

    ``more``: the larger number is the better one. ``limit``: an absolute number that ours is to stay below.
    """

    stage: str
    case: str
    text: str
    ours: str
    peer: str
    key: str = "wall"
    unit: str = "s"
    wanted: float | None = None
    wanted_gpu: float | None = None
    more: bool = False
    limit: float | None = None


def comparisons(bench: Bench) -> list[Compare]:
    """All rows but those of the training times."""
    ours, peer = peer_stages.OURS, peer_stages.PEER
    rows = [
        Compare("prepare", "all cases", "plan + preprocess", ours, peer, wanted=10),
        Compare("prepare", "all cases", "plan + preprocess, peak memory", ours, peer, "peak_mb", "MB", wanted=4),
    ]
    for threads in sorted({1, CORES}):
        case = peer_stages.thread_text(threads)
        text = f"training steps, {case}"
        rows.append(
            Compare("throughput", case, text, ours, peer, "slices_per_second", "slices/s", wanted=2, wanted_gpu=3, more=True)
        )
        share = f"{text}, share outside the network"
        rows.append(Compare("throughput", case, share, ours, peer, "outside", "", limit=0.05))
    for case, gpu in ((told.CASE, None), (told.CINE, 20.0)):
        for left, right, wanted in (
            (told.LIKE, told.PEER_LIKE, 15.0),
            (told.LIKE, told.PEER_PARALLEL, None),
            (told.DEFAULT, told.PEER_LIKE, 15.0),
            (told.FULL, told.PEER_LIKE, None),
            (told.FIVE, told.PEER_FIVE, 15.0),
        ):
            text = f"predict a {case}: {left}; {right}"
            rows.append(Compare("predict", case, text, left, right, wanted=wanted, wanted_gpu=gpu if wanted else None))
            memory = 4.0 if wanted else None
            rows.append(Compare("predict", case, f"{text}; peak memory", left, right, "peak_mb", "MB", memory, memory))
    for tool in ("medpy", "monai"):
        text = f"metrics of a case, three classes; {tool}{_agreement(bench, tool)}"
        rows.append(Compare("metrics", "case", text, peer_stages.OURS, tool, unit="ms", wanted=15))
    rows += [
        Compare("start", "help", "`--help`", ours, peer, limit=0.3),
        Compare("start", "one slice", "start to labels of one slice, default", ours, peer, "labels", limit=2),
        Compare("start", "one slice", "start to labels of one slice, `--fast`", peer_start.FAST, peer, "labels", limit=2),
    ]
    return rows


def _agreement(bench: Bench, tool: str) -> str:
    """How many of a tool's values are the same as ours, in words."""
    path = bench.place / "records" / "cpu" / "metrics" / "agreement.json"
    if not path.is_file():
        return ""
    found = json.loads(path.read_text())["values"][tool]
    return " (same: " + ", ".join(f"{metric} {item['same']}/{item['n']}" for metric, item in found.items()) + ")"


def values(bench: Bench, row: Compare, variant: str, device: str, key: str | None = None) -> list[float]:
    """What was measured of one side of a row."""
    found = records(bench.place / "records" / device / row.stage / row.case, variant)
    return [record[key or row.key] for record in found if (key or row.key) in record]


def ratio(bench: Bench, row: Compare, device: str, key: str | None = None) -> float | None:
    """How many times better ours is, by the medians."""
    ours, peer = (values(bench, row, variant, device, key) for variant in (row.ours, row.peer))
    if not ours or not peer:
        return None
    result = statistics.median(peer) / max(1e-9, statistics.median(ours))
    return 1 / result if row.more else result


def line(bench: Bench, row: Compare) -> str:
    """One row of the table."""
    ours, peer = values(bench, row, row.ours, "cpu"), values(bench, row, row.peer, "cpu")
    cpu = {"wall": "cpu", "slices_per_second": "slices_per_cpu_second"}.get(row.key)
    found, by_cpu = ratio(bench, row, "cpu"), ratio(bench, row, "cpu", cpu) if cpu else None
    gpu = ratio(bench, row, "cuda")
    reached = ""
    if ours and row.limit is not None:
        reached = "yes" if statistics.median(ours) <= row.limit else "no"
    elif found is not None and row.wanted is not None:
        reached = "yes" if found >= row.wanted else "no"
    wanted = f"under {row.limit:g}{' ' + row.unit if row.unit else ''}" if row.limit else _times(row.wanted)
    wanted += f" (GPU {row.wanted_gpu:g})" if row.wanted_gpu and row.wanted_gpu != row.wanted else ""
    counts = f"{len(ours)}, {len(peer)}"
    cells = [row.text, counts, _number(ours, row), _number(peer, row), _times(found), _times(by_cpu), wanted, reached]
    return "| " + " | ".join([*cells, _times(gpu) or "–"]) + " |"


def _number(found: list[float], row: Compare) -> str:
    if not found:
        return MISSING
    middle = statistics.median(found)
    return f"{100 * middle:.1f} %" if row.key == "outside" else f"{middle:.3g} {row.unit}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} x"


def dice_lines(bench: Bench) -> list[str]:
    """Rows of the training times."""
    lines = []
    choices = itertools.product(peer_dice.SETTINGS, READINGS, peer_dice.MARKS)
    for setting, reading, mark in choices:
        ours, peer = peer_dice.our_time(bench, mark, reading), peer_dice.peer_time(bench, setting, mark, reading)
        text = f"training to Dice {mark:.2f}, {reading}; nnU-Net: {setting.name.replace('_', ' ')}"
        cells = [text, "", ours[1] if ours else MISSING, peer[2] if peer else MISSING]
        if ours and peer:
            least, most = peer[0] / ours[0], peer[1] / ours[0]
            found = f"> {least:.3g} x" if math.isinf(most) else f"{least:.3g} to {most:.3g} x"
            cells += [found, "", DICE_WANTED, "yes" if least >= 20 else "no" if most < 20 else "open", "–"]
        else:
            cells += ["", "", DICE_WANTED, "", "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def stage_lines(bench: Bench) -> list[str]:
    """Where the time of a prediction goes."""
    lines = ["| predict | wall, s | by stage, s |", "|---|---|---|"]
    helps = [record["wall"] for record in records(bench.records / "start" / "help", peer_start.PEER)]
    for case in (told.CASE, told.CINE):
        for name in (told.LIKE, told.DEFAULT, told.FULL, told.FIVE):
            found = records(bench.records / "predict" / case, name)
            if found:
                middle = sorted(found, key=lambda record: record["wall"])[len(found) // 2]
                by_stage = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in middle["stages"].items())
                lines.append(f"| {case}, {name} | {middle['wall']:.2f} | {by_stage} |")
        for name in (told.PEER_LIKE, told.PEER_PARALLEL, told.PEER_FIVE):
            found = records(bench.records / "predict" / case, name)
            if found and helps:
                wall, begin = statistics.median(record["wall"] for record in found), statistics.median(helps)
                lines.append(f"| {case}, {name} | {wall:.1f} | start (its `--help`) {begin:.1f}, rest {wall - begin:.1f} |")
    return lines


def write_table(bench: Bench, command: str) -> str:
    """Write results/peer.md; returns its text."""
    head = [
        "# Beside nnU-Net",
        "",
        f"`{command}`, {date.today()}. {machine()}. Ours: {_version()}; the peer: {', '.join(PACKAGES)};"
        f" its own environment, 2D configuration, same patients, same folds.",
        "",
        "Medians; ratios say how many times better ours is (less time or memory, more slices). Both take turns in every"
        ' round; "rounds" are ours and the peer\'s. Wall time, and beside it the ratio of CPU time of all processes. Peak'
        " memory: of all processes together, pages that they share once. The peer's five mirrored networks on the cine are"
        " extrapolated from its first two frames. Training: one thread each, CPU time from the start of the process; the"
        " peer's one schedule of an hour, which is scored on the way, is not the quickest for an early mark.",
        "",
        "GPU column: " + ("ratios with `--device cuda`." if _has_gpu(bench) else "not measured, no GPU at hand."),
        "",
        "| stage | rounds | ours | nnU-Net | ratio | by CPU time | wanted | reached | GPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = comparisons(bench)
    body = [line(bench, row) for row in rows if row.stage in ("prepare", "throughput")]
    body += dice_lines(bench) + [line(bench, row) for row in rows if row.stage in ("predict", "metrics", "start")]
    text = "\n".join([*head, *body, "", *stage_lines(bench), ""])
    RESULT.write_text(text, encoding="utf-8")
    return text


def _version() -> str:
    import torch

    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"cardiac_autoseg {cardiac_autoseg.__version__} ({revision or 'no git'}), torch {torch.__version__}"


def _has_gpu(bench: Bench) -> bool:
    return (bench.place / "records" / "cuda").is_dir()
