"""The model that comes with the package: whole, licensed, small, and able to segment what it has never seen."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon

from cardiac_autoseg.bundle import read_bundle
from cardiac_autoseg.bundle_transfer import verify_bundle
from cardiac_autoseg.cli.predict import main
from cardiac_autoseg.data.volume import read_cine
from cardiac_autoseg.evaluation.overlap import dice
from cardiac_autoseg.inference.model_store import default_bundle
from cardiac_autoseg.phantom import make_subject
from cardiac_autoseg.phantom.dicom import write_dicom
from cardiac_autoseg.trust.trust import load_trust

SUNNYBROOK = Path(os.environ.get("CAS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "sunnybrook/SC-HF-I-4"


@pytest.fixture(scope="module")
def default() -> Path:
    path = default_bundle()
    assert path is not None
    return path


def test_it_is_whole_small_and_licensed(default: Path) -> None:
    assert verify_bundle(default) == []
    assert sum(file.stat().st_size for file in default.iterdir()) < 20e6
    bundle = read_bundle(default)
    assert "CC BY-NC-SA 4.0" in bundle.licence
    assert bundle.training_data["subjects"] == 100
    assert [member.fold for member in bundle.members] == ["all"]
    card = (default / "MODEL_CARD.md").read_text()
    for words in ("not a medical device", "10.1109/TMI.2018.2837502", "CC BY-NC-SA 4.0", "## Limits", "| HCM |"):
        assert words in card
    trust = load_trust(default)
    assert trust is not None
    assert trust.record["intervals"]["LV_EF"]["coverage"] > 0.8
    # What is packaged is all that a bundle has: no evaluation, and above all no image.
    allowed = {".json", ".md", "", ".safetensors"}
    assert {file.suffix for file in default.iterdir()} <= allowed


def test_a_study_needs_no_other_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A heart that is drawn, not scanned: the network has seen neither it nor its like."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAS_WORKSPACE", raising=False)
    subject = make_subject(11, "NOR")
    write_dicom(tmp_path / "study", subject)
    capsys.readouterr()
    assert main(["-i", "study", "-o", "out", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    labels = read_cine(tmp_path / "out" / "study.nii.gz").array
    for frame, truth in ((subject.ed_frame, subject.labels_ed), (subject.es_frame, subject.labels_es)):
        place = subject.frame_numbers.index(frame)
        assert dice(labels[place] == 3, truth == 3) > 0.85
    assert abs(record["ed_frame"] - 1 - subject.ed_frame) <= 1
    assert abs(record["es_frame"] - 1 - subject.es_frame) <= 2
    voxel = float(np.prod(subject.geometry.spacing)) / 1000
    volumes = {name: (item == 3).sum() * voxel for name, item in (("ED", subject.labels_ed), ("ES", subject.labels_es))}
    true_ef = 100 * (1 - volumes["ES"] / volumes["ED"])
    item = record["numbers"]["LV_EF"]
    assert item["value"] == pytest.approx(true_ef, abs=8)
    assert item["interval_90"][0] < item["value"] < item["interval_90"][1]
    assert 0 < record["quality"]["dice"] <= 1


def test_noise_is_delivered_and_flagged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cardiac_autoseg.data.geometry import Geometry
    from cardiac_autoseg.data.volume import write_volume

    noise = np.random.default_rng(0).normal(300, 80, (8, 128, 128)).astype(np.float32)
    write_volume(tmp_path / "noise.nii.gz", noise, Geometry((128, 128, 8), (1.5, 1.5, 8.0)))
    capsys.readouterr()
    assert main(["-i", str(tmp_path / "noise.nii.gz"), "-o", str(tmp_path / "out"), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["status"] == "flagged"
    assert (tmp_path / "out" / "noise.nii.gz").exists()
    assert any(item["severity"] == "warning" for item in record["findings"])


@pytest.mark.realdata
@pytest.mark.skipif(not SUNNYBROOK.is_dir(), reason="no Sunnybrook series")
def test_real_series_against_an_expert(tmp_path: Path) -> None:
    assert main(["-i", str(SUNNYBROOK / "dicom"), "-o", str(tmp_path), "--labels-only"]) == 0
    labels = read_cine(tmp_path / "SC-HF-I-4.nii.gz").array
    assert labels.shape == (20, 10, 256, 256)
    y, x = np.mgrid[:256, :256]
    ours, drawn = [], []
    for path in sorted((SUNNYBROOK / "contours" / "i-contours").glob("*.txt")):
        number = int(re.findall(r"-(\d+)-icontour", path.name)[0]) - 1
        inside = Polygon(np.loadtxt(path)).contains_points(np.column_stack([x.ravel(), y.ravel()]))
        drawn.append(inside.reshape(256, 256))
        # The files are numbered slice by slice, 20 phases each; the stack may have been turned over.
        ours.append((labels[number % 20, number // 20] == 3, labels[number % 20, 9 - number // 20] == 3))
    best = max(dice(np.stack([pair[way] for pair in ours]), np.stack(drawn)) for way in (0, 1))
    assert best > 0.9
