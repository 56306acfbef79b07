"""The declared ranges of Python and of each dependency, run at both ends; writes results/dependencies.md.

    python benchmarks/dependencies.py FOLDER [NAME …] [--python PATH …] [--source TREE] [--tests PART …]

Makes environments below FOLDER, one after the other, runs the fast tests in each and deletes it: ``oldest``, every package
at the bound that setup.py declares, and ``newest``, what pip takes without constraints, both with the Python that runs this;
and ``python3.x``, the newest with each interpreter that ``--python`` names. NAME: only these; what is not named keeps its
last result. PART: only these folders of tests. The code is HEAD, or what lies in TREE. pip is used as it is configured.
An environment takes up to 8 GB while it is there, as torch for Linux comes with CUDA's libraries.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from peer_measure import machine

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
SAID = 1500
"""Characters of pip's last words that are kept where it fails."""
TESTS_SECONDS = 3600


def declared(tree: Path) -> list[Requirement]:
    """What setup.py asks for, extras included, each once."""
    call = next(
        node
        for node in ast.walk(ast.parse((tree / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    values = {word.arg: word.value for word in call.keywords}
    needed = ast.literal_eval(values["install_requires"])
    extras = ast.literal_eval(values["extras_require"])
    found = [Requirement(text) for text in [*needed, *(text for one in extras.values() for text in one)]]
    return list({one.name.lower(): one for one in found}.values())


def bound(requirement: Requirement) -> str:
    """The lower bound of a range."""
    return next(one.version for one in requirement.specifier if one.operator == ">=")


def make(place: Path, python: str, needed: list[Requirement], oldest: bool) -> str:
    """Make the environment ``place``; returns pip's last words where it fails, else nothing."""
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    # With what a package must bring: moto without its server tests nothing.
    extras = {one.name: f"[{','.join(sorted(one.extras))}]" if one.extras else "" for one in needed}
    wanted = [f"{one.name}{extras[one.name]}=={bound(one)}" if oldest else str(one) for one in needed]
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "--no-cache-dir", "--progress-bar", "off", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stdout + done.stderr)[-SAID:]


def installed(place: Path) -> dict[str, str]:
    """Version of each package by its name as pip compares names."""
    command = [str(place / "bin" / "python"), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {plain(one["name"]): one["version"] for one in listed}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test(place: Path, tree: Path, parts: list[str]) -> dict[str, Any]:
    """Run the fast tests, and of those that try to break the tool the files of earlier releases; what passed and failed.

    ``parts``: only these folders of tests.
    """
    record = place / "tests.xml"
    folders = sorted(
        path for path in (tree / "tests").iterdir() if path.is_dir() and path.name not in ("reliability", "golden")
    )
    files = [*sorted((tree / "tests").glob("test_*.py")), tree / "tests" / "reliability" / "test_compatibility.py"]
    command = [str(place / "bin" / "python"), "-m", "pytest", "-m", "not slow and not realdata", f"--junitxml={record}"]
    wanted = [tree / "tests" / part for part in parts] or [*folders, *files]
    command += [str(path) for path in wanted if path.exists()]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=TESTS_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"the tests took more than {TESTS_SECONDS} s"}
    (place.parent / f"{place.name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if not record.is_file():
        return {"error": (done.stdout + done.stderr)[-SAID:]}
    suite = next(ElementTree.parse(record).iter("testsuite"))
    tests, skipped, failed = (int(suite.get(name, 0)) for name in ("tests", "skipped", "failures"))
    failed += int(suite.get("errors", 0))
    bad = [case for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None]
    return {
        "tests": ", ".join(parts) or "all",
        "passed": tests - skipped - failed,
        "failed": failed,
        "skipped": skipped,
        "failures": [f"{case.get('classname')}: {case.get('name')}" for case in bad],
        "seconds": round(time.perf_counter() - started),
    }


def run(folder: Path, name: str, python: str, tree: Path, parts: list[str]) -> dict[str, Any]:
    """One environment from its making to its deletion."""
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    version = subprocess.run(
        [python, "-c", "import platform as p; print(p.python_version())"], capture_output=True, text=True
    )
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=tree, capture_output=True, text=True).stdout
    record: dict[str, Any] = {
        "code": revision.strip(),
        "python": version.stdout.strip(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    try:
        error = make(place, python, declared(tree), oldest=name == "oldest")
        return record | ({"error": error} if error else {"versions": installed(place), **test(place, tree, parts)})
    finally:
        shutil.rmtree(place, ignore_errors=True)


def table(environments: dict[str, dict[str, Any]], needed: list[Requirement]) -> str:
    names = list(environments)
    lines = [
        "# Dependencies at both ends of their ranges",
        "",
        f"`python benchmarks/dependencies.py`, {machine()}. The tests are those without the marks `slow` and `realdata`;",
        "of those in tests/reliability, which try to break the tool, `test_compatibility.py` where the code has it.",
        "",
        "| environment | Python | code | tests | passed | failed | skipped | seconds | run on |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in environments.items():
        cells = [str(one.get(key, "-")) for key in ("code", "tests", "passed", "failed", "skipped", "seconds")]
        lines.append(f"| {name} | {one['python']} | {' | '.join(cells)} | {one['date']} |")
    lines += ["", f"| package | declared | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for requirement in needed:
        versions = [environments[name].get("versions", {}).get(plain(requirement.name), "-") for name in names]
        lines.append(f"| {requirement.name} | {requirement.specifier} | {' | '.join(versions)} |")
    for name, one in environments.items():
        if one.get("error"):
            lines += ["", f"`{name}` was not run:", "", "```", one["error"].strip(), "```"]
        if one.get("failures"):
            lines += ["", f"Failed in `{name}`:", "", *(f"* {text}" for text in one["failures"])]
    return "\n".join([*lines, "", *NOT_RUN]) + "\n"


NOT_RUN = (
    "Not run: releases between the two ends, and the oldest of one package beside the newest of another; Python 3.14 and",
    "later; systems other than Linux on x86-64; torch on a GPU; in these environments (they are run in that of",
    "constraints.txt) the tests that need real data or take more than ten seconds, and those of tests/reliability not",
    "named above. Python older than 3.11 is not declared: the code uses what came with 3.11.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("names", nargs="*", metavar="NAME", help="oldest, newest, python3.x")
    parser.add_argument("--python", nargs="+", default=[], metavar="PATH")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PART")
    parser.add_argument("--source", type=Path, metavar="TREE")
    values = parser.parse_args()
    values.folder = values.folder.resolve()
    values.folder.mkdir(parents=True, exist_ok=True)
    tree = values.source or values.folder / "source"
    if values.source is None:
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(tree)], check=True)
    pythons = {"oldest": sys.executable, "newest": sys.executable}
    for path in values.python:
        code = "import sys; print(f'python{sys.version_info[0]}.{sys.version_info[1]}')"
        pythons[subprocess.run([path, "-c", code], check=True, capture_output=True, text=True).stdout.strip()] = path
    if unknown := set(values.names) - set(pythons):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(pythons)}")
    record = RESULTS / "dependencies.json"
    environments = json.loads(record.read_text()) if record.is_file() else {}
    for name in values.names or pythons:
        environments[name] = run(values.folder, name, pythons[name], tree.resolve(), values.tests)
        record.write_text(json.dumps(environments, indent=1) + "\n")
        (RESULTS / "dependencies.md").write_text(table(environments, declared(tree)))
    print((RESULTS / "dependencies.md").read_text())


if __name__ == "__main__":
    main()
