"""What a run was computed on and with, as far as it decides the last digits of a result."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cardiac_autoseg import __version__
from cardiac_autoseg.device import uses_bfloat16

PACKAGES = ("torch", "numpy", "scipy", "SimpleITK", "batchgenerators", "safetensors")
"""Packages whose code computes, reads or writes what a run holds."""
UNIMPORTANT = ("cores",)
"""What may differ without any consequence for the result."""


def hardware(device: torch.device) -> dict[str, Any]:
    """What the run ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": str(device),
        "host": platform.node(),
        "name": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def environment(device: torch.device) -> dict[str, Any]:
    """:func:`hardware`, and all else that a replay must have in common with the run to be equal to the bit.

    oneDNN and MKL choose their code by the processor's instructions, and sum in an order that depends on the number of
    threads.
    """
    values = {
        **hardware(device),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": uses_bfloat16(device),
        "onednn": torch.backends.mkldnn.is_available(),
        "mkl": torch.backends.mkl.is_available(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cardiac_autoseg": __version__,
        **{name: _version(name) for name in PACKAGES},
    }
    if device.type == "cuda":
        values |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return values


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two environments, in words. What the older of two releases did not record is no difference."""
    return [
        f"{name}: {then[name]} then, {now[name]} now"
        for name in then
        if name in now and then[name] != now[name] and name not in UNIMPORTANT
    ]


def _cpu() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
