"""Plans: budgets are kept, everything has a reason, and what does not fit is refused in words."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from itertools import product

import numpy as np
import pytest

from planning import planner, topology
from planning.fingerprint import CaseMeasurement, Fingerprint, SourceMeasurement, build_fingerprint
from planning.plan import ARCHITECTURES, ENetShape, Plan, UNetShape, describe_plan
from planning.planner import TARGETS, make_plan

CLASSES = ("background", "RV", "MYO", "LV")


def fingerprint(
    spacing: float = 1.5625,
    size: tuple[int, int] = (256, 216),
    heart: tuple[float, float] | None = (120.0, 130.0),
    cases: int = 40,
    slices: int = 9,
) -> Fingerprint:
    """A data set of equal cases."""
    volumes = dict.fromkeys(CLASSES[1:], 100.0)
    source = None if heart is None else SourceMeasurement(slices, volumes, heart, (1.0,) * 7, 99.2)
    measured = [
        CaseMeasurement(
            f"c{number:03d}",
            (slices, *size),
            (10.0, spacing, spacing),
            (1.0,) * 7,
            {"expert": source} if source else {},
        )
        for number in range(cases)
    ]
    return build_fingerprint("demo", CLASSES, measured, {case.case_id: case.case_id for case in measured}, "hash")


ALL = list(product(ARCHITECTURES, TARGETS))


@pytest.mark.parametrize(("architecture", "target"), ALL)
def test_plans_keep_their_budgets(architecture: str, target: str) -> None:
    plan = make_plan(fingerprint(), architecture, target)
    assert plan.gflops_per_slice <= plan.gflops
    assert plan.memory_bytes <= plan.memory_gb * 1e9
    assert plan.batch >= 2
    assert all(size % step == 0 for size, step in zip(plan.patch, plan.divisor, strict=True))
    rule = planner.RULES[architecture]
    cost = rule.count(plan.network, plan.patch, len(CLASSES))
    assert (cost.parameters, cost.memory(plan.batch)) == (plan.parameters, plan.memory_bytes)
    assert plan.steps == math.ceil(planner.SLICES_SEEN[target][architecture] / plan.batch)


@pytest.mark.parametrize(("architecture", "target"), ALL)
def test_every_field_has_a_reason(architecture: str, target: str) -> None:
    for found in (fingerprint(), fingerprint(heart=None)):
        plan = make_plan(found, architecture, target)
        fields = {field.name for field in dataclasses.fields(plan)} - {"network", "reasons", "format_version", "devices"}
        fields |= {field.name for field in dataclasses.fields(plan.network)}
        assert set(plan.reasons) == fields
        assert all(len(reason) > 5 for reason in plan.reasons.values())


@pytest.mark.parametrize(("architecture", "target"), ALL)
def test_json_round_trip(architecture: str, target: str) -> None:
    plan = make_plan(fingerprint(), architecture, target)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.hash() == plan.hash()


@pytest.mark.parametrize(("architecture", "target"), ALL)
def test_devices_share_the_batch_and_change_nothing_else(architecture: str, target: str) -> None:
    one, four = (make_plan(fingerprint(), architecture, target, devices=devices) for devices in (1, 4))
    assert (four.batch, four.network) == (one.batch - one.batch % 4, one.network)
    assert four.memory_bytes < one.memory_bytes
    assert four.hash() != one.hash()
    assert "devices" not in one.to_json() and "devices" not in one.reasons
    assert four.to_json()["devices"] == 4 and "4 devices" in four.reasons["memory_bytes"]
    assert Plan.from_json(json.loads(json.dumps(four.to_json()))) == four
    assert "4 devices" in planner.describe_plan(four)


def test_with_devices_a_batch_is_their_multiple_and_each_has_its_memory() -> None:
    assert make_plan(fingerprint(), "unet", "cpu", devices=3).batch == 6
    one, four = (make_plan(fingerprint(), "unet", "gpu", memory_gb=2.5, devices=devices) for devices in (1, 4))
    assert four.batch > one.batch and four.batch % 4 == 0
    with pytest.raises(ValueError, match="too small for 9 devices"):
        make_plan(fingerprint(), "unet", "cpu", devices=9)


def test_more_devices_than_slices_are_no_plan() -> None:
    values = make_plan(fingerprint(), "unet", "cpu").to_json()
    with pytest.raises(ValueError, match="smaller than its 9 devices"):
        Plan.from_json({**values, "devices": 9})
    with pytest.raises(ValueError, match="devices 0"):
        Plan.from_json({**values, "devices": 0})


def test_acdc_like_data_get_the_expected_plans() -> None:
    found = fingerprint()
    cpu, gpu = make_plan(found, "unet", "cpu"), make_plan(found, "unet", "gpu")
    assert cpu.patch == (128, 128)
    assert gpu.patch == (256, 224), "nnU-Net's patch for these data"
    assert isinstance(cpu.network, UNetShape)
    assert len(cpu.network.strides) == 5
    assert cpu.spacing == gpu.spacing == (1.5625, 1.5625), "the median itself"
    assert gpu.network.widths[0] == 32
    assert gpu.network.widths[-1] == 512


def test_all_architectures_share_the_spacing_and_a_cpu_is_not_finer_than_its_limit() -> None:
    fine = fingerprint(spacing=0.8, size=(400, 400))
    for target, expected in (("cpu", 1.5), ("gpu", 0.8)):
        assert {make_plan(fine, name, target).spacing for name in ARCHITECTURES} == {(expected, expected)}
    assert "CPU" in make_plan(fine, "unet", "cpu").reasons["spacing"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_wider_budgets_never_make_smaller_networks(architecture: str) -> None:
    plans = [make_plan(fingerprint(), architecture, "cpu", gflops=value) for value in (0.5, 1, 2, 4, 8, 100)]
    widths = [plan.network.widths[0] for plan in plans]
    assert widths == sorted(widths)
    assert widths[-1] == max(planner.BASES)
    batches = [make_plan(fingerprint(), architecture, "gpu", memory_gb=value).batch for value in (2, 4, 8, 16)]
    assert batches == sorted(batches)


@pytest.mark.parametrize(("architecture", "target"), ALL)
@pytest.mark.parametrize("budget", ["gflops", "memory_gb"])
def test_budgets_too_small_name_the_least_that_works(architecture: str, target: str, budget: str) -> None:
    found = fingerprint()
    with pytest.raises(ValueError, match="is too small") as caught:
        make_plan(found, architecture, target, **{budget: 0.001})
    match = re.search(r"at least ([\d.]+) \((--[\w-]+)\)", str(caught.value))
    assert match
    assert match.group(2) == "--" + budget.replace("_", "-")
    least = float(match.group(1))
    assert make_plan(found, architecture, target, **{budget: least}).network.widths[0] == min(planner.BASES)
    with pytest.raises(ValueError, match="is too small"):
        make_plan(found, architecture, target, **{budget: least * 0.98})


def test_two_budgets_too_small_name_both_and_together_they_work() -> None:
    with pytest.raises(ValueError, match=r"compute budget.*memory budget") as caught:
        make_plan(fingerprint(), "unet", "gpu", memory_gb=0.01, gflops=0.01)
    gflops, memory = (float(value) for value in re.findall(r"at least ([\d.]+)", str(caught.value)))
    make_plan(fingerprint(), "unet", "gpu", memory_gb=memory, gflops=gflops)


def test_a_gpu_that_cannot_hold_a_whole_slice_takes_the_heart() -> None:
    plan = make_plan(fingerprint(), "unet", "gpu", gflops=0.6)
    assert plan.patch == (128, 128)


def test_batch_is_bound_by_the_data() -> None:
    plan = make_plan(fingerprint(cases=10, slices=8), "enet", "cpu")
    assert plan.batch == 4
    assert "80 slices" in plan.reasons["batch"]
    assert make_plan(fingerprint(cases=2, slices=5), "enet", "cpu").batch == 2


@pytest.mark.parametrize(("architecture", "target"), ALL)
@pytest.mark.parametrize("size", [(24, 40), (64, 64), (96, 512)])
def test_odd_data_still_get_a_plan(architecture: str, target: str, size: tuple[int, int]) -> None:
    plan = make_plan(fingerprint(size=size, heart=(20.0, 30.0), cases=5), architecture, target)
    assert all(size % step == 0 for size, step in zip(plan.patch, plan.divisor, strict=True))
    assert isinstance(plan.network, ENetShape | UNetShape)


def test_pooling_follows_its_rule() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(int(value) for value in generator.integers(4, 600, 2))
        spacing = tuple(float(value) for value in generator.uniform(0.7, 4, 2))
        strides = topology.pooling(size, spacing)
        divisor = topology.divisor(strides)
        patch = topology.round_up(size, divisor)
        assert topology.pooling(patch, spacing) == strides, "rounding up does not change the depth"
        for axis in (0, 1):
            assert divisor[axis] == 1 or patch[axis] // divisor[axis] >= topology.SMALLEST_MAP
            assert 0 <= patch[axis] - size[axis] < divisor[axis]


def test_anisotropic_pixels_are_pooled_towards_isotropy() -> None:
    assert topology.pooling((128, 128), (1.0, 4.0))[:2] == ((2, 1), (2, 1))


def test_unknown_names_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="choose from unet"):
        make_plan(fingerprint(), "transformer")
    with pytest.raises(ValueError, match="choose from cpu"):
        make_plan(fingerprint(), "unet", "tpu")


@pytest.mark.parametrize(("architecture", "target"), ALL)
def test_the_plan_in_words_holds_its_numbers(architecture: str, target: str) -> None:
    plan = make_plan(fingerprint(), architecture, target)
    words = describe_plan(plan)
    assert len(words.splitlines()) <= 6
    for number in (*plan.patch, *plan.network.widths, plan.batch, plan.steps):
        assert str(number) in words
