"""Several annotators at once: their habits are learned, and not taken for the truth."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor

from cardiac_autoseg.cli import ensemble, plan_and_preprocess, status
from cardiac_autoseg.cli import train as cli
from cardiac_autoseg.data.index import Dataset, LabelRef, Source, load_dataset, save_dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.networks import build_network
from cardiac_autoseg.report.collect import collect
from cardiac_autoseg.training import loop
from cardiac_autoseg.training.annotators import TRUTH, Annotators
from cardiac_autoseg.training.inputs import fold_cases, load_inputs
from cardiac_autoseg.training.losses import LOSSES, ce, deep_supervision
from cardiac_autoseg.training.runner import Interrupted, Options, train
from cardiac_autoseg.workspace import RunKey, Workspace

CLASSES = 4


def certain(labels: Tensor) -> Tensor:
    """Logits (B, C, H, W) of a network that is sure of ``labels`` (B, H, W)."""
    return 8.0 * torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).float()


def hearts(count: int, seed: int = 0) -> Tensor:
    """Labels (B, 40, 40): a disc of LV in a ring of MYO with RV beside it, of varying size and place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :40]
    labels = np.zeros((count, 40, 40), np.int64)
    for one in labels:
        (row, column), radius = rng.uniform(16, 24, 2), rng.uniform(4, 8)
        away = np.hypot(y - row, x - column)
        one[np.hypot(y - row, x - column + radius + 5) < radius] = 1
        one[away < radius + 4] = 2
        one[away < radius] = 3
    return torch.from_numpy(labels)


def fitted(layer: Annotators, truth: Tensor, drawn: Tensor, who: Tensor, steps: int = 150) -> Annotators:
    """The layer after training on certain logits of ``truth`` and the labels ``drawn``."""
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.03)
    logits = [certain(truth)]
    for _ in range(steps):
        outputs, _ = layer(logits, who)
        optimiser.zero_grad()
        ce(outputs[0], drawn).backward()
        optimiser.step()
    return layer


def test_at_first_every_annotator_nearly_sees_the_truth() -> None:
    layer = Annotators(2, CLASSES, 0.9)
    logits = [torch.randn(3, CLASSES, 12, 8), torch.randn(3, CLASSES, 6, 4)]
    outputs, diagonal = layer(logits, torch.tensor([0, 1, 1]))
    assert diagonal.item() == pytest.approx(0.9, abs=1e-6)
    for output, given in zip(outputs, logits, strict=True):
        p = given.softmax(1)
        # 0.9 of what is there, and the rest in equal parts.
        torch.testing.assert_close(output.exp(), 0.9 * p + (0.1 / 3) * (1 - p))


def test_labels_of_the_truth_are_compared_with_the_network_itself() -> None:
    layer = Annotators(1, CLASSES, 0.9)
    torch.nn.init.normal_(layer.weight)
    logits = [torch.randn(2, CLASSES, 12, 8), torch.randn(2, CLASSES, 6, 4)]
    outputs, _ = layer(logits, torch.tensor([TRUTH, 0]))
    for output, given in zip(outputs, logits, strict=True):
        torch.testing.assert_close(output[0], given.log_softmax(1)[0])
        assert not torch.allclose(output[1], given.log_softmax(1)[1])
        torch.testing.assert_close(output.exp().sum(1), torch.ones_like(output[:, 0]))
    alone, diagonal = layer(logits[:1], torch.tensor([TRUTH, TRUTH]))
    assert torch.equal(alone[0], logits[0].log_softmax(1))
    (alone[0].mean() + diagonal).backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


def test_samples_teach_only_their_own_annotator() -> None:
    layer = Annotators(3, CLASSES, 0.9)
    outputs, diagonal = layer([certain(hearts(2))], torch.tensor([1, TRUTH]))
    (ce(outputs[0], hearts(2, seed=1)) + diagonal).backward()
    assert layer.weight.grad is not None
    touched = layer.weight.grad.abs().sum(1)
    assert touched[1] > 0
    assert touched[0] == touched[2] == 0


@pytest.mark.parametrize("local", [True, False])
def test_a_habit_that_is_the_same_everywhere_is_learned(local: bool) -> None:
    """One annotator calls every fourth pixel of the LV MYO, the other never errs."""
    truth = hearts(8)
    slips = (torch.rand(truth.shape, generator=torch.Generator().manual_seed(0)) < 0.25) & (truth == 3)
    who = torch.arange(8) % 2
    drawn = torch.where(slips & (who == 0)[:, None, None], 2, truth)
    layer = fitted(Annotators(2, CLASSES, 0.95, local), truth, drawn, who)
    layer.joint.zero_()
    layer([certain(truth)], who)
    first, second = layer.confusions()
    share = float(slips[0::2].sum() / (truth[0::2] == 3).sum())
    assert first[3, 2].item() == pytest.approx(share, abs=0.03)
    assert first[3].sum().item() == pytest.approx(1)
    assert first.diagonal()[:3].min() > 0.97
    assert second.diagonal().min() > 0.97


def test_a_contour_drawn_too_wide_is_a_habit_too() -> None:
    """What one matrix for all pixels cannot express: the LV reaches 2 pixels into the muscle."""

    def widened(labels: Tensor) -> Tensor:
        disc = np.hypot(*np.mgrid[-2:3, -2:3]) < 2.3
        cavity = np.stack([ndimage.binary_dilation(one == 3, disc) for one in labels.numpy()])
        return torch.where(torch.from_numpy(cavity), 3, labels)

    truth, unseen = hearts(8), hearts(4, seed=5)
    layer = fitted(Annotators(1, CLASSES, 0.95), truth, widened(truth), torch.zeros(8, dtype=torch.int64))
    with torch.no_grad():
        seen = layer([certain(unseen)], torch.zeros(4, dtype=torch.int64))[0][0].argmax(1)
    wrong, before = ((labels != widened(unseen)).float().mean().item() for labels in (seen, unseen))
    assert wrong < 0.1 * before


def test_without_a_trusted_source_one_matrix_holds_for_all_pixels() -> None:
    layer = Annotators(2, CLASSES, 0.95, local=False)
    torch.nn.init.normal_(layer.bias)
    outputs, _ = layer([certain(hearts(2))], torch.tensor([0, 1]))
    for one, truth in zip(outputs[0].exp(), hearts(2), strict=True):
        for value in range(CLASSES):
            seen = one[:, truth == value]
            assert seen.std(1).max() < 1e-5
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_the_annotators_logits(name: str) -> None:
    layer = Annotators(2, CLASSES, 0.95)
    logits = [torch.randn(3, CLASSES, 24, 16, requires_grad=True), torch.randn(3, CLASSES, 12, 8, requires_grad=True)]
    outputs, diagonal = layer([logits[0].bfloat16(), logits[1].bfloat16()], torch.tensor([0, TRUTH, 1]))
    loss = deep_supervision(LOSSES[name], outputs, torch.randint(0, CLASSES, (3, 24, 16)), 0.5) + 0.01 * diagonal
    loss.backward()
    for tensor in (*logits, *layer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@pytest.fixture(scope="module")
def several(prepared_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom's workspace with a simulated annotator more, and with the expert's labels of three subjects as "few"."""
    root = Path(shutil.copytree(prepared_workspace, tmp_path_factory.mktemp("several") / "workspace"))
    workspace = Workspace(root)
    dataset = load_dataset(workspace.dataset)
    few = json.loads(workspace.splits.read_text())["folds"][0]["train"][:3]
    cases = []
    for case in dataset.cases:
        drawn = load_labels(workspace, dataset, case, "expert")
        path = workspace.annotations("novice") / f"{case.id}.nii.gz"
        write_labels(path, np.where(drawn.array == 3, 2, drawn.array), drawn.geometry)
        labels = {**case.labels, "novice": LabelRef(workspace.relative(path))}
        if case.subject in few:
            labels["few"] = labels["expert"]
        cases.append(dataclasses.replace(case, labels=labels))
    values = {value: name for name, value in dataset.labels.items()}
    sources = {
        **dataset.sources,
        "novice": Source(values, simulated=True, note="no LV"),
        "few": dataset.sources["expert"],
        "vote": Source({}, derived="majority:expert+novice", simulated=True),
    }
    save_dataset(workspace.dataset, dataclasses.replace(dataset, cases=tuple(cases), sources=sources))
    assert plan_and_preprocess.main(["-w", str(root), "--only", "preprocess"]) == 0
    return root


def options(**values: object) -> Options:
    return Options(device="cpu", quiet=True, **values)  # type: ignore[arg-type]


def sides(root: Path, gt: str, fold: str = "0", seed: int = 0) -> tuple[Dataset, set[str], int, tuple[str, ...]]:
    """Index, subjects trained on, their number as told, and validation cases of a run."""
    _, splits, dataset, store = load_inputs(Workspace(root), "enet")
    cases = fold_cases(dataset, store, splits, RunKey("enet", gt, "ce", fold, seed), lambda _: None)
    return dataset, {case.subject for case in dataset.cases if case.id in cases.trained}, cases.subjects, cases.validation


def test_sources_share_the_first_subjects(several: Path) -> None:
    dataset, two, count, validation = sides(several, "expert@2")
    assert (len(two), count) == (2, 2)
    assert two < sides(several, "expert@5")[1] < sides(several, "expert")[1]
    assert sides(several, "novice@2")[1] == sides(several, "all:expert+novice@2")[1] == two
    assert validation == sides(several, "expert")[3]
    assert len({frozenset(sides(several, "expert@2", seed=seed)[1]) for seed in range(8)}) > 1
    # A source that covers some takes the first of the same order that it has.
    order = [sides(several, f"expert@{number}")[1] for number in range(1, 9)]
    few = {case.subject for case in dataset.labelled("few")}
    for number in (1, 2, 3):
        chosen = sides(several, f"few@{number}")[1]
        assert chosen == next(first & few for first in order if len(first & few) == number)


@pytest.mark.parametrize(
    ("gt", "message"),
    [
        ("expert@9", "of the 8 training subjects of fold 0 8 have labels by this source, 9 are asked for"),
        ("few@4", "of the 8 training subjects of fold 0 3 have labels by this source, 4 are asked for"),
        ("all:expert+nobody", "no label source 'nobody'"),
        ("expert@x", "after @ comes a number"),
    ],
)
def test_sets_that_cannot_be_trained_on_are_answered_in_words(
    several: Path, capsys: pytest.CaptureFixture[str], gt: str, message: str
) -> None:
    assert cli.main(["enet", "0", "-w", str(several), "--quiet", "--gt", gt]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("architecture", ["enet", "unet"])
def test_interrupted_and_resumed_is_uninterrupted_and_only_the_network_is_kept(
    several: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    workspace, key = Workspace(several), RunKey(architecture, "all:few:novice+expert", "ce_dice", "0", 0)
    said: list[str] = []
    whole = train(workspace, key, options(steps=6, folder=tmp_path / "whole"), said.append)
    assert any("training on 16 cases, drawn by 3 annotators" in text for text in said)
    assert any("source 'few' covers 6 of the fold's 16 training cases" in text for text in said)

    def stop(_: Path, entry: dict[str, object]) -> None:
        if entry["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    folder = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 3)
        patch.setattr(loop, "append_log", stop)
        with pytest.raises(Interrupted):
            train(workspace, key, options(steps=6, folder=folder))
    state = load_file(folder / "state.safetensors")
    assert {"model/annotators.weight", "exp_avg_sq/annotators.weight", "model/annotators.joint"} <= state.keys()
    assert state["model/annotators.weight"].any()
    train(workspace, key, options(steps=6, folder=folder))
    kept = load_file(whole / "model.safetensors")
    for name, value in load_file(folder / "model.safetensors").items():
        assert torch.equal(value, kept[name]), name
    records = [json.loads((path / "run.json").read_text()) for path in (whole, folder)]
    assert records[0]["annotators"] == records[1]["annotators"]
    assert set(records[0]["annotators"]) == {"novice", "expert"}
    for matrix in records[0]["annotators"].values():
        np.testing.assert_allclose(np.sum(matrix, axis=1), 1, atol=1e-3)
    plan = load_inputs(workspace, architecture)[0]
    assert kept.keys() == build_network(plan).state_dict().keys()
    assert records[0]["subjects"] == 8


def test_the_new_run_folders_are_kept_apart_by_every_command(
    several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(several, tmp_path / "workspace"))
    workspace = Workspace(root)
    for gt in ("expert", "expert@2", "all:expert+novice", "vote"):
        folder = train(workspace, RunKey("enet", gt, "ce_dice", "0", 0), options(steps=1))
        assert folder == root / "runs" / "enet" / gt / "ce_dice" / "fold_0" / "seed_0"
        assert json.loads((folder / "run.json").read_text())["subjects"] == (2 if gt == "expert@2" else 8)
    assert status.main(["-w", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "expert@2" in shown
    assert "all:expert+novice" in shown
    for gt, is_simulated, subjects in (("expert@2", False, 2), ("all:expert+novice", True, None)):
        assert ensemble.main(["-w", str(root), "--gt", gt, "--name", "chosen"]) == 0
        shown = capsys.readouterr().out
        assert f"1 runs trained on {gt}, " in shown
        assert "was trained on other" not in shown
        data = json.loads((root / "models" / "chosen" / "bundle.json").read_text())["training_data"]
        assert (data["source"], data["simulated"], data.get("subjects_per_network")) == (gt, is_simulated, subjects)
    results, _ = collect(workspace, load_dataset(workspace.dataset), [])
    assert {result.gt: result.simulated for result in results if result.gt} == {
        "expert": False, "expert@2": False, "all:expert+novice": True, "vote": True
    }  # fmt: skip
