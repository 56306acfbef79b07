"""``cas_simulate_annotator``: a label source drawn by a simulated person, from the expert's labels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cardiac_autoseg.cli import common


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_simulate_annotator``; exit codes as in :mod:`cardiac_autoseg.cli.common`."""
    parser = common.make_parser(
        "Simulate a person who annotates every case: draw labels that differ from a source's as a profile says, and add them"
        " to the workspace as a source that is marked simulated. Given again, it does only what is missing or has changed."
        " Exit code 1: some cases were left out, as listed; the others are in."
    )
    parser.prog = "cas_simulate_annotator"
    parser.add_argument("profile", metavar="PROFILE", help="novice, trained, or a JSON file (docs/annotators.md)")
    parser.add_argument(
        "--person",
        type=common.at_least(0),
        default=1,
        metavar="N",
        help="which person of that profile: each has offsets and a hand of their own",
    )
    parser.add_argument("--name", metavar="NAME", help="name of the source; without it profile and person, as novice1")
    parser.add_argument("--gt", default="expert", metavar="SOURCE", help="source whose labels the person's differ from")
    common.add_json(parser, "how much was drawn, and the workspace's sources,")
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from cardiac_autoseg.annotation.profile import load_profile
    from cardiac_autoseg.annotation.simulated_source import Annotator, simulate_source
    from cardiac_autoseg.workspace import find_workspace

    workspace = find_workspace(values.workspace)
    profile = load_profile(values.profile)
    annotator = Annotator(values.name or f"{profile.name}{values.person}", profile, values.person, values.gt)
    say = common.teller(values)
    made = simulate_source(workspace, annotator, say)
    if values.json:
        from cardiac_autoseg.data.index import load_dataset
        from cardiac_autoseg.data.summary import coverage

        done = {"source": annotator.name, "drawn": made.drawn, "kept": made.kept, "left_out": made.left_out}
        common.print_json({**done, **coverage(load_dataset(workspace.dataset))})
    if made.drawn:
        kept = f", {made.kept} were there" if made.kept else ""
        say(
            f"SIMULATED source {annotator.name} ({annotator.note}): {made.drawn} cases drawn{kept}, in"
            f" {workspace.annotations(annotator.name)}; next: cas_plan_and_preprocess -w {workspace.root}"
        )
    else:
        say(f"SIMULATED source {annotator.name} is complete and up to date ({made.kept} cases)")
    if made.left_out:
        print(f"cas_simulate_annotator: {len(made.left_out)} left out, see above", file=sys.stderr)
    return common.SOME_FAILED if made.left_out else common.OK


if __name__ == "__main__":
    sys.exit(main())
