"""What a node of the cluster does for the runs of a matrix. Its workers import this: nothing heavy is imported here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from cardiac_autoseg import __version__
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.scale.processes import run_to_end

ANSWER_SECONDS = 120.0
"""Seconds that the nodes have at the start for saying what they have."""
GPU_BYTES = (
    "import torch; count = torch.cuda.device_count();"
    " print(min((torch.cuda.get_device_properties(n).total_memory for n in range(count)), default=0))"
)


def describe(root: str, gpus: bool) -> dict[str, Any]:
    """What a node says of itself; runs there."""
    memory = 0
    if gpus:
        # In a process of its own, as Ray hides the GPUs from a task that asked for none.
        command = [sys.executable, "-c", f"import os; os.environ.pop('CUDA_VISIBLE_DEVICES', None); {GPU_BYTES}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
        memory = int(done.stdout) if done.stdout.strip().isdigit() else 0
    return {"version": __version__, "sees": (Path(root) / "dataset.json").is_file(), "gpu_memory": memory}


def run_on_node(words: list[str], folder: str) -> int:
    """Run a command with this node's Python, its output in the console log of the run; runs on a node."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not there on this node: the workspace must lie on a file system that all nodes share")
    return run_to_end([sys.executable, *words], Path(folder))
