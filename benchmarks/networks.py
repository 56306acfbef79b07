"""Training speed of the networks in one run: precision and memory format, and ENet's activation; writes results/networks.md.

python benchmarks/networks.py -w WORKSPACE        a workspace planned for a CPU
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from cardiac_autoseg.networks import build_network
from planning.plan import Plan

RESULT = Path(__file__).parent / "results" / "networks.md"
ROUNDS = 7


def with_prelu(module: nn.Module) -> nn.Module:
    """The paper's ENet: PReLU with one slope a channel, after each batch norm."""
    for child in module.children():
        with_prelu(child)
    if isinstance(module, nn.Sequential):
        for number in range(1, len(module)):
            if isinstance(module[number], nn.LeakyReLU) and isinstance(module[number - 1], nn.BatchNorm2d):
                module[number] = nn.PReLU(module[number - 1].num_features)
    elif isinstance(getattr(module, "activation", None), nn.LeakyReLU):
        width = next(child.num_features for child in reversed(list(module.modules())) if isinstance(child, nn.BatchNorm2d))
        module.activation = nn.PReLU(width)
    return module


def step(network: nn.Module, plan: Plan, bfloat16: bool, channels_last: bool) -> float:
    """Seconds of one forward and backward pass."""
    images = torch.rand(plan.batch, 1, *plan.patch)
    labels = torch.randint(0, len(plan.classes), (plan.batch, *plan.patch))
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = network(images)[0]
    nn.functional.cross_entropy(logits.float(), labels).backward()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    workspace = parser.parse_args().workspace
    lines = [
        "# Networks on a CPU\n",
        f"`python benchmarks/networks.py -w WORKSPACE`: forward and backward pass, {torch.get_num_threads()} threads,",
        f"median of {ROUNDS} rounds in which all variants take turns.\n",
        "| network | variant | slices/s | times as fast as its first row |",
        "|---|---|---|---|",
    ]
    for name in ("unet", "attention_unet", "enet"):
        plan = Plan.from_json(json.loads((workspace / "plans" / f"{name}.json").read_text()))
        variants = {
            "float32": (build_network(plan), False, False),
            "bfloat16": (build_network(plan), True, False),
            "bfloat16, channels last (used)": (build_network(plan).to(memory_format=torch.channels_last), True, True),
        }
        if name == "enet":
            paper = with_prelu(build_network(plan)).to(memory_format=torch.channels_last)
            variants["bfloat16, channels last, PReLU"] = (paper, True, True)
        seconds: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(ROUNDS + 1):
            for variant, (network, bfloat16, channels_last) in variants.items():
                seconds[variant].append(step(network, plan, bfloat16, channels_last))
        speed = {variant: plan.batch / statistics.median(times[1:]) for variant, times in seconds.items()}
        first = next(iter(speed.values()))
        lines += [f"| {name} | {variant} | {value:.0f} | {value / first:.2f} |" for variant, value in speed.items()]
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
