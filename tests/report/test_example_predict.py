"""The example script runs on 3D and 4D files."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from cardiac_autoseg.bundle import Bundle, Member, save_bundle
from cardiac_autoseg.data.index import LABELS
from cardiac_autoseg.networks import build_network
from planning.plan import Plan

SCRIPT = Path(__file__).parents[2] / "examples" / "predict_in_memory.py"


@pytest.mark.parametrize("frames", [1, 3])
def test_example_prints_volumes(
    frames: int, tmp_path: Path, plan_of: Callable[[str], Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    plan = plan_of("unet")
    member = Member("unet", "ce_dice", "expert", "0", 0, plan.hash())
    bundle = Bundle("tiny", dict(LABELS), {plan.hash(): plan}, (member,))
    save_bundle(tmp_path / "tiny", bundle, [build_network(plan).state_dict()])
    array = np.random.default_rng(0).random((frames, 2, 24, 24)).astype(np.float32)
    volumes = [sitk.GetImageFromArray(volume) for volume in array]
    sitk.WriteImage(sitk.JoinSeries(volumes) if frames > 1 else volumes[0], str(tmp_path / "image.nii.gz"))
    main = runpy.run_path(str(SCRIPT))["main"]
    main([str(tmp_path / "tiny"), str(tmp_path / "image.nii.gz"), "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["frame", "RV", "(mL)", "MYO", "(mL)", "LV", "(mL)"]
    assert len([line for line in lines[1:] if line.strip()[0].isdigit()]) == frames
    assert any("ejection fraction" in line for line in lines) == (frames > 1)
