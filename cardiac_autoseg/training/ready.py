"""What a run is made from, read and checked before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac_autoseg.annotation.sources import scoring_source
from cardiac_autoseg.data.index import Dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.preprocessing.store import PreprocessedStore
from cardiac_autoseg.training.checks import learnable
from cardiac_autoseg.training.inputs import FoldCases, fold_cases, load_inputs, prepare_sources, require_unchanged
from cardiac_autoseg.training.losses import LOSSES
from cardiac_autoseg.training.recipe import Recipe, with_overrides
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan


@dataclass(frozen=True)
class Options:
    """What a user may choose about a run; ``steps`` and ``overrides`` change the recipe and are recorded."""

    device: str | None = None
    steps: int | None = None
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    reference: str | None = None
    """Source that the validation patients are scored against: by default "expert" where there is one, else the run's own."""
    checkpoint_minutes: float = 3.0
    restart: bool = False
    quiet: bool = False
    folder: Path | None = None
    """Run folder; by default the workspace's for the run's key."""
    threads: int | None = None
    """CPU threads of a new run, or of one begun on another machine; by default those that torch has."""


@dataclass(frozen=True)
class Ready:
    """All that a training starts from. ``identity`` makes a run another one, on ``judged`` its scores depend."""

    plan: Plan
    dataset: Dataset
    store: PreprocessedStore
    recipe: Recipe
    cases: FoldCases
    reference: str
    identity: dict[str, Any]
    judged: dict[str, str]
    notes: list[str]
    """What the training cases do not show, in sentences."""


def make_ready(workspace: Workspace, key: RunKey, options: Options, report: Callable[[str], None]) -> Ready:
    """Read and check what a run is made from; raises :class:`UserError` if something is missing or does not fit."""
    if key.loss not in LOSSES:
        raise UserError(f"there is no loss {key.loss!r}; there are: {', '.join(LOSSES)}")
    prepare_sources(workspace, key.gt, options.reference, report)
    plan, splits, dataset, store = load_inputs(workspace, key.architecture)
    recipe = with_overrides(Recipe(), options.overrides)
    cases = fold_cases(dataset, store, splits, key, report)
    reference = options.reference or ("expert" if "expert" in dataset.sources else scoring_source(key.gt, dataset))
    dataset.labelled(reference)
    require_unchanged(dataset, store, [*cases.trained, *cases.validation], (*cases.training, reference))
    judged = {"reference": reference, "validation_hash": store.data_hash(cases.validation, reference)}
    identity = {
        **dataclasses.asdict(key),
        "steps": options.steps or plan.steps,
        "overrides": options.overrides,
        "plan_hash": plan.hash(),
        "splits_hash": splits.hash(),
        "data_hash": cases.data_hash(store),
    }
    notes = learnable(store, plan.classes, cases)
    return Ready(plan, dataset, store, recipe, cases, reference, identity, judged, notes)
