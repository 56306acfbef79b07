"""Help is quick and imports nothing heavy; every command exists and says what it is for."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cardiac_autoseg.cli.commands import COMMANDS

MODULES = [f"{name}_" if name == "import" else name for name in COMMANDS]


@pytest.mark.parametrize("name", MODULES)
def test_help_needs_neither_torch_nor_numpy(name: str) -> None:
    code = (
        f"import sys\nfrom cardiac_autoseg.cli import {name} as command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'SimpleITK', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    # The promise is 0.3 s; a busy test machine gets more.
    assert time.perf_counter() - started < 3


def test_every_command_of_setup_py_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    import setuptools

    seen: dict[str, object] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **values: seen.update(values))
    runpy.run_path(str(Path(__file__).parents[2] / "setup.py"))
    scripts = seen["entry_points"]["console_scripts"]  # type: ignore[index]
    assert [script.split(" = ")[0] for script in scripts] == [f"cas_{name}" for name in COMMANDS]
    for script in scripts:
        module, function = script.split(" = ")[1].split(":")
        assert callable(getattr(importlib.import_module(module), function))
