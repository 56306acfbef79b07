"""What runs in the peer's own environment: its trainer and its predictor, with a clock. Not for use by itself: see peer.py.

peer_nnunet.py train CONFIGURATION --minutes M --snapshots M… --folder DIR     train fold 0 for M minutes of CPU time
peer_nnunet.py throughput CONFIGURATION --steps N                              seconds a step, in and outside the network
peer_nnunet.py predict CONFIGURATION --folder DIR --checkpoint NAME --cases …  predict without mirroring
peer_nnunet.py untrained CONFIGURATION --folder DIR                            a checkpoint of random weights
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

NAME = "Dataset001_ACDC"
WARM = 2
"""Steps that are not counted."""


def make_trainer(configuration: str, device: str) -> nnUNetTrainer:
    if device == "cpu":
        # Augmentation in this process: cores are few, and its share of the time can be told.
        os.environ.update(nnUNet_n_proc_DA="0")
    folder = Path(nnUNet_preprocessed) / NAME
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    about = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, configuration, 0, about, torch.device(device))
    trainer.initialize()
    return trainer


def train(configuration: str, minutes: float, snapshots: list[float], folder: Path, device: str) -> None:
    """The peer's own steps; its polynomial schedule ends with the time allowed, and none of it goes into validation.

    The clock is the CPU time of this process, all of it, so that other work on the machine does not count. On a GPU it is
    the wall clock from here on, as waiting for the GPU is part of the work.
    """
    clock, start = (time.process_time, 0.0) if device == "cpu" else (time.perf_counter, time.perf_counter())
    folder.mkdir(parents=True, exist_ok=True)
    state, log = folder / "state.pt", folder / "log.json"
    trainer = make_trainer(configuration, device)
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    before, steps, losses = 0.0, 0, []
    if state.is_file():
        kept = torch.load(state, weights_only=False, map_location=device)
        trainer.network.load_state_dict(kept["network"])
        trainer.optimizer.load_state_dict(kept["optimizer"])
        before, steps = kept["seconds"], kept["steps"]
    due = sorted(minute for minute in snapshots if 60 * minute > before)
    saved = clock()
    trainer.network.train()

    def spent() -> float:
        return before + clock() - start

    def save() -> None:
        temporary = state.with_suffix(".new")
        values = {"network": trainer.network.state_dict(), "optimizer": trainer.optimizer.state_dict()}
        torch.save({**values, "seconds": spent(), "steps": steps}, temporary)
        temporary.replace(state)
        log.write_text(
            json.dumps({"configuration": configuration, "seconds": spent(), "steps": steps, "losses": losses[-20:]})
        )

    def snapshot(minute: float) -> None:
        trainer.network.eval()
        trainer.output_folder = str(folder)
        trainer.disable_checkpointing = False
        trainer.save_checkpoint(str(folder / f"minute_{minute:g}.pth"))
        trainer.network.train()
        save()

    while spent() < 60 * minutes:
        rate = trainer.initial_lr * (1 - spent() / (60 * minutes)) ** 0.9
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        steps += 1
        while due and spent() >= 60 * due[0]:
            snapshot(due.pop(0))
        if clock() - saved > 120:
            save()
            saved = clock()
            print(f"{spent() / 60:.1f} min, {steps} steps, loss {losses[-1]:.3f}", flush=True)
    for minute in due:
        snapshot(minute)
    save()


def throughput(configuration: str, steps: int, device: str) -> None:
    trainer = make_trainer(configuration, device)
    trainer.dataloader_train, _ = trainer.get_dataloaders()
    trainer.network.train()
    waiting, working, before = [], [], 0.0
    for number in range(steps + WARM):
        if number == WARM:
            before = time.process_time()
        start = time.perf_counter()
        batch = next(trainer.dataloader_train)
        ready = time.perf_counter()
        trainer.train_step(batch)
        waiting.append(ready - start)
        working.append(time.perf_counter() - ready)
    cpu = time.process_time() - before
    step = [both[0] + both[1] for both in zip(waiting[WARM:], working[WARM:], strict=True)]
    result = {
        "slices_per_second": trainer.batch_size / statistics.median(step),
        "slices_per_cpu_second": steps * trainer.batch_size / cpu,
        "outside": sum(waiting[WARM:]) / sum(step),
        "parameters": sum(value.numel() for value in trainer.network.parameters()),
    }
    print("RESULT " + json.dumps(result), flush=True)


def untrained(configuration: str, folder: Path, device: str) -> None:
    trainer = make_trainer(configuration, device)
    trainer.disable_checkpointing = False
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(str(folder / "untrained.pth"))


def predict(folder: Path, checkpoint: str, cases: list[str], device: str) -> None:
    """Labels of raw cases into ``folder / checkpoint``; the network alone, without mirroring, in this process."""
    raw, target = Path(nnUNet_raw) / NAME, folder / checkpoint
    target.mkdir(exist_ok=True)
    model = folder / "model"
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    preprocessed = Path(nnUNet_preprocessed) / NAME
    for name, new in (("nnUNetPlans.json", "plans.json"), ("dataset.json", "dataset.json")):
        (model / new).write_text((preprocessed / name).read_text())
    link = model / "fold_0" / f"{checkpoint}.pth"
    link.unlink(missing_ok=True)
    link.symlink_to((folder / f"{checkpoint}.pth").resolve())
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device(device), perform_everything_on_device=device != "cpu"
    )
    predictor.initialize_from_trained_model_folder(str(model), (0,), f"{checkpoint}.pth")
    wanted = [case for case in cases if not (target / f"{case}.nii.gz").is_file()]
    inputs = [[str(raw / "imagesTr" / f"{case}_0000.nii.gz")] for case in wanted]
    predictor.predict_from_files_sequential(inputs, [str(target / case) for case in wanted])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("train", "throughput", "predict", "untrained"))
    parser.add_argument("configuration")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--snapshots", type=float, nargs="*", default=[])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    values = parser.parse_args()
    torch.set_num_threads(values.threads)
    if values.task == "train":
        train(values.configuration, values.minutes, values.snapshots, values.folder, values.device)
    elif values.task == "throughput":
        throughput(values.configuration, values.steps, values.device)
    elif values.task == "untrained":
        untrained(values.configuration, values.folder, values.device)
    else:
        predict(values.folder, values.checkpoint, values.cases, values.device)
    if values.device != "cpu":
        # The peer's augmentation processes do not end by themselves.
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
