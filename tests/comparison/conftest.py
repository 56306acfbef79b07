"""A workspace of made-up evaluations with planted effects: no image, no network, but the real tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source, save_dataset
from cardiac_autoseg.evaluation.levels import LevelScore
from cardiac_autoseg.evaluation.results import CaseMeta, CaseResult, StructureScore, write_evaluation
from cardiac_autoseg.evaluation.summary import summarise
from cardiac_autoseg.files import write_json
from cardiac_autoseg.workspace import RunKey, Workspace

GROUPS = ("DCM", "HCM", "NOR")
MEAN_ML = {"ED": {"LV": 150.0, "MYO": 120.0, "RV": 160.0}, "ES": {"LV": 60.0, "MYO": 125.0, "RV": 70.0}}
RECORD = {"steps": 100, "plan_hash": "p", "splits_hash": "s", "validation_hash": "v"}
MEAN_DICE = {"LV": 0.94, "MYO": 0.88, "RV": 0.90}


@dataclass(frozen=True)
class Made:
    """The workspace, and what writes runs into it."""

    workspace: Workspace
    patients: int
    effects: Mapping[str, Mapping[str, float]]
    records: dict[str, Any] = field(default_factory=lambda: dict(RECORD))

    def subject(self, number: int) -> str:
        return f"patient{number:03d}"

    def run(
        self,
        architecture: str,
        gt: str,
        fold: int,
        subjects: Sequence[int],
        loss: str = "ce_dice",
        seed: int = 0,
        **record: Any,
    ) -> Path:
        """Write a finished run; ``effects`` of "gt" or "gt loss" shift its scores: "RV" Dice, "mass" g, "LV_EDV" mL …"""
        key = RunKey(architecture, gt, loss, str(fold), seed)
        folder = self.workspace.run(key)
        effects = {**self.effects.get(gt, {}), **self.effects.get(f"{gt} {loss}", {})}
        noise = np.random.default_rng([ord(letter) for letter in f"{architecture}{gt}{loss}{fold}{seed}"])
        results = [self._case(number, phase, effects, noise) for number in subjects for phase in ("ED", "ES")]
        write_evaluation(folder / "validation", summarise(results, reference="expert"))
        values = {"updated": "2020-01-02T00:00:00+00:00", "status": "done", **self.records, **record}
        write_json(folder / "run.json", {**dataclasses.asdict(key), **values})
        return folder

    def _case(self, number: int, phase: str, effects: Mapping[str, float], noise: np.random.Generator) -> CaseResult:
        own = np.random.default_rng([number, phase == "ES"])
        structures, levels = [], []
        for name, mean in MEAN_ML[phase].items():
            reference = mean * own.uniform(0.85, 1.15)
            predicted = reference + own.normal(0, 4) + noise.normal(0, 1) + effects.get(f"{name}_{phase}V", 0.0)
            predicted += effects.get("mass", 0.0) / 1.05 if (name, phase) == ("MYO", "ED") else 0.0
            dice = MEAN_DICE[name] + own.normal(0, 0.015) + noise.normal(0, 0.004) + effects.get(name, 0.0)
            structures.append(StructureScore(name, min(dice, 1.0), 5.0, 2.0, 1.0, False, predicted, reference))
            for level in ("base", "mid", "apex"):
                there = dice + (effects.get("apex", 0.0) if level == "apex" else 0.0)
                levels.append(LevelScore(level, name, there, 3, predicted / 3, reference / 3, 0.0))
        meta = CaseMeta(f"{self.subject(number)}_{phase}", self.subject(number), phase, GROUPS[number % 3])
        return CaseResult(meta, tuple(structures), tuple(levels))


@pytest.fixture
def make_runs(tmp_path: Path) -> Callable[..., Made]:
    """Makes a workspace: sources expert, novice and trained (both simulated), and by default no run yet."""

    def make(
        patients: int = 30,
        effects: Mapping[str, Mapping[str, float]] | None = None,
        architectures: Sequence[str] = (),
        sources: Sequence[str] = (),
        folds: int = 3,
        twins: Mapping[int, int] | None = None,
    ) -> Made:
        workspace = Workspace(tmp_path / "workspace")
        made = Made(workspace, patients, effects or {})
        names = ("expert", "novice", "trained")
        cases = [
            Case(
                id=f"{made.subject(number)}_{phase}",
                subject=made.subject(number),
                image=f"images/{number}.nii.gz",
                phase=phase,
                group=GROUPS[number % 3],
                labels={name: LabelRef(f"{name}/{number}.nii.gz") for name in names},
                twin_of=made.subject(twins[number]) if twins and number in twins else None,
            )
            for number in range(patients)
            for phase in ("ED", "ES")
        ]
        values = {value: label for label, value in LABELS.items()}
        listed = {name: Source(values, simulated=name != "expert") for name in names}
        save_dataset(workspace.dataset, Dataset("made up", tuple(cases), listed))
        for architecture in architectures:
            for source in sources:
                for fold in range(folds):
                    made.run(architecture, source, fold, range(patients)[fold::folds])
        return made

    return make
