"""The README's main job without the install: time of ``cas_demo``, and what its runs reach; writes results/demo.md.

python benchmarks/demo.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "demo.md"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "demo"
        started = time.perf_counter()
        command = [sys.executable, "-m", "cardiac_autoseg.cli.demo", "-o", str(output)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds = time.perf_counter() - started
        lines = [
            "# The demo\n",
            f"`python benchmarks/demo.py`: `cas_demo` took {seconds:.0f} s on {os.cpu_count()} cores, report included.\n",
            "| run on synthetic hearts | labels trained on | Dice against the expert | slices/s |",
            "|---|---|---|---|",
        ]
        for path in sorted(output.glob("workspace/runs/**/run.json")):
            run = json.loads(path.read_text())
            cells = [
                f"{run['architecture']}, fold {run['fold']}",
                run["gt"],
                f"{run['val_dice']:.3f}",
                f"{run['slices_per_second']:.0f}",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        truth = printed[printed.index("EF of the test hearts") :].split("\n\n")[0]
        RESULT.write_text("\n".join([*lines, "", "```", truth, "```"]) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
