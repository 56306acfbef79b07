"""``cas_predict``: segment NIfTI files with a trained bundle."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from cardiac_autoseg.workspace import Workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_predict``."""
    parser = common.make_parser(
        "Segment short-axis cine-MRI: every 3D or 4D NIfTI file that -i names, in its own geometry. Files whose output is"
        " already there are skipped, so the same command goes on where a stopped one left off."
    )
    parser.add_argument(
        "-i", "--input", nargs="+", required=True, metavar="IN", help="NIfTI files, folders, or globs in quotes"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIR", help="folder for the labels, <name of the input>.nii.gz"
    )
    parser.add_argument(
        "--model",
        metavar="BUNDLE",
        help="bundle: folder, .zip, or name in the workspace; without it the workspace's only one, or the one called best",
    )
    parser.add_argument("--fast", action="store_true", help="one network instead of all, and no mirror images")
    parser.add_argument(
        "--save-probabilities",
        action="store_true",
        help="also write <name>.npz: probabilities (classes, [frames,] Z, Y, X) float16",
    )
    parser.add_argument("--overwrite", action="store_true", help="predict again where an output is already there")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …; without it a GPU where there is one")
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    from pathlib import Path
    from time import perf_counter

    from cardiac_autoseg.bundle import read_bundle
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.inference.files import claim_folder, done, find_bundle, find_inputs, plan_outputs, predict_files
    from cardiac_autoseg.inference.model import load_model
    from cardiac_autoseg.inference.predictor import flip_axes

    start = perf_counter()
    output = Path(values.output).expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"-o {output} is a file: name a folder")
    outputs = plan_outputs(find_inputs(values.input), output)
    keep = values.save_probabilities
    present = [] if values.overwrite else [source for source, target in outputs.items() if done(target, keep)]
    if present:
        print(f"{len(present)} of {len(outputs)} files have an output in {output}: skipped (redo them with --overwrite)")
    todo = {source: target for source, target in outputs.items() if source not in present}
    bundle = find_bundle(_workspace(values.workspace), values.model)
    claim_folder(output, read_bundle(bundle), values.fast, resuming=bool(present))
    if not todo:
        return common.OK
    model = load_model(bundle, values.device, values.fast)
    images = len(flip_axes(model.flips))
    print(
        f"model {bundle}: {len(model.bundle.members)} network(s), {images} mirror image(s) of each slice, on {model.device}"
    )
    if keep:
        print(f"classes of the probabilities: {', '.join(sorted(model.labels, key=lambda name: model.labels[name]))}")
    seconds = {"load model": perf_counter() - start}
    failed = 0
    for number, result in enumerate(predict_files(model, todo, seconds, keep), start=1):
        head = f"[{number}/{len(todo)}] {result.source.name}"
        if result.problem:
            failed += 1
            print(f"{head}: FAILED. {result.problem}", file=sys.stderr)
        else:
            print(f"{head}: {' x '.join(map(str, result.shape))}, {result.seconds:.2f} s", flush=True)
    print(f"\n{len(todo) - failed} predicted into {output}, {failed} failed, in {perf_counter() - start:.1f} s; by stage:")
    for stage, spent in seconds.items():
        print(f"  {stage:<12} {spent:8.2f} s   {spent / len(todo):.3f} s a file")
    if failed == len(outputs):
        return common.USER_ERROR
    return common.SOME_FAILED if failed else common.OK


def _workspace(given: str | None) -> Workspace | None:
    """The workspace to look for models in, or None where there is none."""
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.workspace import find_workspace

    try:
        return find_workspace(given)
    except UserError:
        # A model needs no workspace, so it must not be the workspace that the user is told about.
        if given is not None:
            raise
        return None
