"""A thousand cases: memory, open files and threads are no more than for ten, and what is told is what is there."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.phantom.subject import make_subject

AREA = "Load"
CASES = {True: 1000, False: 30}
"""In full, and by default."""
RENDERED = 5
"""Patients that are drawn; the others are copies of them with other noise."""
FEW = 10
"""Cases of the run that the large one is compared with."""
GROWTH_MB, FILES, THREADS = 32.0, 4, 2
"""How much more the large one may have at once."""


@dataclass
class Most:
    """The most that a process had at once: MB of memory that no file holds, open files, threads."""

    megabytes: float = 0.0
    files: int = 0
    threads: int = 0

    def look(self, process: int) -> None:
        """Note what it has now; nothing where it has ended."""
        try:
            files = len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 - only the number is wanted
            text = Path(f"/proc/{process}/status").read_text()
        except OSError:
            return
        found = {name: int(value) for name, value in re.findall(r"^(RssAnon|Threads):\s+(\d+)", text, re.MULTILINE)}
        self.megabytes = max(self.megabytes, found.get("RssAnon", 0) / 1024)
        self.files, self.threads = max(self.files, files), max(self.threads, found.get("Threads", 0))


def cas(*words: object) -> tuple[str, Most]:
    """Run a command to its end: what it said, and what it had at most."""
    command, most = [sys.executable, "-m", "cardiac_autoseg", *map(str, words)], Most()
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
            while process.poll() is None:
                most.look(process.pid)
                time.sleep(0.01)
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, text[-3000:]
    return text, most


def flat(what: str, few: Most, many: Most) -> str:
    """Nothing grew from few cases to many; in words, how much it was."""
    assert many.megabytes < few.megabytes + GROWTH_MB, f"{what}: {few.megabytes:.0f} MB, and {many.megabytes:.0f} for many"
    assert many.files <= few.files + FILES, f"{what}: {few.files} open files, and {many.files} for many"
    assert many.threads <= few.threads + THREADS, f"{what}: {few.threads} threads, and {many.threads} for many"
    return f"{what} {few.megabytes:.0f} → {many.megabytes:.0f} MB, {few.files} → {many.files} files"


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Path:
    """Small patients in ACDC's layout, two cases each."""
    folder = tmp_path_factory.mktemp("load") / "data"
    rendered = [make_subject(seed, "NOR", size="small") for seed in range(RENDERED)]
    for number in range(CASES[full] // 2):
        subject, place = rendered[number % RENDERED], folder / f"patient{number:04d}"
        place.mkdir(parents=True)
        noise = np.random.default_rng(number)
        x, y, z = subject.geometry.spacing
        ends = ((1, subject.image_ed, subject.labels_ed), (10, subject.image_es, subject.labels_es))
        for frame, image, labels in ends:
            small, drawn = image[:, ::2, ::2], np.ascontiguousarray(labels[:, ::2, ::2])
            geometry: Geometry = dataclasses.replace(subject.geometry, size=small.shape[::-1], spacing=(2 * x, 2 * y, z))
            name = f"{place.name}_frame{frame:02d}"
            write_volume(place / f"{name}.nii.gz", small + noise.integers(0, 3, small.shape, np.int16), geometry)
            write_labels(place / f"{name}_gt.nii.gz", drawn, geometry)
        (place / "Info.cfg").write_text("ED: 1\nES: 10\nGroup: NOR\nHeight: 170\nNbFrame: 30\nWeight: 70\n")
    return folder


@pytest.fixture(scope="module")
def names(patients: Path) -> list[str]:
    """The cases, as their files are called."""
    return sorted(path.name.removesuffix(".nii.gz") for path in patients.glob("*/*_frame??.nii.gz"))


@pytest.mark.tries(AREA, "cases through cas_import and cas_plan_and_preprocess: flat, and whole")
def test_many_cases_are_imported_and_preprocessed(patients: Path, names: list[str], tries: Any, tmp_path: Path) -> None:
    heart, small = tmp_path / "heart", tmp_path / "small"
    for patient in sorted(patients.iterdir())[: FEW // 2]:
        shutil.copytree(patient, tmp_path / "few" / patient.name)
    _, few = cas("import", "acdc", tmp_path / "few", "-w", small)
    said, many = cas("import", "acdc", patients, "-w", heart)
    notes = [flat("import", few, many)]
    assert re.search(rf"^images +{len(names)} +{len(names) // 2} ", said, re.MULTILINE), said
    assert re.search(rf"^expert +{len(names)} ", said, re.MULTILINE), said
    cases = json.loads((heart / "dataset.json").read_text())["cases"]
    assert sorted(case["id"] for case in cases) == names
    assert all("expert" in case["labels"] for case in cases)
    options = ("--target", "cpu", "--gflops", "0.5")
    _, few = cas("plan_and_preprocess", "-w", small, *options)
    said, many = cas("plan_and_preprocess", "-w", heart, *options)
    notes.append(flat("preprocess", few, many))
    assert f"{len(names)} unchanged" in said or f"fingerprint: {len(names)} cases measured" in said, said
    assert f"preprocessed: {2 * len(names)} arrays made, 0 unchanged" in said, said
    index = json.loads((heart / "preprocessed" / "index.json").read_text())["cases"]
    assert sorted(index) == names
    for kind in ("images", "labels/expert"):
        assert sorted(path.stem for path in (heart / "preprocessed" / kind).glob("*.npy")) == names
    assert len(json.loads((heart / "fingerprint.json").read_text())["cases"]) == len(names)
    said, _ = cas("plan_and_preprocess", "-w", heart, *options)
    assert f"preprocessed: 0 arrays made, {2 * len(names)} unchanged" in said, "a second time, nothing is left to do"
    tries.count, tries.note = len(names), "; ".join(notes)


@pytest.mark.tries(AREA, "cases through cas_predict --fast --labels-only: flat, progress right, and whole")
def test_many_cases_are_predicted(patients: Path, names: list[str], tries: Any, tmp_path: Path) -> None:
    fast, output = ("--fast", "--labels-only"), tmp_path / "out"
    _, few = cas("predict", "-o", tmp_path / "few", *fast, "-i", *files_of(patients, names[:FEW]))
    said, many = cas("predict", "-o", output, *fast, "-i", patients / "*" / "*_frame??.nii.gz")
    assert progress(said) == names
    assert f"\n{len(names)} predicted into {output}, 0 failed" in said
    assert sorted(path.name.removesuffix(".nii.gz") for path in output.glob("*.nii.gz")) == names
    whole(patients, output, names)
    tries.count, tries.note = len(names), flat("predict", few, many)


@pytest.mark.tries(AREA, "cases through cas_predict with all pages: flat, progress right, and whole")
def test_many_cases_are_predicted_with_pages(patients: Path, names: list[str], tries: Any, tmp_path: Path) -> None:
    some, output = names[: max(2 * FEW, len(names) // 10)], tmp_path / "out"
    _, few = cas("predict", "-o", tmp_path / "few", "-i", *files_of(patients, names[:FEW]))
    said, many = cas("predict", "-o", output, "-i", *files_of(patients, some))
    assert progress(said) == some
    assert f"\n{len(some)} predicted into {output}, 0 failed" in said
    for ending in (".nii.gz", ".json", ".html"):
        assert {f"{name}{ending}" for name in some} <= {path.name for path in output.iterdir()}
    whole(patients, output, some)
    (table,) = output.glob("*.csv")
    assert [row["case"] for row in csv.DictReader(table.read_text().splitlines())] == some
    index = (output / "index.html").read_text()
    assert all(f'href="{name}.html"' in index for name in some)
    tries.count, tries.note = len(some), flat("predict", few, many)


def files_of(patients: Path, names: Sequence[str]) -> list[Path]:
    return [patients / name.partition("_")[0] / f"{name}.nii.gz" for name in names]


def progress(said: str) -> list[str]:
    """The cases that were told as done, each with its right number."""
    lines = re.findall(r"^\[(\d+)/(\d+)\] (\S+)\.nii\.gz: ", said, re.MULTILINE)
    assert [(int(number), int(total)) for number, total, _ in lines] == [(k, len(lines)) for k in range(1, len(lines) + 1)]
    return [name for _, _, name in lines]


def whole(patients: Path, folder: Path, names: Sequence[str]) -> None:
    """Every label file is there and of the grid of its image, and most of them found a heart."""
    hearts = 0
    for name, path in zip(names, files_of(patients, names), strict=True):
        image = sitk.ReadImage(str(path))
        labels = sitk.ReadImage(str(folder / f"{name}.nii.gz"))
        assert labels.GetSize() == image.GetSize()
        assert labels.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-3)
        values = np.unique(sitk.GetArrayViewFromImage(labels))
        assert set(values) <= {0, 1, 2, 3}
        hearts += len(values) > 1
    assert hearts > len(names) / 2
