"""The harness: nnU-Net v2 beside ours, stage by stage, on the same patients and cores; writes results/peer.md.

    python benchmarks/peer.py PLACE --data ACDC_TRAINING [--stages prepare throughput …] [--steps-for 0.80=300,…]
    python benchmarks/peer.py PLACE --data ACDC_TRAINING --tables          only the table, of what was measured

PLACE takes the peer's environment, its data and ours, and all measurements (PLACE/records): the same command goes on where
it was stopped. All but ``dice`` takes about a quarter of an hour on two cores, ``dice`` an hour and a half.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import peer_table
from peer_dice import dice
from peer_predict import predict
from peer_setup import Bench, make_environment, make_workspace, prepare_peer
from peer_stages import metrics, prepare, throughput
from peer_start import start

STAGES = ("prepare", "throughput", "dice", "predict", "metrics", "start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="folder for everything")
    parser.add_argument("--data", type=Path, required=True, help="the training patients of ACDC")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument(
        "--steps-for", default="0.80=300,0.85=600,0.88=1500", help="our schedule for each mark, MARK=STEPS,…"
    )
    parser.add_argument("--seeds", type=int, default=1, help="of our training")
    parser.add_argument("--scored", type=Path, help="workspace whose predictions the metrics score (default: that of dice)")
    parser.add_argument("--rounds", type=int, help="at most so many of each measurement")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--again", action="store_true", help="throw away what was measured of these stages")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    values = parser.parse_args()
    bench = Bench(values.place.resolve(), values.data.resolve(), values.device, values.rounds)
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"{(time.perf_counter() - started) / 60:5.1f} min  {text}", flush=True)

    if not values.tables:
        for stage in values.stages if values.again else ():
            shutil.rmtree(bench.records / stage, ignore_errors=True)
        say("setting up")
        make_environment(bench)
        make_workspace(bench)
        prepare_peer(bench)
        for stage in values.stages:
            say(f"stage {stage}")
            if stage == "metrics":
                metrics(bench, values.scored or bench.workspace.root, say)
            elif stage == "dice":
                dice(bench, say, sorted({int(part.partition("=")[2]) for part in values.steps_for.split(",")}), values.seeds)
            else:
                {"prepare": prepare, "throughput": throughput, "predict": predict, "start": start}[stage](bench, say)
    print(peer_table.write_table(bench, _command(sys.argv[1:], values)))


def _command(arguments: list[str], values: argparse.Namespace) -> str:
    """The command line without the folders of this machine."""
    names = {str(values.place): "PLACE", str(values.data): "ACDC_TRAINING", str(values.scored): "WORKSPACE"}
    return " ".join(["python benchmarks/peer.py", *(names.get(word, word) for word in arguments)])


if __name__ == "__main__":
    main()
