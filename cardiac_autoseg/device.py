"""Which device to compute on, and in which precision."""

from __future__ import annotations

import torch

from cardiac_autoseg.errors import UserError


def pick_device(device: str | torch.device | None) -> torch.device:
    """The torch device called ``device``, or the best there is; raises :class:`UserError` if it is not there."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!s} is not available ({str(error).splitlines()[0]}): use cpu") from error
    return chosen


def uses_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on ``device``: on GPUs that have it, and on CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu":
        return False
    checks = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(check is not None and check() for check in checks)
