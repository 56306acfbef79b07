"""What was tried to break the tool, how often, and how often it held; writes results/reliability.md.

    python benchmarks/reliability.py [PART …]      all parts, or those named: the modules of tests/reliability

Runs tests/reliability in full (CAS_RELIABILITY=full), one module after the other. Parts that are not named keep the rows of
their last run, which results/reliability.json holds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peer_measure import machine

TESTS = Path(__file__).parents[1] / "tests" / "reliability"
RESULTS = Path(__file__).parent / "results"


def run(part: str) -> dict[str, Any]:
    """Run one module in full; its rows, summed by what they try."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        counts = Path(place) / "counts.json"
        environment = os.environ | {"CAS_RELIABILITY": "full", "CAS_RELIABILITY_JSON": str(counts)}
        command = [sys.executable, "-m", "pytest", str(TESTS / f"test_{part}.py")]
        code = subprocess.run(command, cwd=TESTS.parents[1], env=environment).returncode
        if not counts.is_file():
            sys.exit(f"the tests of {part} did not run (exit code {code})")
        rows = json.loads(counts.read_text())
    summed: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        kept = summed.setdefault((row["area"], row["what"]), {**row, "tried": 0, "held": 0})
        kept["tried"] += row["tried"]
        kept["held"] += row["held"]
        kept["note"] = row["note"] or kept["note"]
    seconds = time.perf_counter() - started
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", "seconds": round(seconds), "rows": list(summed.values())}


def table(parts: dict[str, dict[str, Any]]) -> str:
    rows = [{**row, "part": part} for part, one in parts.items() for row in one["rows"]]
    areas = list(dict.fromkeys(row["area"] for row in rows))
    lines = [
        "# What was tried to break it",
        "",
        f"`python benchmarks/reliability.py`, {machine()}. A try holds when the test of it passes: what it asks is",
        "written in the module of tests/reliability.",
        "",
        "| area | tried | how many | held | note | module |",
        "|---|---|---|---|---|---|",
    ]
    for area in areas:
        for row in (one for one in rows if one["area"] == area):
            held = row["held"] if row["held"] == row["tried"] else f"**{row['held']}**"
            lines.append(f"| {area} | {row['what']} | {row['tried']} | {held} | {row['note']} | {row['part']} |")
    tried, held = (sum(row[name] for row in rows) for name in ("tried", "held"))
    lines += ["", f"In all {held} of {tried} held.", "", "| module | run on | seconds |", "|---|---|---|"]
    lines += [f"| {part} | {one['date']} | {one['seconds']} |" for part, one in parts.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = sorted(path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py"))
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(there))
    wanted = parser.parse_args().parts or there
    if unknown := set(wanted) - set(there):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are: {', '.join(there)}")
    record = RESULTS / "reliability.json"
    parts = json.loads(record.read_text()) if record.is_file() else {}
    for part in wanted:
        parts[part] = run(part)
        kept = {name: parts[name] for name in there if name in parts}
        record.write_text(json.dumps(kept, indent=1) + "\n")
        (RESULTS / "reliability.md").write_text(table(kept))
    print((RESULTS / "reliability.md").read_text())


if __name__ == "__main__":
    main()
