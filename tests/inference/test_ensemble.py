from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from cardiac_autoseg.bundle import load_bundle, read_bundle
from cardiac_autoseg.bundle_transfer import verify_bundle
from cardiac_autoseg.cli import ensemble as command
from cardiac_autoseg.data.index import LABELS, Case, Dataset, LabelRef, Source, save_dataset
from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.evaluation.results import read_evaluation
from cardiac_autoseg.files import write_json
from cardiac_autoseg.inference.crossvalidation import collect, score_combinations, summed_probabilities
from cardiac_autoseg.inference.orientation import DISPLAY
from cardiac_autoseg.inference.views import VIEWS
from cardiac_autoseg.preprocessing.store import Grid, PreprocessedStore, preprocess
from cardiac_autoseg.trust.trust import load_trust
from cardiac_autoseg.workspace import RunKey, Workspace
from planning.plan import Plan
from planning.splits import Splits

SUBJECTS = ("s1", "s2", "s3", "s4", "s5", "s6")
SPLITS = Splits((("s1", "s2"), ("s3", "s4"), ("s5", "s6")), 0)


def truth(subject: str) -> np.ndarray:
    labels = np.zeros((2, 24, 26), np.uint8)
    shift = SUBJECTS.index(subject)
    labels[:, 4:9, 3 + shift : 9 + shift] = 1
    labels[:, 10:20, 8:20] = 2
    labels[:, 12:18, 10:18] = 3
    return labels


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Six subjects, one case each, with labels of two sources; no runs yet."""
    space = Workspace(tmp_path / "workspace")
    cases = []
    for subject in SUBJECTS:
        geometry = Geometry((26, 24, 2), (1.5, 1.5, 8.0) if subject != "s2" else (1.2, 1.3, 8.0))
        labels = truth(subject)
        write_volume(space.root / f"{subject}.nii.gz", (100 * labels).astype(np.float32), geometry)
        write_labels(space.root / f"{subject}_gt.nii.gz", labels, geometry)
        reference = LabelRef(f"{subject}_gt.nii.gz")
        cases.append(
            Case(subject, subject, f"{subject}.nii.gz", phase="ED", labels={"expert": reference, "other": reference})
        )
    values = {1: "RV", 2: "MYO", 3: "LV"}
    dataset = Dataset("test", tuple(cases), {"expert": Source(values), "other": Source(values, simulated=True)})
    save_dataset(space.dataset, dataset)
    write_json(space.splits, SPLITS.to_json())
    preprocess(space, dataset, Grid((1.5, 1.5), (0.5, 99.5)), workers=1)
    return space


@pytest.fixture
def add_run(
    workspace: Workspace, make_plan: Callable[..., Plan], make_network: Callable[[Plan, int], nn.Module]
) -> Callable:
    def add(loss: str, fold: str, wrong: int | None, gt: str = "expert", status: str = "done", seed: int = 0) -> Path:
        """A run that takes class ``wrong`` for background, but only just; None: it makes no mistake."""
        folder = workspace.run(RunKey("unet", gt, loss, fold, seed))
        plan = make_plan()
        write_json(folder / "plan.json", plan.to_json())
        recipe = {"policy": {"mirror_probability": [0.0, 0.5]}}
        write_json(folder / "run.json", {"status": status, "splits_hash": SPLITS.hash(), "recipe": recipe})
        number = 9 if fold == "all" else int(fold)
        safetensors.torch.save_file(make_network(plan, number + 10 * seed).state_dict(), folder / "model.safetensors")
        if fold == "all":
            return folder
        store = PreprocessedStore(workspace)
        target = folder / "validation" / "probabilities"
        target.mkdir(parents=True)
        for subject in SPLITS.val(fold):
            labels = torch.from_numpy(store.labels(subject, "expert")).long()
            values = 0.1 + 0.6 * nn.functional.one_hot(labels, 4).movedim(-1, 0).float()
            if wrong is not None:
                mask = labels == wrong
                values[0][mask], values[wrong][mask] = 0.45, 0.35
            np.save(target / f"{subject}.npy", values.half().numpy())
        return folder

    return add


def test_combination_wins_and_becomes_the_bundle(
    workspace: Workspace, add_run: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in "012":
        add_run("dice", fold, wrong=1)
        add_run("ce", fold, wrong=3)
        add_run("focal", fold, wrong=2, gt="other")
    add_run("topk", "0", wrong=None)
    add_run("tversky", "1", wrong=None, status="running")
    arguments = ["-w", str(workspace.root), "--licence", "CC BY 4.0", "--name", "mine", "--zip"]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "unet topk lacks fold 1, 2" in printed
    assert "left out" in printed
    folder = workspace.model("mine")
    bundle, networks = load_bundle(folder)
    assert len(networks) == 6
    assert {member.loss for member in bundle.members} == {"dice", "ce"}
    assert bundle.flips == (1,)
    assert bundle.licence == "CC BY 4.0"
    assert bundle.labels == LABELS
    assert bundle.training_data["subjects"] == 6
    assert bundle.training_data["spacing_mm"]["x"] == pytest.approx([1.2, 1.5])
    assert bundle.scores["missing_folds"] == []
    # One of two networks is right with a margin of 0.6, the other wrong with one of 0.1.
    assert bundle.scores["mean_dice"] > 0.98
    singles = {item["name"]: item["mean_dice"] for item in bundle.scores["combinations"]}
    assert singles["unet ce"] < 0.7
    evaluation = read_evaluation(folder)
    assert evaluation.mean_dice == pytest.approx(bundle.scores["mean_dice"])
    assert len({row["case_id"] for row in evaluation.cases}) == 6
    assert read_bundle(folder.with_name("mine.zip")) == read_bundle(folder)


def test_json_stands_alone(workspace: Workspace, add_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    for fold in "012":
        add_run("dice", fold, wrong=1)
    assert command.main(["-w", str(workspace.root), "--json"]) == 0
    said = capsys.readouterr()
    values, bundle = json.loads(said.out), read_bundle(workspace.model("best"))
    assert (values["runs"], values["chosen"], values["chosen_postprocessing"]) == (3, "unet dice", bundle.postprocessing)
    assert values["combinations"] == bundle.scores["combinations"]
    mean = read_evaluation(workspace.model("best")).mean_dice
    assert values["held_out"] == {"reference": "expert", "mean_dice": pytest.approx(mean)}
    assert "Cross-validated Dice" in said.err


def test_missing_folds_are_named_and_the_others_scored(
    workspace: Workspace, add_run: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run("dice", "0", wrong=None)
    add_run("dice", "2", wrong=None)
    assert command.main(["-w", str(workspace.root)]) == 0
    assert "fold 1 missing" in capsys.readouterr().out
    bundle = read_bundle(workspace.model("best"))
    assert bundle.scores["folds"] == ["0", "2"]
    assert bundle.scores["missing_folds"] == ["1"]
    assert bundle.scores["cases"] == 4


def test_scores_are_exact_without_resampling(workspace: Workspace, add_run: Callable) -> None:
    add_run("dice", "1", wrong=3)
    pool = collect(workspace, "expert", print)
    (score,) = score_combinations(pool, [(("unet", "dice"),)], print)
    assert score.by_class == {"RV": 1.0, "MYO": 1.0, "LV": 0.0}
    assert score.mean == pytest.approx(2 / 3)


def test_every_network_counts_the_same(workspace: Workspace, add_run: Callable) -> None:
    add_run("dice", "1", wrong=3)
    add_run("dice", "1", wrong=None, seed=1)
    pool = collect(workspace, "expert", print)
    case = next(case for case in pool.dataset.cases if case.subject == "s3")
    total = summed_probabilities(pool.runs, case, (24, 26))
    mask = torch.from_numpy(truth("s3")) == 3
    torch.testing.assert_close(total[3][mask], torch.full((int(mask.sum()),), 0.35 + 0.7), atol=1e-3, rtol=0)
    assert len(collect(workspace, "expert", print, seeds=[1]).runs) == 1


def test_a_broken_case_is_left_out_and_named(
    workspace: Workspace, add_run: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = add_run("dice", "0", wrong=None)
    (folder / "validation" / "probabilities" / "s1.npy").write_bytes(b"broken")
    assert command.main(["-w", str(workspace.root)]) == 0
    assert "case s1 left out" in capsys.readouterr().out
    assert read_bundle(workspace.model("best")).scores["cases"] == 1


def test_nothing_to_choose_from_is_said(workspace: Workspace, add_run: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["-w", str(workspace.root)]) == 2
    assert "no finished run" in capsys.readouterr().err
    add_run("dice", "0", wrong=None)
    assert command.main(["-w", str(workspace.root), "--gt", "nobody"]) == 2
    assert "no label source 'nobody'" in capsys.readouterr().err
    assert command.main(["-w", str(workspace.root), "--loss", "ce"]) == 2
    assert command.main(["-w", str(workspace.root), "--name", "../x"]) == 2
    assert command.main(["-w", str(workspace.root), "--name", "x.zip"]) == 2


def test_runs_of_other_folds_are_left_out(
    workspace: Workspace, add_run: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = add_run("dice", "0", wrong=None)
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", record | {"splits_hash": "other"})
    assert command.main(["-w", str(workspace.root)]) == 2
    assert "trained with other folds" in capsys.readouterr().out


def test_runs_trained_on_other_data_are_named(
    workspace: Workspace, add_run: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    store = PreprocessedStore(workspace)
    for fold, changed in (("0", False), ("1", True)):
        folder = add_run("dice", fold, wrong=None)
        used = store.data_hash(SPLITS.train(fold), "expert")
        record = json.loads((folder / "run.json").read_text())
        write_json(folder / "run.json", record | {"data_hash": "other" if changed else used})
    assert command.main(["-w", str(workspace.root)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "other images, labels or pixel sizes" in line]
    assert len(notes) == 1
    assert "fold_1" in notes[0]


def test_bundle_of_all_patients_has_the_scores_of_the_folds(
    workspace: Workspace, add_run: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    """Chosen, scored and fitted on the folds' networks; delivered with the network that saw every patient."""
    for fold in ("0", "1", "all"):
        add_run("dice", fold, wrong=3)
    add_run("ce", "0", wrong=None)
    add_run("dice", "2", wrong=None, seed=1)
    arguments = ["-w", str(workspace.root), "--fold-all", "--half", "--display", "--licence", "CC0", "--zip"]
    assert command.main(arguments) == 0
    assert "fold 2 missing" in capsys.readouterr().out
    folder = workspace.model("best")
    bundle = read_bundle(folder)
    assert [(member.fold, member.loss) for member in bundle.members] == [("all", "dice")]
    assert bundle.views == VIEWS
    assert bundle.orientation == DISPLAY
    assert bundle.postprocessing != "none", "of equals the one that cleans most"
    scores = bundle.card["scores"]
    assert scores["patients"] == 4
    assert "fold 0, 1" in scores["note"]
    assert read_evaluation(folder).mean_dice == pytest.approx(scores["mean_dice"], abs=1e-6)
    trust = load_trust(folder)
    assert trust is not None
    assert trust.temperature > 0
    assert verify_bundle(folder.with_suffix(".zip")) == []
    assert command.main([*arguments, "--no-quality"]) == 0
    assert load_trust(folder) is None
    assert command.main([*arguments, "--postprocessing", "wash"]) == 2


def test_chosen_bundle_can_be_judged(workspace: Workspace, add_run: Callable) -> None:
    for fold in "012":
        add_run("dice", fold, wrong=1)
    assert command.main(["-w", str(workspace.root)]) == 0
    folder = workspace.model("best")
    assert load_trust(folder) is not None
    assert read_bundle(folder).card["scores"]["patients"] == 6
    assert "## Quality score" in (folder / "MODEL_CARD.md").read_text()
