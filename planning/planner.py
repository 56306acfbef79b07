"""The planner: from a fingerprint and two budgets, memory and compute, to a plan; every number comes with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

from planning import attention_unet, enet, topology, unet
from planning.cost import Cost
from planning.fingerprint import Fingerprint
from planning.plan import ARCHITECTURES, ENetShape, Plan, UNetShape
from planning.plan import describe_plan as describe_plan
from planning.topology import Size

TARGETS = ("cpu", "gpu")
MEMORY_GB = {"cpu": 8.0, "gpu": 8.0}
"""Default memory budget, in units of 1e9 bytes."""
GFLOPS = {"cpu": 2.0, "gpu": 60.0}
"""Default compute budget: billions of operations (two per multiply-add) of one forward pass of one patch."""
BASES = (32, 24, 16, 12, 8)
"""Feature maps at the finest level, widest first."""
BATCH = {
    "cpu": {"unet": 8, "attention_unet": 8, "enet": 16},
    "gpu": {"unet": 64, "attention_unet": 64, "enet": 64},
}
"""Largest batch: on a CPU a small one makes more steps out of the slices there is time for."""
SLICES_SEEN = {
    "cpu": {"unet": 90_000, "attention_unet": 60_000, "enet": 64_000},
    "gpu": {"unet": 1_500_000, "attention_unet": 1_500_000, "enet": 1_500_000},
}
"""Slices that training sees, with repetition."""
LEARNING_RATE = {
    "cpu": {"unet": 2e-3, "attention_unet": 2e-3, "enet": 3e-3},
    "gpu": {"unet": 1e-3, "attention_unet": 1e-3, "enet": 2e-3},
}
"""Peak learning rate of AdamW."""
RESERVED = {"cpu": 0.6e9, "gpu": 1.0e9}
"""Bytes of the process itself: libraries, on a GPU the CUDA context and workspaces of convolutions."""
SMALLEST_BATCH = 2
"""Batch norm and batch Dice need more than one slice."""
LARGEST_SHARE = 0.05
"""A batch holds at most this share of all slices, as in nnU-Net."""
CLIP_LOW = 0.5
CLIP_HIGH = (99.0, 99.5, 99.9)
STORED_BYTES = 3
"""Per pixel of the data set in memory: image in half precision, one label array."""

Network = UNetShape | ENetShape


class Rule(Protocol):
    """What the module of an architecture offers."""

    divisor: Callable[[Size, tuple[float, float]], Size]
    make_shape: Callable[[int, Size, tuple[float, float]], Network]
    explain: Callable[[Network, Size, tuple[float, float]], dict[str, str]]
    count: Callable[[Network, Size, int], Cost]


RULES: dict[str, Rule] = {"unet": unet, "attention_unet": attention_unet, "enet": enet}  # type: ignore[dict-item]


@dataclass(frozen=True)
class Budget:
    """What a network may use: ``gflops`` per patch, ``memory`` bytes for a training step, beside ``taken`` bytes."""

    gflops: float
    memory: float
    taken: float


@dataclass(frozen=True)
class Candidate:
    """One network on one patch."""

    base: int
    patch: Size
    why_patch: str
    network: Network
    cost: Cost

    def fits(self, budget: Budget) -> bool:
        """Whether it keeps both budgets, at the smallest batch."""
        return self.cost.gflops <= budget.gflops and self.cost.memory(SMALLEST_BATCH) <= budget.memory


def make_plan(
    fingerprint: Fingerprint,
    architecture: str,
    target: str = "cpu",
    memory_gb: float | None = None,
    gflops: float | None = None,
    devices: int = 1,
) -> Plan:
    """Plan one architecture for a data set.

    ``memory_gb`` (1e9 bytes) and ``gflops`` (1e9 operations of a forward pass of one patch, two per multiply-add) override
    what ``target``, "cpu" or "gpu", allows. ``devices`` share each batch, with ``memory_gb`` each; the network is that of
    one device, and so is the batch where memory is no limit. Raises ``ValueError`` on unknown names, and where a budget or
    the batch is too small: the message says which, and what works.
    """
    _check_names(architecture, target)
    memory_gb = MEMORY_GB[target] if memory_gb is None else memory_gb
    gflops = GFLOPS[target] if gflops is None else gflops
    spacing, why_spacing = topology.target_spacing(fingerprint, target)
    taken = RESERVED[target] + _stored_bytes(fingerprint, spacing)
    budget = Budget(gflops, memory_gb * 1e9 - taken, taken)
    candidates = list(_candidates(fingerprint, architecture, target, spacing))
    chosen = next((candidate for candidate in candidates if candidate.fits(budget)), None)
    if chosen is None:
        raise ValueError(_infeasible(architecture, candidates, budget))
    batch, why_batch = _batch(fingerprint, architecture, target, chosen.cost, budget, devices)
    clip, why_clip = _clip(fingerprint)
    rule = RULES[architecture]
    plan = Plan(
        architecture=architecture,
        dataset=fingerprint.dataset,
        target=target,
        memory_gb=memory_gb,
        gflops=gflops,
        classes=fingerprint.classes,
        spacing=spacing,
        patch=chosen.patch,
        divisor=rule.divisor(chosen.patch, spacing),
        batch=batch,
        steps=math.ceil(SLICES_SEEN[target][architecture] / batch),
        learning_rate=LEARNING_RATE[target][architecture],
        clip_percentiles=clip,
        augmentation="device",
        network=chosen.network,
        memory_bytes=chosen.cost.memory(batch // devices),
        gflops_per_slice=round(chosen.cost.gflops, 6),
        parameters=chosen.cost.parameters,
        fingerprint_hash=fingerprint.hash(),
        reasons={
            "spacing": why_spacing,
            "patch": chosen.why_patch,
            "batch": why_batch,
            "clip_percentiles": why_clip,
            "widths": _why_widths(chosen, candidates, budget),
            **rule.explain(chosen.network, chosen.patch, spacing),
        },
        devices=devices,
    )
    plan.reasons.update(_plain_reasons(plan, fingerprint))
    return plan


def _check_names(architecture: str, target: str) -> None:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {architecture!r}: choose from {', '.join(ARCHITECTURES)}")
    if target not in TARGETS:
        raise ValueError(f"there is no target {target!r}: choose from {', '.join(TARGETS)}")


def _candidates(
    fingerprint: Fingerprint, architecture: str, target: str, spacing: tuple[float, float]
) -> Iterator[Candidate]:
    """The networks that are tried, most wanted first: patches in order of preference, for each the widest network first."""
    rule = RULES[architecture]
    for patch, why in _patches(fingerprint, target, spacing, rule):
        for base in BASES:
            network = rule.make_shape(base, patch, spacing)
            yield Candidate(base, patch, why, network, rule.count(network, patch, len(fingerprint.classes)))


def _patches(fingerprint: Fingerprint, target: str, spacing: tuple[float, float], rule: Rule) -> Iterator[tuple[Size, str]]:
    """Patches in order of preference, each with its reason."""
    whole = topology.slice_size(fingerprint, spacing)
    rounded = topology.round_up(whole, rule.divisor(whole, spacing))
    median = f"{topology.SLICE_SHARE:.0%} of the median slice are {whole[0]} x {whole[1]} pixels at the target spacing"
    if target == "gpu":
        yield rounded, f"a whole slice: {median}, rounded up to the divisor"
    heart, why = topology.heart_size(fingerprint, spacing)
    wanted = topology.round_up(heart, rule.divisor(heart, spacing))
    patch = (min(wanted[0], rounded[0]), min(wanted[1], rounded[1]))
    # Cutting an axis to the slice may leave it at a size that the strides of the cut patch do not divide.
    patch = topology.round_up(patch, rule.divisor(patch, spacing))
    yield (
        patch,
        f"the heart: {why}, rounded up to the divisor, at most a whole slice ({median}); "
        "the network is convolutional and predicts whole slices all the same",
    )


def _batch(
    fingerprint: Fingerprint, architecture: str, target: str, cost: Cost, budget: Budget, devices: int
) -> tuple[int, str]:
    """Batch size and why: the least of what memory, data and the target's habit allow, a multiple of the devices."""
    cap = BATCH[target][architecture]
    memory = max(batch for batch in range(SMALLEST_BATCH, cap + 1) if cost.memory(-(-batch // devices)) <= budget.memory)
    data = max(SMALLEST_BATCH, int(LARGEST_SHARE * fingerprint.labelled_slices))
    limits = {
        f"{budget.memory / 1e9:.2f} GB of memory hold no more": memory if memory < cap else cap + 1,
        f"{LARGEST_SHARE:.0%} of {fingerprint.labelled_slices} slices, so that epochs have enough steps": data,
        f"the most planned for {architecture} on a {target}": cap,
    }
    why = min(limits, key=lambda name: limits[name])
    batch = limits[why]
    if devices == 1:
        return batch, f"{why}; one more would need {cost.memory(batch + 1) / 1e9:.2f} GB"
    if devices > batch:
        raise ValueError(f"a batch of {batch} slices ({why}) is too small for {devices} devices: plan for fewer (--devices)")
    more = f"one more on each of the {devices} devices would need {cost.memory(batch // devices + 1) / 1e9:.2f} GB there"
    return batch - batch % devices, f"{why}, and a multiple of the devices; {more}"


def _clip(fingerprint: Fingerprint) -> tuple[tuple[float, float], str]:
    """Percentiles of a volume that normalisation maps to 0 and 1, and why."""
    saturation = fingerprint.summary.get("saturation")
    if saturation is None:
        return (CLIP_LOW, CLIP_HIGH[1]), "nothing is labelled: the usual percentiles, which leave out a few extreme voxels"
    high = next((value for value in CLIP_HIGH if value >= saturation.p95), CLIP_HIGH[-1])
    return (CLIP_LOW, high), (
        f"the heart's brightest percent begins at the {saturation.p95:.2f}th percentile of the volume or lower in 95 % of "
        f"the cases: of {', '.join(f'{value:g}' for value in CLIP_HIGH)} the first that does not cut it (the last if all do)"
    )


def _why_widths(chosen: Candidate, candidates: list[Candidate], budget: Budget) -> str:
    """Why the network is as wide as it is."""
    fits = (
        f"{chosen.cost.gflops:.3g} of {budget.gflops:g} GFLOPs per patch and "
        f"{chosen.cost.memory(SMALLEST_BATCH) / 1e9:.2f} of {budget.memory / 1e9:.2f} GB at batch {SMALLEST_BATCH}"
    )
    wider = [candidate for candidate in candidates if candidate.patch == chosen.patch and candidate.base > chosen.base]
    if not wider:
        return f"{chosen.base} at the finest level is the widest planned, and needs {fits}"
    refused = wider[-1]
    return (
        f"{chosen.base} at the finest level is the widest that fits: {fits}; {refused.base} would need "
        f"{refused.cost.gflops:.3g} GFLOPs and {refused.cost.memory(SMALLEST_BATCH) / 1e9:.2f} GB"
    )


def _infeasible(architecture: str, candidates: list[Candidate], budget: Budget) -> str:
    """Which budget is too small, and the least that works."""
    least_gflops = min(candidate.cost.gflops for candidate in candidates)
    affordable = [candidate for candidate in candidates if candidate.cost.gflops <= max(budget.gflops, least_gflops)]
    least_memory = min(candidate.cost.memory(SMALLEST_BATCH) for candidate in affordable) + budget.taken
    parts = []
    if budget.gflops < least_gflops:
        needed = math.ceil(least_gflops * 1000) / 1000
        parts.append(f"the compute budget of {budget.gflops:g} GFLOPs is too small: at least {needed:g} (--gflops) works")
    if budget.memory + budget.taken < least_memory:
        given = (budget.memory + budget.taken) / 1e9
        needed = math.ceil(least_memory / 1e9 * 100) / 100
        parts.append(
            f"the memory budget of {given:g} GB is too small: at least {needed:g} (--memory-gb) works, of which "
            f"{budget.taken / 1e9:.2f} are for the process and the data set"
        )
    smallest = candidates[-1]
    return (
        f"no {architecture} fits, not even with {smallest.base} feature maps on {smallest.patch[0]} x {smallest.patch[1]} "
        f"pixels: {'; '.join(parts)}"
    )


def _stored_bytes(fingerprint: Fingerprint, spacing: tuple[float, float]) -> float:
    """Bytes of the whole data set in memory, at ``spacing``."""
    areas = (case.shape[0] * case.shape[1] * case.spacing[1] * case.shape[2] * case.spacing[2] for case in fingerprint.cases)
    return STORED_BYTES * sum(areas) / (spacing[0] * spacing[1])


def _plain_reasons(plan: Plan, fingerprint: Fingerprint) -> dict[str, str]:
    """Reasons of the fields that are given, or follow from the others."""

    def budget(value: float, default: float) -> str:
        return f"default of target {plan.target}" if value == default else f"asked for, the default is {default:g}"

    stored = _stored_bytes(fingerprint, plan.spacing)
    subjects = len(set(fingerprint.subjects.values()))
    halvings = [value.bit_length() - 1 for value in plan.divisor]
    where = f"for {plan.architecture} on a {plan.target}"
    each = f" on each of {plan.devices} devices" if plan.devices > 1 else ""
    shared = f"asked for: each takes {plan.batch // plan.devices} slices of a batch; batch norm and loss see the whole of it"
    return {
        **({"devices": shared} if each else {}),
        "architecture": "asked for",
        "dataset": f"name of the data set: {len(fingerprint.cases)} cases of {subjects} subjects",
        "target": "asked for: it sets the default budgets, patch and schedule",
        "memory_gb": budget(plan.memory_gb, MEMORY_GB[plan.target])
        + f"; {RESERVED[plan.target] / 1e9:.2f} GB are set aside for the process and {stored / 1e9:.2f} GB for the data set",
        "gflops": budget(plan.gflops, GFLOPS[plan.target]),
        "classes": f"{len(plan.classes)} classes of the data set, background included",
        "divisor": f"the network halves an axis {halvings[0]} times in y, {halvings[1]} in x",
        "steps": f"{SLICES_SEEN[plan.target][plan.architecture]} slices seen (the schedule {where}) / batch {plan.batch}",
        "learning_rate": f"peak of AdamW's schedule, the schedule {where}",
        "augmentation": "batched on the device where the data live; no worker processes",
        "memory_bytes": f"peak of a training step at batch {plan.batch // plan.devices}{each}: weights, gradients, two"
        " moments, moving average, activations in bfloat16 kept for the backward pass",
        "gflops_per_slice": f"forward pass of one {plan.patch[0]} x {plan.patch[1]} patch, two operations per multiply-add",
        "parameters": f"weights of {asdict(plan.network)['widths']} feature maps, counted layer by layer",
        "fingerprint_hash": f"the fingerprint this plan was made from, by source {fingerprint.planning_source}",
    }
