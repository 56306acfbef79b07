"""The plan: every decision the tool takes about a data set, as frozen dataclasses with JSON in and out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from planning.typed import build
from planning.version import check_version

FORMAT_VERSION = 1
ARCHITECTURES = ("unet", "attention_unet", "enet")
WIDEST, DEEPEST, MOST_REPEATED = 4096, 12, 64
"""More feature maps, stages and repetitions of a stage than any plan has, whoever made it: networks are built of them."""
LIMITS: dict[str, tuple[float, float]] = {
    "memory_gb": (0, 1e6),
    "gflops": (0, 1e9),
    "spacing": (0.05, 100),
    "patch": (1, 8192),
    "divisor": (1, 4096),
    "batch": (1, 1 << 16),
    "devices": (1, 1024),
    "steps": (1, 1 << 40),
    "learning_rate": (0, 1e3),
    "clip_percentiles": (0, 100),
    "memory_bytes": (0, 1 << 60),
    "gflops_per_slice": (0, 1e9),
    "parameters": (0, 1 << 60),
}
"""Smallest and largest value of each number of a plan."""


@dataclass(frozen=True)
class UNetShape:
    """Shape of a U-Net or an Attention U-Net.

    ``widths[i]`` is the number of feature maps of stage i (0 = full resolution), ``strides[i]`` the (y, x)
    stride with which stage i is entered; ``strides[0]`` is always (1, 1).
    """

    widths: tuple[int, ...]
    strides: tuple[tuple[int, int], ...]
    convolutions: int = 2
    deep_supervision: int = 0
    """Number of additional outputs, at the resolutions of stages 1, 2, …."""


@dataclass(frozen=True)
class ENetShape:
    """Shape of an ENet (Paszke 2016, arXiv 1606.02147).

    ``widths`` are the feature maps after the initial block (1/2 resolution), in stage 1 (1/4) and in stages 2
    and 3 (1/8); ``stage1`` the number of regular bottlenecks in stage 1; ``stages`` how often the block of
    stage 2 is repeated; ``dilations`` the dilation of each dilated bottleneck of that block;
    ``asymmetric`` the kernel length of its asymmetric bottlenecks.
    """

    widths: tuple[int, int, int]
    stage1: int
    stages: int
    dilations: tuple[int, ...]
    asymmetric: int = 5


@dataclass(frozen=True)
class Plan:
    """Everything that training and inference need to know, for one architecture.

    ``spacing`` is the target in-plane spacing (y, x) in mm, ``patch`` the training patch (y, x) in pixels at
    that spacing, ``divisor`` what the (y, x) size of any network input must be a multiple of. ``reasons`` has one line for
    each number of the plan, keyed by its name. ``batch`` is that of an optimiser step, of which each of the ``devices``
    computes its share, and ``memory_bytes`` is for one device.
    """

    architecture: str
    dataset: str
    target: str
    memory_gb: float
    gflops: float
    classes: tuple[str, ...]
    spacing: tuple[float, float]
    patch: tuple[int, int]
    divisor: tuple[int, int]
    batch: int
    steps: int
    learning_rate: float
    clip_percentiles: tuple[float, float]
    augmentation: str
    """Where augmentation runs: "device" (batched torch) or "host" (batchgenerators)."""
    network: UNetShape | ENetShape
    memory_bytes: int
    gflops_per_slice: float
    parameters: int
    fingerprint_hash: str
    reasons: dict[str, str]
    format_version: int = FORMAT_VERSION
    devices: int = 1

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-ready values; ``devices`` is among them where there are several: older plans do not have it."""
        values = dataclasses.asdict(self)
        if self.devices == 1:
            values.pop("devices")
        return values

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        """Rebuild a plan; raises ``ValueError`` when the format version or the fields do not fit."""
        check_version(values, FORMAT_VERSION, "plan", "run cas_plan_and_preprocess again")
        plan = build(Plan, values)
        if problem := _problem(plan):
            raise ValueError(f"plan: {problem}")
        return plan

    def hash(self) -> str:
        """Hash of what changes results: everything but the explanations."""
        values = self.to_json()
        values.pop("reasons")
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def describe_plan(plan: Plan) -> str:
    """The plan in words: a few lines for a terminal or a report."""
    shape = plan.network
    if isinstance(shape, ENetShape):
        network = (
            f"{shape.stage1} bottlenecks at a quarter, {shape.stages} x {2 * len(shape.dilations)} at an eighth, "
            f"dilations {', '.join(str(value) for value in shape.dilations)}"
        )
    else:
        network = f"{len(shape.strides) - 1} poolings, {1 + shape.deep_supervision} supervised outputs"
    name = {"unet": "U-Net", "attention_unet": "Attention U-Net", "enet": "ENet"}[plan.architecture]
    low, high = plan.clip_percentiles
    return "\n".join(
        [
            f"{name} for {plan.dataset} on a {plan.target} "
            f"(budgets: {plan.memory_gb:g} GB, {plan.gflops:g} GFLOPs per patch)",
            f"  input     {plan.patch[0]} x {plan.patch[1]} pixels of {plan.spacing[0]:g} x {plan.spacing[1]:g} mm, "
            f"intensities clipped at percentiles {low:g} and {high:g}",
            f"  network   widths {', '.join(str(width) for width in shape.widths)}; {network}",
            f"  cost      {plan.parameters / 1e6:.2f} M parameters, {plan.gflops_per_slice:.2f} GFLOPs per patch, "
            f"{plan.memory_bytes / 1e9:.2f} GB in training" + (" on each device" if plan.devices > 1 else ""),
            f"  training  {plan.steps} steps of {plan.batch} slices, learning rate {plan.learning_rate:g}"
            + (f", on {plan.devices} devices" if plan.devices > 1 else ""),
        ]
    )


def _problem(plan: Plan) -> str:
    """What no plan has, in words: numbers that would take memory or time without bounds, or make no network; else empty."""
    if plan.architecture not in ARCHITECTURES:
        return f"its architecture {plan.architecture!r} is not one of {', '.join(ARCHITECTURES)}"
    if plan.augmentation not in ("device", "host"):
        return f'its augmentation {plan.augmentation!r} is not "device" or "host"'
    for name, (low, high) in LIMITS.items():
        value = getattr(plan, name)
        if not all(low <= number <= high for number in (value if isinstance(value, tuple) else (value,))):
            return f"{name} {value} is not between {low:g} and {high:g}"
    if plan.devices > plan.batch:
        return f"its batch of {plan.batch} slices is smaller than its {plan.devices} devices"
    if plan.clip_percentiles[0] >= plan.clip_percentiles[1]:
        return f"clip_percentiles {plan.clip_percentiles} do not rise"
    if not 2 <= len(plan.classes) <= 256 or len(set(plan.classes)) < len(plan.classes):
        return f"its {len(plan.classes)} classes are not 2 to 256 different names"
    if isinstance(plan.network, ENetShape) != (plan.architecture == "enet"):
        return f"its network is not that of {plan.architecture}"
    if problem := _enet_problem(plan.network) if isinstance(plan.network, ENetShape) else _unet_problem(plan.network):
        return problem
    strides = plan.network.strides if isinstance(plan.network, UNetShape) else ((8, 8),)
    if any(plan.divisor[axis] % math.prod(stride[axis] for stride in strides) for axis in (0, 1)):
        return f"its divisor {plan.divisor} is no multiple of the strides of its network"
    return ""


def _unet_problem(shape: UNetShape) -> str:
    stages = len(shape.widths)
    if not 2 <= stages <= DEEPEST or len(shape.strides) != stages or not _within(shape.widths, WIDEST):
        return f"its network does not have 2 to {DEEPEST} stages, each with a stride and 1 to {WIDEST} feature maps"
    if shape.strides[0] != (1, 1) or not all(_within(stride, 8) for stride in shape.strides):
        return "the strides of its network are not 1 to 8, the first (1, 1)"
    if not 1 <= shape.convolutions <= MOST_REPEATED or not 0 <= shape.deep_supervision < stages - 1:
        return f"its network has {shape.convolutions} convolutions a stage and {shape.deep_supervision} further outputs"
    return ""


def _enet_problem(shape: ENetShape) -> str:
    if not _within(shape.widths, WIDEST) or min(shape.widths[1:]) < 4:
        return f"the widths {shape.widths} of its network are not 4 to {WIDEST} feature maps"
    counts = (shape.stage1, shape.stages, len(shape.dilations))
    if not all(0 <= count <= MOST_REPEATED for count in counts) or not _within(shape.dilations, 1024):
        return "its network has more repetitions or larger dilations than any plan"
    return "" if shape.asymmetric in range(1, 100, 2) else f"its kernel length {shape.asymmetric} is not odd and below 100"


def _within(values: tuple[int, ...], largest: int) -> bool:
    return all(1 <= value <= largest for value in values)
