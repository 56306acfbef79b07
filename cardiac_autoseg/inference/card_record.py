"""What a model card tells that only the runs and their evaluation know, in JSON-ready values for ``Bundle.card``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cardiac_autoseg.evaluation.agreement import bland_altman

INDICES = ("LV_EDV", "LV_ESV", "LV_EF", "LV_mass", "RV_EF")
AUGMENTATION = ("rotation", "scale", "shift", "mirror", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma")


def card_scores(evaluation: Mapping[str, Any], note: str = "") -> dict[str, Any]:
    """What the card says of accuracy, from the values of an ``evaluation.json``; for ``Bundle.card["scores"]``.

    By structure and phase, by group too (one frame of one patient is one case of the n), Dice and 95th percentile of the
    surface distance (mm); by index and group, bias and limits of agreement (Bland and Altman 1986), prediction less
    reference. ``note`` says whose scores these are where they are not of the bundle's own networks.
    """
    cases, patients = evaluation["cases"], evaluation["patients"]
    groups = sorted({row["group"] for row in cases if row.get("group")})
    keys = list(dict.fromkeys((row["structure"], row["phase"]) for row in cases if row["phase"]))
    by_group = [
        {"group": group, "structure": structure, "phase": phase, **_overlap(rows)}
        for group in groups
        for structure, phase in keys
        if (rows := [row for row in cases if (row["group"], row["structure"], row["phase"]) == (group, structure, phase)])
    ]
    indices = [
        {"group": group, "index": index, "unit": rows[0]["unit"], **_agreement(rows)}
        for index in INDICES
        for group in ("all", *groups)
        if (rows := [row for row in patients if row["index"] == index and group in ("all", row["group"])])
    ]
    values = {
        "reference": evaluation["reference"],
        "cases": len({row["case_id"] for row in cases}),
        "patients": len({row["subject"] for row in cases}),
        "mean_dice": evaluation["mean_dice"],
        "structures": [
            {"structure": row["structure"], "phase": row["phase"], "n": row["n"], "n_missed": row["n_missed"]}
            | {name: row[name] for name in ("dice_mean", "dice_sd", "hd95_mean")}
            for row in evaluation["summary"]
        ],
        "groups": by_group,
        "indices": indices,
        "note": note,
    }
    return {name: _rounded(value) for name, value in values.items()}


def card_recipe(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the networks were trained, from the values of their ``run.json``; for ``Bundle.card["recipe"]``.

    No names of hosts and no paths. ``seconds`` are those of training, summed over the networks.
    """
    policy = records[0]["recipe"]["policy"]
    used = [name for name in AUGMENTATION if np.any(np.asarray(policy.get(f"{name}_probability", 0)) > 0)]
    machines = {
        (item.get("name", ""), item.get("device", ""), item.get("threads"), item.get("torch", ""))
        for item in (record.get("hardware", {}) for record in records)
    }
    return {
        "networks": len(records),
        "steps": sorted({record["steps"] for record in records if record.get("steps")}),
        "augmentation": used,
        "optimiser": "AdamW, one cycle, moving average of the weights",
        "weight_decay": records[0]["recipe"].get("weight_decay"),
        "overrides": [record["overrides"] for record in records if record.get("overrides")],
        "hardware": [
            {"name": name, "device": device, "threads": threads, "torch": version}
            for name, device, threads, version in sorted(machines, key=str)
        ],
        "seconds": round(sum(record.get("seconds", {}).get("train", 0) for record in records)),
    }


def _overlap(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    dice = [row["dice"] for row in rows]
    distances = [row["hd95"] for row in rows if row["hd95"] is not None]
    return {
        "n": len(rows),
        "dice_mean": float(np.mean(dice)),
        "dice_sd": float(np.std(dice, ddof=1)) if len(dice) > 1 else None,
        "hd95_mean": float(np.mean(distances)) if distances else None,
    }


def _agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    pairs = [(row["prediction"], row["reference"]) for row in rows if None not in (row["prediction"], row["reference"])]
    limits = bland_altman([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    differences = [prediction - reference for prediction, reference in pairs]
    return {
        "n": len(pairs),
        "bias": float(np.mean(differences)) if pairs else None,
        "loa_low": limits.loa_low if limits else None,
        "loa_high": limits.loa_high if limits else None,
        "mae": float(np.mean(np.abs(differences))) if pairs else None,
    }


def _rounded(value: Any) -> Any:
    """Floats to six decimals, at every depth: the record is to be read."""
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
