"""What each step on the way from an image to labels costs and brings, on patients that the networks never saw.

    python benchmarks/inference_path.py -w WORKSPACE [--arch unet] [--seed 0] [--folds 0 1] [--cases N]

WORKSPACE holds finished runs of the folds. Every variant segments each case in turn, so that all share a busy machine; times
are of the processor. A second table has the network alone, in the forms that torch offers.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from unittest import mock

import numpy as np
import torch
from peer_measure import machine
from torch import Tensor, nn

from cardiac_autoseg.bundle import Bundle, load_bundle
from cardiac_autoseg.data.load import load_image, load_labels
from cardiac_autoseg.evaluation.overlap import dice
from cardiac_autoseg.evaluation.surface import surface_distances
from cardiac_autoseg.inference import look as look_module
from cardiac_autoseg.inference import region as region_module
from cardiac_autoseg.inference.crossvalidation import Pool, collect
from cardiac_autoseg.inference.look import look
from cardiac_autoseg.inference.orientation import DISPLAY
from cardiac_autoseg.inference.postprocessing import POSTPROCESSING
from cardiac_autoseg.inference.predictor import Group, predict
from cardiac_autoseg.inference.views import PLAIN, VIEWS, View
from cardiac_autoseg.networks import frozen as frozen_module
from cardiac_autoseg.networks.frozen import CONVOLUTIONS, frozen
from cardiac_autoseg.trust.observations import fold_bundle
from cardiac_autoseg.workspace import Workspace
from planning.plan import Plan

RESULT = Path(__file__).parent / "results" / "inference_path.md"
CLEAN = "largest_component+fill_holes"
CPU = torch.device("cpu")
ROUNDS = 31
IMAGES = (10, 112, 112)
"""Slices of a heart's region, as one goes through the network at a time."""


@dataclass(frozen=True)
class Variant:
    """One way to segment; the defaults are what ``cas_predict`` does with a network of one fold."""

    network: str = "folded, bfloat16"
    views: tuple[View, ...] = VIEWS
    region: bool = True
    look_mm: float = look_module.LOOK_MM
    margin_mm: float = region_module.MARGIN_MM
    orientation: tuple[float, ...] = ()


USED = "look, region, five views (used)"
VARIANTS = {
    USED: Variant(),
    "as used, but the direction of the image unknown (used then)": Variant(orientation=DISPLAY),
    "one view (`--fast`)": Variant(views=(PLAIN,)),
    "whole slices, five views": Variant(region=False),
    "whole slices, one view": Variant(region=False, views=(PLAIN,)),
    "look at 2.5 mm": Variant(look_mm=2.5),
    "look at 2.5 mm, direction unknown": Variant(look_mm=2.5, orientation=DISPLAY),
    "look at 3 mm": Variant(look_mm=3.0),
    "margin of 25 mm": Variant(margin_mm=25.0),
    "margin of 20 mm": Variant(margin_mm=20.0),
    "network as trained, autocast": Variant("as trained, autocast"),
    "network folded, float32": Variant("folded, float32"),
    "network traced, oneDNN graph": Variant("traced and frozen, oneDNN graph"),
    "int8, simulated (no time)": Variant("int8, simulated"),
}


def as_placed(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def folded_only(network: nn.Module) -> nn.Module:
    with mock.patch.object(frozen_module, "uses_bfloat16", return_value=False):
        return frozen(network, CPU)


class Traced(nn.Module):
    """TorchScript, which has oneDNN compile the network for every shape it meets."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        torch.jit.enable_onednn_fusion(True)
        example = torch.zeros(1, 1, 64, 64, dtype=next(network.parameters()).dtype)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            self.traced = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False).eval())
        self.dtype = example.dtype

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            result: Tensor = self.traced(images.to(self.dtype))
        return result


def rounded(values: Tensor, top: Tensor) -> Tensor:
    """``values`` as eight-bit integers of the range up to ``top`` would have them."""
    scale = top.clamp_min(1e-12) / 127
    return (values / scale).round_().clamp_(-127, 127) * scale


def in_int8(network: nn.Module) -> nn.Module:
    """What eight bits for weights (per channel) and inputs (per batch) of all convolutions but the first and last change."""
    network = folded_only(network)
    layers = [module for module in network.modules() if isinstance(module, CONVOLUTIONS)]
    for layer in layers[1:]:
        if layer.out_channels > 4:
            across = tuple(axis for axis in range(4) if axis != (1 if isinstance(layer, nn.ConvTranspose2d) else 0))
            layer.weight.copy_(rounded(layer.weight, layer.weight.abs().amax(across, keepdim=True)))
            layer.register_forward_pre_hook(lambda _, given: (rounded(given[0], given[0].abs().amax()),))
    return network


NETWORKS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as trained, autocast": as_placed,
    "folded, float32": folded_only,
    "folded, bfloat16": lambda network: frozen(network, CPU),
    "traced and frozen, oneDNN graph": lambda network: Traced(frozen(network, CPU)),
    "int8, simulated": in_int8,
}


def segment(
    plan: Plan, networks: dict[str, nn.Module], array: np.ndarray, spacing: tuple[float, float, float], way: Variant
) -> np.ndarray:
    group = Group(plan, (networks[way.network],))
    # The look is always that of the network used, so that the variants differ in one thing.
    looking = Group(plan, (networks[Variant.network if way.network != "as trained, autocast" else way.network],))
    with (
        mock.patch.object(look_module, "LOOK_MM", way.look_mm),
        mock.patch.object(region_module, "MARGIN_MM", way.margin_mm),
    ):
        found = look(looking, array, spacing, way.orientation, None, CPU) if way.region else None
    if found is not None and found.turn:
        return np.zeros(array.shape, np.uint8)  # these images all lie as the networks know them: a turn is a failure
    region = None if found is None else found.region
    amp = way.network not in ("folded, float32", "int8, simulated")
    labels = predict([group], array, spacing, views=way.views, region=region, device=CPU, amp=amp).labels
    return POSTPROCESSING[CLEAN](labels, {"RV": 1, "MYO": 2, "LV": 3})


def path_rows(pool: Pool, folds: list[str], most: int | None) -> tuple[list[str], int, nn.Module]:
    """The lines of the first table, the number of volumes, and one network as trained."""
    combination = (pool.runs[0].configuration,)
    scores: dict[str, list[tuple[list[float], float]]] = {name: [] for name in VARIANTS}
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    slices = 0
    for fold in folds:
        with tempfile.TemporaryDirectory() as place:
            fold_bundle(Path(place) / "fold", pool.runs_of(combination, fold), Bundle("fold", pool.dataset.labels, {}, ()))
            bundle, (trained,) = load_bundle(Path(place) / "fold")
        plan = next(iter(bundle.plans.values()))
        networks = {name: make(copy.deepcopy(trained)) for name, make in NETWORKS.items()}
        for case in pool.cases[fold][:most]:
            image, truth = load_image(pool.workspace, case), load_labels(pool.workspace, pool.dataset, case, "expert")
            spacing = image.geometry.spacing_zyx
            slices += len(image.array)
            for name, way in VARIANTS.items():
                start = process_time()
                labels = segment(plan, networks, image.array, spacing, way)
                seconds[name].append(process_time() - start)
                pairs = [(labels == value, truth.array == value) for value in (1, 2, 3)]
                apart = [surface_distances(found, drawn, spacing) for found, drawn in pairs]
                hd95 = [item.hd95 for item in apart if item is not None]
                scores[name].append(([dice(*pair) for pair in pairs], float(np.mean(hd95)) if hd95 else np.nan))
    used = sum(seconds[USED])
    basis, distance = (np.array([row[part] for row in scores[USED]]) for part in (0, 1))
    rows = []
    for name, found in scores.items():
        table, apart = (np.array([row[part] for row in found]) for part in (0, 1))
        slow = "–" if "no time" in name else f"{used / sum(seconds[name]):.2f} | {1000 * sum(seconds[name]) / slices:.1f}"
        rows.append(
            f"| {name} | {table.mean():.4f} | {table.mean() - basis.mean():+.4f} | {(table - basis).mean(1).min():+.3f}"
            f" | {np.nanmean(apart):.2f} | {np.nanmean(apart - distance):+.2f} | {slow}{' | –' if slow == '–' else ''} |"
        )
    return rows, len(scores[USED]), trained


def network_rows(trained: nn.Module, gflops: float, compiled: bool) -> list[str]:
    """The lines of the second table: the network alone on a batch of regions."""
    images = torch.rand(IMAGES[0], 1, *IMAGES[1:]).contiguous(memory_format=torch.channels_last)
    ready = frozen(copy.deepcopy(trained), CPU)
    forms: dict[str, Callable[[], nn.Module]] = {
        name: lambda make=make: make(copy.deepcopy(trained)) for name, make in NETWORKS.items() if "simulated" not in name
    }
    forms["float32"] = lambda: as_placed(copy.deepcopy(trained))
    forms["folded, bfloat16, contiguous memory"] = lambda: copy.deepcopy(ready).to(memory_format=torch.contiguous_format)
    if compiled:
        forms["folded, bfloat16, torch.compile with freezing"] = lambda: torch.compile(
            copy.deepcopy(ready), options={"freezing": True}
        )
    networks: dict[str, nn.Module] = {}
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    with torch.no_grad():
        for name, make in forms.items():
            start = perf_counter()
            networks[name] = make()
            with torch.autocast("cpu", torch.bfloat16, enabled="float32" not in name):
                networks[name](images)
                networks[name](images)
            first[name] = perf_counter() - start
        for _ in range(ROUNDS):
            for name, network in networks.items():
                start = process_time()
                with torch.autocast("cpu", torch.bfloat16, enabled="float32" not in name):
                    network(images)
                seconds[name].append(process_time() - start)
    middle = {name: median(values) for name, values in seconds.items()}
    used = middle["folded, bfloat16"]
    return [
        f"| {name}{' (used)' if name == 'folded, bfloat16' else ''} | {used / value:.2f}"
        f" | {IMAGES[0] * gflops / value:.0f} | {first[name]:.1f} |"
        for name, value in middle.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--arch", default="unet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", nargs="+", default=["0"])
    parser.add_argument("--cases", type=int, help="only the first of each fold")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which needs a C++ compiler")
    values = parser.parse_args()
    pool = collect(Workspace(values.workspace), "expert", print, [values.arch], [], [values.seed])
    rows, volumes, trained = path_rows(pool, values.folds, values.cases)
    plan = pool.runs[0].plan
    gflops = plan.gflops_per_slice * IMAGES[1] * IMAGES[2] / (plan.patch[0] * plan.patch[1])
    text = "\n".join(
        [
            "# From an image to labels: what was tried",
            "",
            f"`python benchmarks/inference_path.py -w WORKSPACE --folds {' '.join(values.folds)}"
            f"{' --compile' if values.compile else ''}`, {date.today()}, {machine()},"
            f" {torch.get_num_threads()} thread(s),"
            f" torch {torch.__version__}, {volumes} volumes of patients not trained on, {CLEAN}.",
            "Each row differs from the first in what it names. Differences are paired; speed is that of the first row's"
            " processor time.",
            "",
            "| variant | Dice | difference | worst case | HD95 (mm) | difference | times as fast | ms a slice |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"The network alone, {IMAGES[0]} x {IMAGES[1]} x {IMAGES[2]} pixels, median of {ROUNDS} rounds in which all take"
            " turns; the start is the wall time to make it and for two passes over the first shape.",
            "",
            "| form | times as fast | GFLOP/s | start (s) |",
            "|---|---|---|---|",
            *network_rows(trained, gflops, values.compile),
            "",
        ]
    )
    print(text)
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
