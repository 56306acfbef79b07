"""``cas_plan_and_preprocess``: fingerprint, plan and preprocess a data set, after importing it where needed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.cli import common
from planning.plan import ARCHITECTURES

if TYPE_CHECKING:
    from cardiac_autoseg.threads import Spread
    from cardiac_autoseg.workspace import Workspace

STAGES = ("fingerprint", "plan", "preprocess")
CASE_MEMORY = 512 << 20
"""Bytes that a worker of a cluster asks for: two cases at a time, and the libraries."""


def build_parser() -> argparse.ArgumentParser:
    """The options of ``cas_plan_and_preprocess``."""
    parser = common.make_parser(
        "Look at a data set once, decide everything, preprocess it; a second run redoes only what changed."
    )
    parser.add_argument(
        "dataset", nargs="?", type=Path, help="data folder of a known layout, or a workspace (default: as -w)"
    )
    parser.add_argument("--gt", default="expert", help="name of the label source, when the data set is imported")
    parser.add_argument("--target", choices=("cpu", "gpu"), help="machine to plan for (default: gpu if there is one)")
    parser.add_argument("--memory-gb", type=float, help="device memory that training may use (default: 8)")
    parser.add_argument("--gflops", type=float, help="compute for one slice, forward, in GFLOP (default: the target's)")
    parser.add_argument(
        "--devices",
        type=common.at_least(1),
        default=1,
        help="devices of one machine that share each training, with --memory-gb each (docs/several-gpus.md)",
    )
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES, help="stages to run")
    parser.add_argument("--workers", type=common.at_least(1), help="threads (default: as suits the number of cores)")
    common.add_cluster(parser, "cases")
    common.add_json(parser, "plans and what was done")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return common.run(build_parser(), work, arguments)


def work(values: argparse.Namespace) -> int:
    """Import where needed, then run the stages, one process at a time; exit code 1 if cases were left out."""
    from cardiac_autoseg.locks import waiting
    from cardiac_autoseg.temporaries import clear_unfinished

    started = time.perf_counter()
    say = common.teller(values)
    with _spread(values, say) as spread:
        workspace, imported, seen = _workspace(values, spread, say)
        with waiting(workspace.root / ".plan-lock", say):
            clear_unfinished(workspace.root / "plans")
            return _stages(values, workspace, imported, seen, started, spread)


@contextmanager
def _spread(values: argparse.Namespace, say: Callable[[str], None]) -> Iterator[Spread]:
    """How cases are dealt out: to threads, or to the machines of a cluster."""
    if not values.cluster:
        from cardiac_autoseg.threads import in_process

        yield in_process
        return
    from cardiac_autoseg.cluster.connect import connected
    from cardiac_autoseg.cluster.spread import Needs, spread_over

    with connected(values.cluster) as ray:
        yield spread_over(ray, Needs(1, 0.0, CASE_MEMORY), say, at_once=2)


def _stages(
    values: argparse.Namespace,
    workspace: Workspace,
    imported: int | None,
    seen: set[str],
    started: float,
    spread: Spread,
) -> int:
    from cardiac_autoseg.data.index import load_dataset
    from cardiac_autoseg.preprocessing import prepare
    from cardiac_autoseg.preprocessing.store import preprocess
    from planning.plan import describe_plan
    from planning.splits import FOLDS, few_folds

    say = common.teller(values)
    changed = imported is not None
    problems: list[str] = []
    done: dict[str, Any] = {"workspace": str(workspace.root)}
    dataset = before = load_dataset(workspace.dataset)
    if any(source.derived for source in dataset.sources.values()):
        # Brings torch with it, for the models that labels may be computed with.
        from cardiac_autoseg.annotation.derived import refresh

        dataset = refresh(workspace, before, say, problem=problems.append)
    changed |= dataset != before
    failed: dict[str, str] = {}
    if "fingerprint" in values.only:
        with _Progress("fingerprint") as progress:
            fingerprint, measured, failed = prepare.update_fingerprint(workspace, dataset, progress, values.workers, spread)
        measured = min(len(fingerprint.cases), measured + len(seen & {case.case_id for case in fingerprint.cases}))
        changed |= measured > 0
        done["fingerprint"] = {"measured": measured, "unchanged": len(fingerprint.cases) - measured}
        say(f"fingerprint: {measured} cases measured, {len(fingerprint.cases) - measured} unchanged")
    if "plan" in values.only:
        budget = prepare.Budget(values.target or _default_target(), values.memory_gb, values.gflops, values.devices)
        plans, written = prepare.update_plans(workspace, prepare.load_fingerprint(workspace), budget, ARCHITECTURES)
        splits, new_splits = prepare.update_splits(workspace, dataset)
        changed |= bool(written) or new_splits
        done["plans"] = {name: plan.to_json() for name, plan in plans.items()}
        done["plans_written"] = written
        for plan in plans.values():
            say(describe_plan(plan))
        say(f"plans: {', '.join(written) or 'none'} written; folds {'dealt' if new_splits else 'unchanged'}")
        if new_splits and splits.folds < FOLDS:
            say(few_folds(splits))
    if "preprocess" in values.only:
        grid = prepare.shared_grid(prepare.load_plans(workspace))
        with _Progress("preprocess") as progress:
            outcome = preprocess(workspace, dataset, grid, progress, values.workers, spread)
        changed |= outcome.made > 0
        failed |= outcome.failed
        done["preprocessed"] = {"made": outcome.made, "unchanged": outcome.kept}
        say(f"preprocessed: {outcome.made} arrays made, {outcome.kept} unchanged")
    for problem in (*problems, *(f"left out {case}: {reason}" for case, reason in failed.items())):
        print(problem, file=sys.stderr)
    seconds = time.perf_counter() - started
    if values.json:
        common.print_json({**done, "changed": changed, "left_out": failed, "problems": problems, "seconds": seconds})
    say(f"{workspace.root}: {'ready' if changed else 'nothing has changed, nothing done'} ({seconds:.1f} s)")
    return common.SOME_FAILED if failed or problems or imported else common.OK


def _workspace(
    values: argparse.Namespace, spread: Spread, say: Callable[[str], None]
) -> tuple[Workspace, int | None, set[str]]:
    """The workspace to prepare; if the data set was imported just now, how much was left out, and the cases measured."""
    import os

    from cardiac_autoseg.data.importers import import_and_check, recognise, shares_images
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.preprocessing import prepare
    from cardiac_autoseg.preprocessing.identity import FileHashes
    from cardiac_autoseg.workspace import Workspace, find_workspace

    if values.dataset is None:
        return find_workspace(values.workspace), None, set()
    if not values.dataset.is_dir():
        raise UserError(f"{values.dataset} is not a folder: give the folder of a data set, or a workspace")
    if _is_index(values.dataset / "dataset.json"):
        return Workspace(values.dataset.resolve()), None, set()
    root = Path(values.workspace or os.environ.get("CAS_WORKSPACE") or ".").expanduser().resolve()
    workspace = Workspace(root)
    if _is_index(workspace.dataset):
        if not shares_images(workspace, values.dataset, values.gt):
            raise UserError(f"{root} is the workspace of another data set than {values.dataset}: name another one with -w")
        say(f"{root} is a workspace already; its index is used (cas_import makes it anew)")
        return workspace, None, set()
    if workspace.dataset.exists():
        raise UserError(
            f"{workspace.dataset} is not an index of ours and is not overwritten: name another workspace with -w"
        )
    layout = recognise(values.dataset)
    say(f"{values.dataset} has the layout {layout!r}; importing it into {root}")
    # What was read for the check is measured as well, so that the fingerprint need not read it again.
    examiner = partial(prepare.examiner, workspace)
    checked = import_and_check(layout, values.dataset, workspace, values.gt, None, say, examiner=examiner, spread=spread)
    hashes = FileHashes(workspace.preprocessed / "files.json")
    for learned in checked.examined.values():
        hashes.learn(learned)
    hashes.save()
    return workspace, len(checked.left_out), set(checked.examined)


def _is_index(path: Path) -> bool:
    """Whether the file is our index; nnU-Net's data sets have a ``dataset.json`` too."""
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.files import read_json

    try:
        values = read_json(path)
    except UserError:
        return False
    return isinstance(values, dict) and "cases" in values and "format_version" in values


def _default_target() -> str:
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


class _Progress:
    """A progress bar as a context manager that gives ``progress(done, total)``."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> Callable[[int, int], None]:
        from tqdm import tqdm

        self.bar = tqdm(desc=self.title, unit="case", leave=False, mininterval=0.5, disable=None)

        def progress(done: int, total: int) -> None:
            self.bar.total = total
            self.bar.update(done - self.bar.n)

        return progress

    def __exit__(self, *_: object) -> None:
        self.bar.close()


if __name__ == "__main__":
    sys.exit(main())
