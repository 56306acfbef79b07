"""Starting the processes of a training on several devices: torchrun's own agent, without its port and its noise.

The processes find each other through a file and talk over the loopback interface. With ``torchrun`` itself a store listens
on all of the machine's interfaces.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.threads import available_cores
from cardiac_autoseg.training.distributed import MEET

PATIENCE = "110"
"""Seconds that the processes have for saving their state when asked to stop; older releases of torch give them 30."""
OUTPUT_ENDS = (0, 1, 2, 130)
"""Exit codes of commands that have said why."""


def launch(devices: int, words: Sequence[str], threads: int | None) -> int:
    """Run ``cas_train`` with the command line ``words`` in ``devices`` processes; returns the exit code of the command.

    Without ``threads`` they share the cores. SIGTERM and SIGINT are passed on. Raises :class:`UserError` if a process is
    killed: the others are ended then, and what was saved last is kept.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", PATIENCE)
    # Else the agent opens a store of its own, for processes that find each other through it.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # What matters of what the agent says is said below.
    logging.disable(logging.CRITICAL)
    own = [] if threads else ["--threads", str(max(1, available_cores() // devices))]
    with tempfile.TemporaryDirectory(prefix="cas_train_") as folder:
        os.environ[MEET] = (Path(folder) / "processes").as_uri()
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=str(Path(folder) / "agent"),
            rdzv_configs={"store_type": "file", "timeout": 900},
            max_restarts=0,
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "cardiac_autoseg.cli.train", *words, *own)
        except SignalException as stopped:
            return 128 + int(signal.SIGINT) if stopped.sigval in (signal.SIGTERM, signal.SIGINT) else 1
        except ChildFailedError as failed:
            return _code({rank: failure.exitcode for rank, failure in failed.failures.items()})
        finally:
            logging.disable(logging.NOTSET)
            del os.environ[MEET]
    return 0


def _code(ends: dict[int, int]) -> int:
    """The exit code of the command, from those of the processes that failed; :class:`UserError` if one did not say why."""
    # A process that got SIGTERM was ended because of another one.
    silent = {rank: code for rank, code in ends.items() if code not in OUTPUT_ENDS}
    for rank, code in sorted(silent.items(), key=lambda end: (end[1] == -signal.SIGTERM, end)):
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = " (was there too little memory?)" if code == -signal.SIGKILL else ""
        raise UserError(
            f"process {rank} of the training {how}{hint}, and the others were ended: what was saved last is kept, and the"
            " same command goes on from there"
        )
    return max(ends.values(), default=0)
