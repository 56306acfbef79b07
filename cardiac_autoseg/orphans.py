"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl.h."""


def ending_with_parent() -> Callable[[], None] | None:
    """What asks Linux, for the process that calls it, for SIGTERM when its parent dies, even by kill -9. None elsewhere.

    All is loaded before: what a child calls right after the fork does as little as possible.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
