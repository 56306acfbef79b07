"""The completion scripts, in the shells themselves where they are installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cardiac_autoseg.cli import completion
from cardiac_autoseg.cli.commands import COMMANDS

pytest.importorskip("shtab")


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    shell = request.param
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    assert completion.main([shell]) == 0
    path = tmp_path / f"complete.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


def shell(name: str, code: str) -> str:
    done = subprocess.run(
        [name, *(["-f"] if name != "bash" else ["--norc"]), "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cas_train u", {"unet"}),
        ("cas_train unet 0 --lo", {"--loss"}),
        ("cas_models ''", {"list", "inspect", "verify", "export", "import", "onnx"}),
        ("cas_models export best --", {"--help", "--workspace", "--json", "--output"}),
        ("cas_status --j", {"--json"}),
        ("cas_completion z", {"zsh"}),
        ("python -m cardiac_autoseg pl", {"plan_and_preprocess"}),
        ("python3 -m cardiac_autoseg train en", {"enet"}),
        ("python -m cardiac_autoseg models ver", {"verify"}),
        ("python -m another pl", set()),
    ],
)
def test_bash(script: Path, words: str, expected: set[str]) -> None:
    code = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ));"
        " f=$(complete -p ${COMP_WORDS[0]} | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); $f; echo \"${COMPREPLY[@]}\""
    )
    assert set(shell("bash", code).split()) == expected


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes_files(script: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.zip").touch()
    code = (
        f"cd {shlex.quote(str(tmp_path))}; source {script}; COMP_WORDS=(cas_models import bun); COMP_CWORD=2;"
        ' _shtab_cas_models; echo "${COMPREPLY[@]}"'
    )
    assert shell("bash", code).split() == ["bundle.zip"]


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_registers_every_command(script: Path, tmp_path: Path) -> None:
    names = " ".join(f"$_comps[cas_{name}]" for name in COMMANDS)
    code = f'autoload -U compinit; compinit -u -d {tmp_path}/dump; eval "$(cat {script})"; print {names} $_comps[python]'
    assert shell("zsh", code).split() == [*(f"_shtab_cas_{name}" for name in COMMANDS), "_cas_python"]


@pytest.mark.parametrize("script", ["tcsh"], indirect=True)
def test_tcsh_registers_every_command(script: Path) -> None:
    lines = shell("tcsh", f"source {script}; complete").splitlines()
    rules = {line.split("\t")[0]: line for line in lines}
    assert {f"cas_{name}" for name in COMMANDS} <= set(rules)
    assert "(unet attention_unet enet)" in rules["cas_train"]


def test_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert completion.main(["bash"]) == 2
    assert "pip install 'cardiac_autoseg[completion]'" in capsys.readouterr().err
