"""Runs commands of the tool, each in a fork of this process, which has imported what they need: a try costs no start of
Python. Started as ``python kill_server.py``; a line of JSON a command on standard input, answers on standard output.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

MODULES = (
    "cardiac_autoseg.annotation.derived",
    "cardiac_autoseg.annotation.simulated_source",
    "cardiac_autoseg.data.dicom",
    "cardiac_autoseg.data.dicom_seg",
    "cardiac_autoseg.data.dicom_sr",
    "cardiac_autoseg.delivery.pipeline",
    "cardiac_autoseg.delivery.write",
    "cardiac_autoseg.inference.ensemble",
    "cardiac_autoseg.report.annotators",
    "cardiac_autoseg.report.build",
    "cardiac_autoseg.report.compare",
    "cardiac_autoseg.training.runner",
    "cardiac_autoseg.trust.complete",
)
"""Heavy modules that commands import on their way."""


def run(command: str, arguments: list[str], folder: str, log: str) -> int:
    """Run ``cas_<command>`` in this process, which becomes a group of its own; its exit code."""
    os.setpgid(0, 0)
    os.chdir(folder)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.argv[0] = f"cas_{command}"
    try:
        module = importlib.import_module(f"cardiac_autoseg.cli.{command + '_' if command == 'import' else command}")
        code = module.main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            os._exit(run(*json.loads(line)))
        os.write(1, f"{pid}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())


if __name__ == "__main__":
    main()
