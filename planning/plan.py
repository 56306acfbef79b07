"""The plan: every decision the tool takes about a data set, as frozen dataclasses with JSON in and out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

FORMAT_VERSION = 1
ARCHITECTURES = ("unet", "attention_unet", "enet")


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
    each number of the plan, keyed by its name.
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

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-ready values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        """Rebuild a plan; raises ``ValueError`` when the format version or the fields do not fit."""
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(
                f"plan has format version {version}, this release reads {FORMAT_VERSION}: run cas_plan_and_preprocess again"
            )
        try:
            shape = {key: _tuples(value) for key, value in values["network"].items()}
            network = ENetShape(**shape) if values["architecture"] == "enet" else UNetShape(**shape)
            fields = {key: _tuples(value) for key, value in values.items() if key not in ("network", "reasons")}
            return Plan(network=network, reasons=dict(values["reasons"]), **fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"plan is incomplete or has unknown fields ({error})") from error

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
            f"{plan.memory_bytes / 1e9:.2f} GB in training",
            f"  training  {plan.steps} steps of {plan.batch} slices, learning rate {plan.learning_rate:g}",
        ]
    )


def _tuples(value: Any) -> Any:
    """JSON lists back to tuples, at every depth."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
