"""Bundles from anywhere: what their record and the headers of their weights claim is checked before memory is taken."""

from __future__ import annotations

import dataclasses
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.bundle import load_bundle, load_network, read_bundle
from cardiac_autoseg.errors import UserError

from .bundle_tools import all_problems, little_memory, refused, sealed

AREA = "Security"
Make = Callable[..., Path]
Nested = Callable[[dict[str, Any]], object]


def network(**values: Any) -> Nested:
    return lambda record: record["plans"]["a"]["network"].update(values)


def plan(**values: Any) -> Nested:
    return lambda record: record["plans"]["a"].update(values)


def whole(**values: Any) -> Nested:
    return lambda record: record.update(values)


RECORDS: dict[str, Nested] = {
    "10^12 weights": network(widths=[4096, 4096, 4096], convolutions=64),
    "feature maps without end": network(widths=[10**12, 8, 8]),
    "stages without end": network(widths=[4] * 10_000, strides=[[1, 1]] + [[2, 2]] * 9_999),
    "convolutions without end": network(convolutions=10**9),
    "outputs without end": network(deep_supervision=10**9),
    "strides without end": network(strides=[[1, 1], [10**6, 2], [2, 2]]),
    "no feature maps": network(widths=[0, 8, 8]),
    "negative feature maps": network(widths=[-4, 8, 8]),
    "a bool for a number": network(convolutions=True),
    "a text for a number": network(widths=["4", 8, 8]),
    "a fraction for a whole number": network(widths=[4.0, 8, 8]),
    "a patch of 10^6": plan(patch=[10**6, 10**6]),
    "a negative patch": plan(patch=[-32, 32]),
    "a divisor of 0": plan(divisor=[0, 4]),
    "a divisor that does not divide": plan(divisor=[3, 4]),
    "a spacing of 0": plan(spacing=[0, 1.5]),
    "a spacing of nearly 0": plan(spacing=[1e-9, 1.5]),
    "a spacing of NaN": plan(spacing=[float("nan"), 1.5]),
    "a spacing in one axis": plan(spacing=[1.5]),
    "percentiles the wrong way": plan(clip_percentiles=[99, 1]),
    "an unknown network": plan(architecture="transformer"),
    "a network of another kind": plan(architecture="enet"),
    "10^5 classes": plan(classes=["background", *map(str, range(100_000))]),
    "an unknown field of the plan": plan(hook="os.system"),
    "10^4 networks": lambda record: record.update(members=record["members"] * 10**4),
    "10^5 views": whole(views=[[0, 1]] * 10**5),
    "a zoom without end": whole(views=[[0, 1e9]]),
    "views of NaN": whole(views=[[float("nan"), 1]]),
    "flips of another axis": whole(flips=[-1]),
    "flips without end": whole(flips=[0] * 10**5),
    "a file elsewhere": lambda record: record["members"][0].update(file="/etc/passwd.safetensors"),
    "a file upwards": lambda record: record["members"][0].update(file="../x.safetensors"),
    "a further file": lambda record: record["files"].update({"../../x": "0" * 64}),
    "a hash of another type": lambda record: record["members"][0].update(sha256=None),
    "labels beyond a byte": whole(labels={"background": 0, "RV": 10**9}),
    "a number of 400 digits": whole(orientation=[10**400] * 6),
    "nesting without end": whole(card=json.loads("[" * 900 + "]" * 900)),
    "a newer format": whole(format_version=2),
    "a newer format of the plan": plan(format_version=99),
    "a format of another type": whole(format_version=[1]),
    "another program's": whole(format="other"),
}


@pytest.mark.tries(AREA, "records of bundles that ask for too much, or for what is not theirs")
@pytest.mark.parametrize("case", RECORDS)
def test_records_are_checked_before_anything_is_made(case: str, tmp_path: Path, make_bundle: Make) -> None:
    zipped = make_bundle(tmp_path / "m.zip")
    with zipfile.ZipFile(zipped) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(contents["m/bundle.json"])
    RECORDS[case](record)
    contents["m/bundle.json"] = json.dumps(record).encode()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    refused(
        zipped,
        "is not valid",
        "format version",
        "not a bundle",
        "does not fit its plan",
        "its ",
        "names",
        "no bundle of ours",
    )


def header(tensors: dict[str, Any], size: int | None = None, data: bytes = b"") -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def claims(shape: list[int], end: int, kind: str = "F32") -> dict[str, Any]:
    return {"w": {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}


WEIGHTS: dict[str, bytes] = {
    "nothing": b"",
    "eight bytes": b"\xff" * 8,
    "a header of 100 GB": header(claims([1], 4), size=100 << 30),
    "a header of 2^64 bytes": header(claims([1], 4), size=(1 << 64) - 1),
    "a tensor of 100 GB": header(claims([25 << 30], 100 << 30)),
    "a shape of 10^18": header(claims([10**6, 10**6, 10**6], 4), data=bytes(4)),
    "a shape that overflows": header(claims([1 << 63, 2], 0)),
    "a negative shape": header(claims([-1], 4), data=bytes(4)),
    "offsets the wrong way": header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, data=bytes(4)),
    "an unknown type": header(claims([1], 4, "PICKLE"), data=bytes(4)),
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "10^4 tensors": header({f"w{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(10_000)}),
    "other tensors": header(claims([5000], 20_000), data=bytes(20_000)),
}


@pytest.mark.tries(AREA, "safetensors headers that claim what is not there")
@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_are_checked_before_memory_is_taken(case: str, tmp_path: Path, make_bundle: Make) -> None:
    folder = make_bundle(tmp_path / "m")
    member = read_bundle(folder).members[0]
    sealed(folder, member.file, WEIGHTS[case])
    with little_memory(), pytest.raises(UserError, match=r"not a safetensors file|does not fit its plan"):
        load_bundle(folder)


@pytest.mark.tries(AREA, "a byte changed in each file of a bundle: its hash is another")
def test_hashes_are_verified(tmp_path: Path, make_bundle: Make, tries: Any) -> None:
    folder = make_bundle(tmp_path / "m", licence="none")
    bundle = read_bundle(folder)
    names = [*bundle.files, bundle.members[0].file]
    tries.count = len(names)
    for name in names:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match="checksum differs"):
            all_problems(folder)
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="checksum differs"):
        load_network(folder, dataclasses.replace(bundle.members[0], sha256="0" * 64), bundle.plans["a"])
