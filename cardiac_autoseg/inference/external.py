"""A finished run on an external test set: data that no plan, fold or training ever saw, e.g. of other scanners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cardiac_autoseg.data.header import is_whole
from cardiac_autoseg.data.importers import IMPORTERS
from cardiac_autoseg.data.index import Case, Dataset, load_dataset
from cardiac_autoseg.data.load import load_image
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.device import pick_device
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.evaluation.evaluate import evaluate_files, write_evaluation
from cardiac_autoseg.evaluation.results import is_whole_evaluation
from cardiac_autoseg.files import hash_file, hash_json, read_json, write_json
from cardiac_autoseg.inference.predictor import Group, predict
from cardiac_autoseg.locks import waiting
from cardiac_autoseg.preprocessing.identity import FileHashes
from cardiac_autoseg.training.weights import load_average
from cardiac_autoseg.versions import has_version
from cardiac_autoseg.workspace import Workspace
from planning.plan import Plan

FORMAT_VERSION = 1
"""Of ``about.json``."""


def known_content(workspace: Workspace, source: Path, layout: str, gt: str) -> list[str]:
    """The cases of ``source`` whose image file has the content of one in the workspace's index, wherever it lies."""
    found = IMPORTERS[layout](source, workspace, gt, skip=lambda _: None)
    hashes = FileHashes(workspace.preprocessed / "files.json")
    known = {_content(hashes, workspace, case) for case in load_dataset(workspace.dataset).cases} - {None}
    same = [case.id for case in found.cases if _content(hashes, workspace, case) in known]
    hashes.save()
    return same


def _content(hashes: FileHashes, workspace: Workspace, case: Case) -> str | None:
    try:
        return hashes(workspace.resolve(case.image))
    except UserError:
        return None


def external_folder(run: Path, name: str) -> Path:
    """Where a run's predictions and evaluation on the test set ``name`` lie."""
    return run / f"test_{name}"


def reference_of(dataset: Dataset) -> str:
    """The source of a test set that predictions are scored against: "expert", or its only one.

    Raises :class:`UserError` if it has several sources and none is called expert.
    """
    if "expert" in dataset.sources or len(dataset.sources) != 1:
        dataset.labelled("expert")
        return "expert"
    return next(iter(dataset.sources))


def is_scored(workspace: Workspace, run: Path, name: str) -> bool:
    """Whether a run has been scored on a test set as its index, its weights and the labels are now."""
    try:
        about = read_json(external_folder(run, name) / "about.json")
        return (
            has_version(about, FORMAT_VERSION, absent=1)
            and bool(about["done"])
            and about["identity"] == _identity(workspace.test(name), run)
            and is_whole_evaluation(external_folder(run, name))
            and all(is_whole(path) for path in external_folder(run, name).glob("*.nii.gz"))
        )
    except (UserError, KeyError, TypeError, OSError):
        return False


def evaluate_run(
    workspace: Workspace, run: Path, name: str, device: str | None = None, report: Callable[[str], None] = lambda _: None
) -> float:
    """Predict every labelled case of the test set ``name`` with a finished run's network, and score it.

    Writes ``test_<name>/`` in the run's folder, in the form of its ``validation/``; predictions that a killed process left
    are kept. Cases that fail are told to ``report`` and left out. Returns the mean Dice; raises :class:`UserError` if the
    run is not finished, the test set is not there, or no case can be scored. Waits for another process that does the same.
    """
    with waiting(run / f".test-{name}-lock", report):
        return _evaluate(workspace, run, name, device, report)


def _evaluate(workspace: Workspace, run: Path, name: str, device: str | None, report: Callable[[str], None]) -> float:
    test = workspace.test(name)
    dataset = load_dataset(test.dataset)
    reference = reference_of(dataset)
    target, identity = external_folder(run, name), _identity(test, run)
    if is_scored(workspace, run, name):
        return float(read_json(target / "evaluation.json")["mean_dice"])
    _begin(target, identity)
    plan = Plan.from_json(read_json(run / "plan.json"))
    mirrored = read_json(run / "run.json")["recipe"]["policy"]["mirror_probability"]
    flips = tuple(axis for axis, probability in enumerate(mirrored) if probability > 0)
    chosen = pick_device(device)
    group = Group(plan, (load_average(run, plan, chosen),))
    predictions: dict[str, Path] = {}
    for case in dataset.labelled(reference):
        path = target / f"{case.id}.nii.gz"
        try:
            if not is_whole(path):
                _predict_case(test, case, group, flips, chosen, path)
            predictions[case.id] = path
        except UserError as error:
            report(f"test set {name}, {case.id} left out: {error}")
    evaluation = evaluate_files(test, dataset, reference, predictions, report)
    write_evaluation(target, evaluation)
    write_json(target / "about.json", {"format_version": FORMAT_VERSION, "identity": identity, "done": True})
    report(f"test set {name}: mean Dice {evaluation.mean_dice:.4f} on {len(predictions)} cases")
    return evaluation.mean_dice


def _predict_case(
    test: Workspace, case: Case, group: Group, flips: tuple[int, ...], device: torch.device, path: Path
) -> None:
    image = load_image(test, case)
    prediction = predict([group], image.array, image.geometry.spacing_zyx, flips=flips, device=device)
    write_labels(path, prediction.labels, image.geometry)


def _identity(test: Workspace, run: Path) -> str:
    """What an evaluation depends on: the network, and every image and label file of the test set."""
    dataset = load_dataset(test.dataset)
    hashes = FileHashes(test.preprocessed / "files.json")
    files = []
    for case in dataset.cases:
        paths = [case.image, *(ref.path for _, ref in sorted(case.labels.items()))]
        try:
            files.append([case.id, *(hashes(test.resolve(path)) for path in paths)])
        except UserError:
            files.append([case.id])  # unreadable: left out below, and again until it is mended
    hashes.save()
    return hash_json([hash_file(run / "model.safetensors"), files])


def _begin(target: Path, identity: str) -> None:
    """Keep the predictions of an earlier attempt only if they are of the same network and data."""
    try:
        about = read_json(target / "about.json")
        same = has_version(about, FORMAT_VERSION, absent=1) and about["identity"] == identity
    except (UserError, KeyError, TypeError):
        same = False
    if not same:
        for path in target.glob("*"):
            path.unlink()
        write_json(target / "about.json", {"format_version": FORMAT_VERSION, "identity": identity, "done": False})
