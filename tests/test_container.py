"""The container's recipe, read and carried out as far as that goes without an engine."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "examples" / "container" / "Dockerfile"
KNOWN = "ARG FROM LABEL RUN ENV COPY USER WORKDIR ENTRYPOINT CMD".split()


class Instruction(NamedTuple):
    word: str
    rest: str


def instructions() -> list[Instruction]:
    lines = [line for line in RECIPE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in whole.splitlines()]


def of(word: str) -> list[str]:
    return [one.rest for one in instructions() if one.word == word]


def ignored(path: Path) -> bool:
    """Whether the build's context lacks a file: the last pattern that fits it, or a folder above it, decides."""
    relative, out = path.relative_to(ROOT), False
    for line in (RECIPE.parent / "Dockerfile.dockerignore").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern = line.lstrip("!").removeprefix("**/")
        deep = "**/" in line
        parts = [relative, *relative.parents][:-1]
        if any(fnmatch.fnmatch(part.name if deep else part.as_posix(), pattern) for part in parts):
            out = not line.startswith("!")
    return out


def sources() -> Iterator[tuple[Path, str]]:
    for rest in of("COPY"):
        *found, target = shlex.split(rest)
        for source in found:
            yield ROOT / source, target


def test_only_known_instructions_in_order() -> None:
    words = [one.word for one in instructions()]
    assert set(words) <= set(KNOWN), "ADD, for one, would fetch what nobody has checked"
    assert words[:2] == ["ARG", "FROM"]
    assert words.count("FROM") == 1
    assert of("FROM") == ["${BASE}"]
    assert words.index("USER") > max(place for place, word in enumerate(words) if word == "RUN"), "what runs is not root"


def test_base_is_of_a_version_and_has_no_secrets() -> None:
    (base,) = [rest for rest in of("ARG") if rest.startswith("BASE=")]
    image, _, tag = base.removeprefix("BASE=").partition(":")
    assert image and re.match(r"\d+\.\d+", tag)
    text = RECIPE.read_text()
    assert "latest" not in text
    assert not re.search(r"(?i)password|secret|token|api_?key|credential", "\n".join(map(str, instructions())))
    # What the FROM line takes is declared before it, all else behind it, where alone it has a value.
    used = set(re.findall(r"\$\{(\w+)\}", text)) - {"BASE"}
    assert used == {rest.partition("=")[0] for rest in of("ARG")} - {"BASE"}


def test_user_is_not_root_and_entry_point_is_installed() -> None:
    (user,) = of("USER")
    assert all(part.isdigit() and int(part) > 999 for part in user.split(":"))
    assert f"--uid {user.split(':')[0]} " in " ".join(of("RUN"))
    (entry,) = map(json.loads, of("ENTRYPOINT"))
    (command,) = map(json.loads, of("CMD"))
    assert entry == ["cas_predict"] and command == ["--help"]
    assert '"predict",' in (ROOT / "setup.py").read_text()


def test_what_is_copied_is_there_and_nothing_else_reaches_the_build() -> None:
    for source, _ in sources():
        assert source.exists(), source
        assert not ignored(source), source
    weights = list((ROOT / "cardiac_autoseg" / "models" / "default").glob("*.safetensors"))
    assert weights and not any(map(ignored, weights))
    for name in (".git", "benchmarks", "tests", "examples", "ws", "cardiac_autoseg/__pycache__", ".venv"):
        assert ignored(ROOT / name), name


def test_installs_pinned_without_a_cache_and_for_a_worker_too() -> None:
    pips = [line for line in of("RUN") if "pip install" in line]
    assert len(pips) == 2
    for line in pips:
        assert "--no-cache-dir" in line and "-c /src/constraints.txt" in line
    assert "[cluster,remote]" in pips[-1]
    pinned = (ROOT / "constraints.txt").read_text()
    assert all(re.search(rf"(?m)^{name}==", pinned) for name in ("torch", "ray", "fsspec", "s3fs"))
    (environment,) = of("ENV")
    assert "RAY_USAGE_STATS_ENABLED=0" in environment


@pytest.mark.slow
def test_steps_lead_to_a_command_that_works(tmp_path: Path) -> None:
    """The COPY steps, and the last pip line, without what is there already; then the entry point, with its weights."""
    pytest.importorskip("setuptools")
    for source, target in sources():
        place = tmp_path / target.lstrip("/")
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    last = [line for line in of("RUN") if "pip install" in line][-1].split("&&")[0]
    words = [word.replace("/src", str(tmp_path / "src")) for word in shlex.split(last)]
    installed = tmp_path / "installed"
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--prefix", str(installed), "--ignore-installed"]
    done = subprocess.run([sys.executable, "-m", *words, *offline], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "src")
    (package,) = installed.glob("lib*/python*/site-packages/cardiac_autoseg")
    (entry,) = map(json.loads, of("ENTRYPOINT"))
    (command,) = map(json.loads, of("CMD"))
    environment = {"PYTHONPATH": str(package.parent), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for words in ([*entry, *command], ["cas_models", "verify", "default"]):
        program = [sys.executable, str(installed / "bin" / words[0]), *words[1:]]
        ran = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
        assert ran.returncode == 0, ran.stderr
    assert "default" in ran.stdout
