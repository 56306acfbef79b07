"""The main job on data whose every name is hostile, in one process that cannot reach a network.

    python tests/reliability/main_job.py FOLDER

Plan, train a few steps on two sources, compare, ensemble, predict NIfTI and DICOM with pages, all reports. What each command
returned, and every attempt to connect, is written to FOLDER/job.json.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "<img src=x onerror=alert(7)>"
"""In every text of the data: as an element, it would stand in a page."""
QUOTED = "\" onmouseover=alert(7) x='"
SCRIPT = "</script><script>alert(7)</script>"
ESCAPE = "\x1b[2J\x1b]0;owned\x07\r"
FORMULA = "=HYPERLINK(1)"


PROBE = ("bind", ("::1", 0))
"""How urllib3, which pydicom imports where it is installed, asks whether the system knows IPv6: nothing is sent."""


def without_network(attempts: list[str]) -> None:
    """Make every attempt to reach a network fail, and note it."""

    def refuse(name: str) -> Callable[..., Any]:
        def attempt(*arguments: Any, **_: Any) -> Any:
            if (name, *arguments[-1:]) != PROBE:
                attempts.append(f"{name}{arguments[-1:]!r}")
            raise OSError("there is no network")

        return attempt

    for name in ("connect", "connect_ex", "sendto", "bind"):
        setattr(socket.socket, name, refuse(name))
    socket.getaddrinfo = refuse("getaddrinfo")
    socket.create_connection = refuse("create_connection")


def rename(workspace: Path) -> None:
    """Texts of the index that come from data, hostile: cases and subjects, groups, the data set's name, notes."""
    path = workspace / "dataset.json"
    values = json.loads(path.read_text())
    values["name"] = f"{MARK}{QUOTED}{SCRIPT}"
    for case in values["cases"]:
        case["id"] = f"{FORMULA}{MARK}{case['id']}"
        case["subject"] = f"-1+{MARK}{QUOTED}{case['subject']}"
        case["group"] = f"@{SCRIPT}{case['group']}"
    values["sources"]["expert"]["note"] = f"+{MARK}{SCRIPT}{ESCAPE}"
    path.write_text(json.dumps(values))


def make_inputs(folder: Path, data: Path) -> list[str]:
    """A NIfTI file and a DICOM study, with hostile names and texts."""
    from cardiac_autoseg.phantom.dicom import write_dicom
    from cardiac_autoseg.phantom.subject import make_subject

    folder.mkdir()
    image = next(data.glob("*/*frame01.nii.gz"))
    names = [f"{FORMULA}{MARK}", f"-{QUOTED}{ESCAPE}", "javascript:alert(7)"]
    for name in names:
        shutil.copy(image, folder / f"{name}.nii.gz")
    study = folder / f"{MARK}study"
    elements = {"SeriesDescription": f"cine sa {MARK}", "ProtocolName": SCRIPT, "PatientName": f"{MARK}^{FORMULA}"}
    elements |= {"Manufacturer": QUOTED, "StudyDescription": QUOTED}
    subject = make_subject(0, "NOR", size="small")
    few = dict.fromkeys(range(subject.cine.shape[1]), 8)
    write_dicom(study, subject, enhanced=True, elements=elements, frames_of_slice=few)
    return [*(str(folder / f"{name}.nii.gz") for name in names), str(study)]


def main() -> None:
    attempts: list[str] = []
    without_network(attempts)
    from cardiac_autoseg.cli import (
        annotators,
        compare,
        ensemble,
        import_,
        models,
        plan_and_preprocess,
        predict,
        report,
        simulate_annotator,
        status,
        train,
    )
    from cardiac_autoseg.phantom.subject import write_acdc

    folder = Path(sys.argv[1])
    workspace, data = folder / "w", folder / "training"
    write_acdc(data, 5, 0, cine_4d=False, size="small")
    inputs = make_inputs(folder / "in", data)
    codes: list[tuple[str, int]] = []

    def run(command: Any, *arguments: object) -> None:
        sys.stdout.write(f"$ {command.__name__} {' '.join(map(ascii, arguments))}\n")
        codes.append((command.__name__, command.main([*map(str, arguments), "-w", str(workspace)])))

    run(import_, "acdc", data)
    rename(workspace)
    run(plan_and_preprocess, "--target", "cpu", "--gflops", "0.3")
    run(simulate_annotator, "novice", "--name", "novice")
    run(plan_and_preprocess)
    for gt in ("expert", "novice"):
        for fold in (0, 1):
            run(train, "enet", fold, "--gt", gt, "--steps", 2, "--quiet", "--device", "cpu")
    run(annotators)
    run(annotators, "--suspects", "expert", "-o", workspace / "reports" / "suspects")
    run(compare)
    run(ensemble, "--licence", f"{MARK}{SCRIPT}{ESCAPE}", "--no-quality")
    record = workspace / "models" / "best" / "bundle.json"
    values = json.loads(record.read_text())
    record.write_text(json.dumps({**values, "name": f"{MARK}{QUOTED}"}))
    run(models, "inspect", "best")
    run(report)
    run(status)
    run(predict, "-i", *inputs, "-o", folder / "out", "--model", "best", "--fast")
    (folder / "job.json").write_text(json.dumps({"codes": codes, "attempts": attempts}))


if __name__ == "__main__":
    main()
