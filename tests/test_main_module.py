"""``python -m cardiac_autoseg`` is every command, lists them at once, and says what went wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cardiac_autoseg import __version__
from cardiac_autoseg.cli.commands import COMMANDS, main, parser_of


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cardiac_autoseg", *arguments], capture_output=True, text=True, check=False, cwd="/"
    )


def test_lists_the_commands_without_arguments() -> None:
    done = call()
    assert done.returncode == 0 and done.stdout == call("--help").stdout
    for name, words in COMMANDS.items():
        assert any(line.split() == [name, *words.split()] for line in done.stdout.splitlines()), name


def test_version_and_a_command_under_its_own_name() -> None:
    assert call("--version").stdout == f"cardiac_autoseg {__version__}\n"
    for name in ("status", "import", "cas_status"):
        done = call(name, "--help")
        assert done.returncode == 0 and f"usage: cas_{name.removeprefix('cas_')} " in done.stdout
    done = call("status", "-w", "/nowhere")
    assert done.returncode == 2 and done.stderr.startswith("cas_status: ")


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "no command 'segment'" in said.err and "predict" in said.err


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from cardiac_autoseg.cli.commands import main; main([]); main(['--version']);"
        "sys.exit(bool({'torch', 'numpy', 'scipy', 'matplotlib', 'SimpleITK', 'shtab'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_arguments_reach_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cardiac_autoseg.cli import status

    seen: list[list[str]] = []
    monkeypatch.setattr(status, "main", lambda given: seen.append(given) or 7)
    monkeypatch.setattr(sys, "argv", ["__main__.py", "status", "-w", str(tmp_path)])
    assert main() == 7 and main(["status"]) == 7
    assert seen == [["-w", str(tmp_path)], []]


@pytest.mark.parametrize("name", COMMANDS)
def test_parser_of_a_command_is_its_own_and_does_not_run_it(name: str) -> None:
    from cardiac_autoseg.cli import common

    run = common.run
    parser = parser_of(name)
    assert common.run is run
    assert parser.prog == f"cas_{name}" and parser.description
