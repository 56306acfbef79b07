"""The end of a run: its validation patients, predicted and scored in their original geometry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from cardiac_autoseg.data.header import is_whole
from cardiac_autoseg.data.index import Dataset
from cardiac_autoseg.data.load import load_image
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.evaluation.evaluate import evaluate_files, write_evaluation
from cardiac_autoseg.evaluation.results import is_whole_evaluation
from cardiac_autoseg.inference.predictor import predict_probabilities, probabilities_to_labels
from cardiac_autoseg.preprocessing.store import PreprocessedStore, is_whole_array, save_array
from cardiac_autoseg.workspace import Workspace
from planning.plan import Plan


def is_whole_validation(folder: Path, cases: Iterable[str], scored: bool) -> bool:
    """Whether all that :func:`validate` wrote for ``cases`` is there, and no file was cut short since, as by a full disk."""
    target = folder / "validation"
    return (not scored or is_whole_evaluation(target)) and all(
        is_whole(target / f"{case}.nii.gz") and is_whole_array(target / "probabilities" / f"{case}.npy") for case in cases
    )


def validate(
    workspace: Workspace,
    dataset: Dataset,
    store: PreprocessedStore,
    network: nn.Module,
    plan: Plan,
    cases: list[str],
    reference: str,
    flips: tuple[int, ...],
    folder: Path,
    device: torch.device,
    stop: threading.Event,
    report: Callable[[str], None],
) -> float | None:
    """Write labels, probabilities and evaluation below ``folder / "validation"``; returns the mean Dice.

    None without validation patients, or when ``stop`` was set on the way.
    """
    wanted = set(cases)
    chosen = [case for case in dataset.cases if case.id in wanted]
    target = folder / "validation"
    predictions: dict[str, Path] = {}
    for number, case in enumerate(chosen, start=1):
        if stop.is_set():
            return None
        image = torch.from_numpy(store.image(case.id)).float()
        probabilities = predict_probabilities([network], image, plan.divisor, flips, device)
        original = load_image(workspace, case)
        _, y, x = original.array.shape
        labels = probabilities_to_labels(probabilities, (y, x))
        predictions[case.id] = target / f"{case.id}.nii.gz"
        write_labels(predictions[case.id], labels.cpu().numpy(), original.geometry)
        save_array(target / "probabilities" / f"{case.id}.npy", probabilities.half().cpu().numpy())
        if number % 20 == 0 or number == len(chosen):
            report(f"validation: {number} of {len(chosen)} cases predicted")
    scored = {case.id: predictions[case.id] for case in chosen if reference in case.labels}
    if not scored:
        if chosen:
            report(f"no validation case has labels of source {reference!r}: predicted, but not scored")
        return None
    evaluation = evaluate_files(workspace, dataset, reference, scored, report)
    write_evaluation(target, evaluation)
    return round(evaluation.mean_dice, 4)
