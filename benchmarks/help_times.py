"""How long every ``cas_… --help`` takes, as a user's shell sees it; writes results/help.md.

python benchmarks/help_times.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "help.md"


def seconds(command: Path) -> float:
    started = time.perf_counter()
    subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    lines = [
        "# `--help`\n",
        "`python benchmarks/help_times.py`: wall time over 7 calls, in seconds.\n",
        "| command | median | slowest |",
        "|---|---|---|",
    ]
    for command in sorted(Path(sys.executable).parent.glob("cas_*")):
        times = [seconds(command) for _ in range(7)]
        lines.append(f"| `{command.name} --help` | {statistics.median(times):.2f} | {max(times):.2f} |")
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
