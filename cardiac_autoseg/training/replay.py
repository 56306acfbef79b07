"""Proof that a run can be made again: trained anew from its record into another folder, and compared as it goes."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cardiac_autoseg.device import pick_device
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import read_json
from cardiac_autoseg.training.checkpoints import read_tensors
from cardiac_autoseg.training.environment import differences, environment
from cardiac_autoseg.training.loop import Interrupted
from cardiac_autoseg.training.parts import Part, parts_of
from cardiac_autoseg.training.ready import Options, Ready, make_ready
from cardiac_autoseg.training.record import Record, read_log
from cardiac_autoseg.training.runner import interruptible, make_run, validated
from cardiac_autoseg.training.setbacks import Setback
from cardiac_autoseg.versions import require_run_version
from cardiac_autoseg.workspace import RunKey, Workspace

COMPARED = ("loss", "lr", "dice", "weights")
"""What is compared of a line of the log: all that is in it but the speed."""


class Different(Exception):  # noqa: N818
    """What is not equal, in words."""


@dataclass(frozen=True)
class Recorded:
    """A run as its folder tells of it; ``log`` by step, ``whole``: whether it is finished."""

    folder: Path
    values: dict[str, Any]
    key: RunKey
    log: dict[int, dict[str, Any]]
    whole: bool


def read_recorded(folder: Path) -> Recorded:
    """The run in ``folder``; raises :class:`UserError` where it does not tell enough to be made again."""
    path = folder / "run.json"
    values = read_json(path)
    require_run_version(values, path)
    try:
        key = RunKey(**{name: values[name] for name in ("architecture", "gt", "loss", "fold", "seed")})
        log = {int(line["step"]): line for line in read_log(folder)}
        if int(values["steps"]) < 1 or not isinstance(values["overrides"], dict) or not isinstance(values["recipe"], dict):
            raise ValueError("steps, overrides or recipe")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not say what the run was made from ({error}): it cannot be replayed") from error
    if not log:
        raise UserError(f"{folder} has no log yet (log.jsonl): there is nothing to compare a replay with")
    return Recorded(folder, values, key, log, values.get("status") == "done")


def replay(workspace: Workspace, run: Recorded, scratch: Path, choice: Options, report: Callable[[str], None]) -> str | None:
    """Make ``run`` again in the empty folder ``scratch``; None if all is equal to the bit, else what is not.

    Of ``choice`` count device, threads, ``quiet``, and ``steps``: then only the log is compared, to its first line at
    or after that many. ``report`` is told what is compared. Raises :class:`UserError` if the data, the plan, the folds or
    the recipe are not those of the run, :class:`Interrupted` after SIGTERM or SIGINT.
    """
    device = pick_device(choice.device or (run.values.get("hardware") or {}).get("device"))
    options = Options(steps=run.values["steps"], overrides=run.values["overrides"], reference=run.values.get("reference"))
    if (processes := run.values.get("devices", 1)) != 1:
        raise UserError(f"{run.folder} was trained by {processes} processes together: such runs cannot be replayed")
    ready = make_ready(workspace, run.key, options, report)
    _require_same(run, ready)
    parts = _parts(run, ready.plan.batch, choice.threads)
    until = _until(run, choice.steps, report)
    _tell_environment(parts, device, choice.threads, report)
    record = Record(scratch, {**ready.identity, "status": "replay", "step": 0})
    with interruptible() as stop:
        # Nothing of it is gone on with, so nothing is saved on the way.
        unsaved = dataclasses.replace(choice, checkpoint_minutes=math.inf)
        loop = make_run(scratch, run.key, ready, device, record, parts, unsaved, report)
        compared: list[int] = []

        def watch(line: dict[str, Any]) -> None:
            _compare_line(run.log.get(line["step"]), line)
            compared.append(line["step"])
            report(f"step {line['step']}: loss {line['loss']:.5f}, weights {line['weights']}: equal")

        loop = dataclasses.replace(loop, watch=watch, until=until, gives_in=False)
        try:
            loop.loop(stop)
            if left := [step for step in run.log if step <= until and step not in compared]:
                raise Different(f"the run's log has a line for step {left[0]}, which the replay has not")
            known = (
                "" if "weights" in run.log[compared[-1]] else " (without the weights, of which its release kept no checksum)"
            )
            report(f"compared: {len(compared)} lines of the log, to step {until}{known}: equal")
            if run.whole and choice.steps is None:
                torch.set_num_threads(parts[-1].threads or torch.get_num_threads())
                dice = validated(workspace, scratch, ready, device, stop, report)
                if stop.is_set():
                    raise Interrupted
                _compare_results(run, scratch, dice, report)
        except Setback as setback:
            return f"{setback.why}, which did not happen to the run"
        except Different as different:
            return str(different)
    return None


def _require_same(run: Recorded, ready: Ready) -> None:
    """Raise :class:`UserError` unless the run is made from what the workspace holds now, by the recipe of this release."""
    wanted = ready.identity | (ready.judged if run.whole else {})
    changed = [f"{name}: {run.values[name]} then, {value} now" for name, value in wanted.items() if _other(run, name, value)]
    if changed:
        raise UserError(
            f"{run.folder} cannot be replayed: it was made from something else than the workspace holds now"
            f" ({'; '.join(changed)}). Restore the data, plans and splits.json that it was made from"
        )
    recipe = json.loads(json.dumps(dataclasses.asdict(ready.recipe)))
    if recipe != run.values["recipe"]:
        names = sorted(
            name for name in {*recipe, *run.values["recipe"]} if recipe.get(name) != run.values["recipe"].get(name)
        )
        raise UserError(
            f"{run.folder} cannot be replayed: this release has another recipe ({', '.join(names)}): install cardiac_autoseg"
            f" {run.values.get('version')}"
        )
    if run.whole and not (run.folder / "model.safetensors").is_file():
        raise UserError(
            f"{run.folder} has no weights any more (model.safetensors): there is nothing to compare a replay with"
        )


def _other(run: Recorded, name: str, value: Any) -> bool:
    return bool(run.values.get(name, value) != value)


def _parts(run: Recorded, batch: int, threads: int | None) -> list[Part]:
    """How the run was made; with the given number of threads, where there is one."""
    try:
        parts = parts_of(run.values, batch)
    except ValueError as error:
        raise UserError(f"{run.folder / 'run.json'} is damaged ({error}): it cannot be replayed") from error
    if threads is None:
        return parts
    return [dataclasses.replace(part, environment={**part.environment, "threads": threads}) for part in parts]


def _until(run: Recorded, steps: int | None, report: Callable[[str], None]) -> int:
    """The step to replay to: the last, or the first line of the log at or after ``steps``."""
    last = max(run.log)
    if not run.whole:
        report(f"the run is not finished: its log is compared as far as it goes, to step {last}")
    return last if steps is None else min((step for step in run.log if step >= steps), default=last)


def _tell_environment(
    parts: Sequence[Part], device: torch.device, threads: int | None, report: Callable[[str], None]
) -> None:
    """Say first in what the replay differs from the run, as far as it is known beforehand."""
    now = environment(device)
    then = {name: value for part in parts for name, value in part.environment.items() if name != "threads"}
    found = differences(then, now)
    if threads is not None:
        found.append(f"threads: {threads} are given")
    for problem in found:
        report(f"the environment differs: {problem}")
    if found:
        report("the results may therefore differ in the last digits, and from there on")
    else:
        report("the environment is that of the record")
    if device.type != "cpu":
        report("on a GPU results need not be equal to the bit (docs/reliability.md)")
    if len(parts) > 1:
        report(
            f"the run was made in {len(parts)} parts, from step {', '.join(str(part.step) for part in parts)}; so is this"
        )


def _compare_line(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raise :class:`Different` where a line of the log is not what it was."""
    if then is None:
        raise Different(f"step {now['step']}: the run's log has no line for it")
    for name in COMPARED:
        if name in then and then[name] != now[name]:
            raise Different(f"step {now['step']}: {name} was {then[name]} in the run, and is {now[name]} in the replay")


def _compare_results(run: Recorded, scratch: Path, dice: float | None, report: Callable[[str], None]) -> None:
    """Raise :class:`Different` where final weights, validation predictions or their Dice are not equal to the bit."""
    then, now = (read_tensors(folder / "model.safetensors")[0] for folder in (run.folder, scratch))
    for name in sorted(then.keys() | now.keys()):
        if name not in then or name not in now or not _same_bits(then[name], now[name]):
            raise Different(f"the final weights differ in {name}")
    report(f"compared: {len(then)} tensors of the final weights: equal")
    for pattern, what in (("*.nii.gz", "label files"), ("probabilities/*.npy", "files of probabilities")):
        made = sorted((scratch / "validation").glob(pattern))
        kept = [(path, other) for path in made if (other := run.folder / path.relative_to(scratch)).is_file()]
        for path, other in kept:
            if path.read_bytes() != other.read_bytes():
                raise Different(f"the validation prediction {other} differs")
        gone = f", {len(made) - len(kept)} are not kept" if len(kept) < len(made) else ""
        report(f"compared: {len(kept)} {what} of the validation patients{gone}: equal")
    if dice != run.values.get("val_dice"):
        raise Different(f"the mean validation Dice was {run.values.get('val_dice')}, and is {dice} in the replay")


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
