"""A corpus of broken and hostile images, labels and tables given to what imports, prepares, compares and scores."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cardiac_autoseg.cli import annotators, evaluate, import_, plan_and_preprocess, simulate_annotator

from .conftest import Tries
from .hostile_doors import AREA, Outcome, here, judge, patience, process, report, tree, write_all
from .hostile_images import images
from .hostile_labels import heart, labels
from .hostile_nifti import EITHER, REFUSED, USED, Hostile, content, nifti, packed, picture
from .hostile_tables import meanings, tables

GOOD = tuple(f"good_{letter}" for letter in "abcdef")


def write_good(
    root: Path, names: Iterable[str], image: str = "images/{}.nii.gz", label: str | None = "labels/expert/{}.nii.gz"
) -> None:
    """Good images, no two alike, and their labels."""
    for name in names:
        seed = sum(map(ord, name)) * 131 + len(name)
        for form, data in ((image, picture(seed)), (label, heart())):
            if form:
                path = root / form.format(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(nifti(data)) if path.suffix == ".nii" else packed(nifti(data))(path)


def indexed(workspace: Path) -> dict[str, Any]:
    """The cases of a workspace by id."""
    path = workspace / "dataset.json"
    return {case["id"]: case for case in json.loads(path.read_text())["cases"]} if path.is_file() else {}


def loosely(items: Iterable[Hostile]) -> list[Hostile]:
    """The same tries, where training has to be as strict as it likes with what a prediction takes."""
    return [Hostile(item.name, item.write, EITHER if item.expected == USED else item.expected, item.large) for item in items]


def stem(item: Hostile) -> str:
    return item.name.removesuffix(".gz").removesuffix(".nii")


def lacking(workspace: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: "a good one is not in the index" for name in names if name not in indexed(workspace)}


@pytest.mark.tries(
    AREA, "images: a data folder of broken and hostile NIfTI files among good ones to cas_plan_and_preprocess"
)
def test_prepare_images(tmp_path: Path, tries: Tries) -> None:
    root, workspace = tmp_path / "data", tmp_path / "workspace"
    write_good(root, GOOD)
    items = loosely(item for item in images() if item.name not in ("folder.nii.gz", "segmentation.nii.gz"))
    write_all(root / "images", items)
    before, most = tree(root), 1500
    outcome = process(["plan_and_preprocess", root, "-w", workspace, "--target", "cpu"], patience(100))
    wrong = judge(items, outcome.text, lambda item: stem(item) in indexed(workspace)) | lacking(workspace, GOOD)
    wrong |= {
        name: "a good one was not prepared" for name in GOOD if not list(workspace.glob(f"preprocessed/images/{name}*"))
    }
    wrong |= {"memory": f"{outcome.megabytes:.0f} MB"} if outcome.megabytes > most else {}
    assert tree(root) == before
    report(tries, len(items), wrong, outcome, (1,))


LAYOUTS = {
    "acdc": ("{0}/{0}_frame01.nii.gz", "{0}/{0}_frame02.nii.gz"),
    "nnunet": ("imagesTr/{0}_0000.nii.gz",),
    "mnms": ("{0}/{0}_SA_ED.nii.gz", "{0}/{0}_SA_ES.nii.gz"),
}


@pytest.mark.tries(AREA, "images: a broken one for a good in every other layout, to cas_import")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_import_layouts(tmp_path: Path, tries: Tries, layout: str) -> None:
    root, workspace = tmp_path / "data", tmp_path / "workspace"
    chosen = [item for item in images() if item.expected == REFUSED and item.name.endswith(".gz") and not item.large][::8]
    subjects = [f"p{number:03d}" for number in range(len(chosen) + 1)]
    for number, form in enumerate(LAYOUTS[layout]):
        write_good(root, subjects, form, form.replace(".nii", "_gt.nii"))
        for subject in subjects:  # the frames of a subject differ
            (root / form.format(subject)).write_bytes(b"")
            packed(nifti(picture(1000 * number + int(subject[1:]))))(root / form.format(subject))
    if layout == "acdc":
        for subject in subjects:
            (root / subject / "Info.cfg").write_text("ED: 1\nES: 2\nGroup: NOR\n")
    elif layout == "mnms":
        (root / "table.csv").write_text("SUBJECT_CODE,DISEASE\n" + "".join(f"{subject},NOR\n" for subject in subjects))
    else:
        (root / "dataset.json").write_text('{"labels": {"background": 0, "RV": 1, "MYO": 2, "LV": 3}}')
    names = []
    for item, subject in zip(chosen, subjects, strict=False):
        path = root / LAYOUTS[layout][0].format(subject)
        path.unlink()
        item.write(path)
        names.append(path.name)
    outcome = here(import_.main, [layout, root, "-w", workspace], patience(30))
    kept = {Path(case["image"]).name for case in indexed(workspace).values()}
    wrong = {name: "it was not refused by name" for name in names if name not in outcome.text or name in kept}
    if (LAYOUTS[layout][-1]).format(subjects[-1]).rpartition("/")[2] not in kept:
        wrong[subjects[-1]] = "a good one is not in the index"
    report(tries, len(chosen), wrong, outcome, (1,))


def label_tries() -> list[Hostile]:
    return [item for item in labels() if item.name != "folder.nii.gz"]


def labelled(workspace: Path, source: str) -> Callable[[Hostile], bool]:
    return lambda item: source in indexed(workspace)[stem(item)]["labels"]


@pytest.mark.tries(
    AREA, "labels: broken and hostile ones among good to cas_import, as the data's own and as a further source"
)
@pytest.mark.parametrize("source", ["expert", "student"])
def test_import_labels(tmp_path: Path, tries: Tries, source: str) -> None:
    root, workspace, items = tmp_path / "data", tmp_path / "workspace", label_tries()
    write_good(root, GOOD)
    write_good(root, map(stem, items), label=None)
    if source == "expert":
        write_all(root / "labels" / "expert", items)
        outcome = here(import_.main, ["folder", root, "-w", workspace, "--verbose"], patience(60))
    else:
        assert here(import_.main, ["folder", root, "-w", workspace]).code == 0
        write_all(tmp_path / "more", items)
        write_good(tmp_path, GOOD, "unused/{}.nii.gz", "more/{}.nii.gz")
        words = ["--source", f"student={tmp_path / 'more'}", "-w", workspace, "--verbose"]
        outcome = here(import_.main, words, patience(60))
        # Pipes and links that lead nowhere are no files; so nothing tells of them.
        items = [item for item in items if item.name not in ("pipe.nii.gz", "link_to_itself.nii.gz", "link_to_zeros.nii.gz")]
    wrong = judge([item for item in items if item.name != "empty.nii.gz"], outcome.text, labelled(workspace, source))
    if "case empty" not in outcome.text:
        wrong["empty"] = "nothing is said of labels that are empty"
    wrong |= {
        name: "its good labels are not in the index" for name in GOOD if source not in indexed(workspace)[name]["labels"]
    }
    if "LV and RV look swapped" not in outcome.text:
        wrong["swapped"] = "nothing is said of labels that are swapped"
    report(tries, len(items), wrong, outcome, (1,))


@pytest.mark.tries(AREA, "labels: broken and hostile ones as predictions, to cas_evaluate")
def test_evaluate(tmp_path: Path, tries: Tries) -> None:
    root, workspace, predicted, items = tmp_path / "data", tmp_path / "workspace", tmp_path / "predicted", label_tries()
    write_good(root, [*GOOD, *map(stem, items)])
    assert here(import_.main, ["folder", root, "-w", workspace]).code == 0
    write_all(predicted, items)
    write_good(predicted, GOOD, "{}.nii.gz", None)
    for name in GOOD:
        packed(nifti(heart()))(predicted / f"{name}.nii.gz")
    outcome = here(evaluate.main, [predicted, "--gt", "expert", "-w", workspace], patience(60))
    with (predicted / "cases.csv").open(newline="") as stream:
        scored = {row["case_id"] for row in csv.DictReader(stream)}
    wrong = judge(items, outcome.text, lambda item: stem(item) in scored)
    wrong |= {name: "a good one was not scored" for name in GOOD if name not in scored}
    report(tries, len(items), wrong, outcome, (1,))


@pytest.mark.tries(
    AREA, "labels: files that break after the import, to cas_annotators, cas_simulate_annotator and the preparation"
)
def test_labels_that_break_later(tmp_path: Path, tries: Tries) -> None:
    root, workspace, items = (
        tmp_path / "data",
        tmp_path / "workspace",
        [item for item in label_tries() if item.expected == REFUSED],
    )
    write_good(root, [*GOOD, *map(stem, items)])
    write_good(root, [*GOOD, *map(stem, items)], label="labels/student/{}.nii.gz")
    for name in (*GOOD, *map(stem, items)):  # no two sources are alike
        packed(nifti(np.where(heart() == 1, 0, heart()).astype(np.uint8)))(root / f"labels/student/{name}.nii.gz")
    assert here(import_.main, ["folder", root, "-w", workspace]).code == 0
    for item in items:
        (root / "labels/student" / item.name).unlink()
        item.write(root / "labels/student" / item.name)
    commands: dict[str, tuple[Callable[[Sequence[str]], int], list[object]]] = {
        "prepare": (plan_and_preprocess.main, ["-w", workspace, "--target", "cpu"]),
        "annotators": (annotators.main, ["expert", "student", "-w", workspace]),
        "simulate": (simulate_annotator.main, ["novice", "--gt", "student", "-w", workspace]),
    }
    wrong, outcome = {}, Outcome(0, "")
    for command, (main, words) in commands.items():
        outcome = here(main, words, patience(60))
        problems = outcome.problems((1,))
        wrong |= {f"{command}: {name}": why for name, why in judge(items, outcome.text, lambda _: False).items()}
        if problems:
            wrong[command] = problems[0]
    report(tries, len(commands) * len(items), wrong, outcome, (1,))


def each(
    items: Iterable[Hostile], path: Path, run: Callable[[], Outcome], made: Callable[[], bool]
) -> tuple[int, dict[str, str]]:
    """Put each item in turn where ``path`` is and ``run``; how many they were, and which did not hold."""
    wrong, count = {}, 0
    for count, item in enumerate(items, start=1):  # noqa: B007 - the number of them
        item.write(path)
        outcome = run()
        if problems := outcome.problems():
            wrong[item.name] = problems[0]
        elif item.expected == REFUSED and (
            outcome.code == 0 or not any(name in outcome.text for name in (path.name, str(path.parent)))
        ):
            wrong[item.name] = f"it was not refused by name: {outcome.text[-300:]}"
        elif item.expected == USED and not made():
            wrong[item.name] = f"nothing was made of it: {outcome.text[-300:]}"
        path.rmdir() if path.is_dir() else path.unlink()
    return count, wrong


TABLES = {
    "folder": ("cases.csv", "case,subject,phase,frame,group,height_cm,weight_kg,image", "a,P,ED,1,NOR,170,70,a", "frame"),
    "mnms": ("info.csv", "External code,ED,ES,Pathology,Height,Weight", "a,0,1,NOR,170,70", "ED"),
    "acdc": ("Info.cfg", "ED,ES,Group,Height,Weight", "1,2,NOR,170,70", "ED"),
}


@pytest.mark.tries(AREA, "tables: broken and hostile cases.csv, tables of M&Ms and Info.cfg to cas_import")
@pytest.mark.parametrize("layout", TABLES)
def test_import_tables(tmp_path: Path, tries: Tries, layout: str, full: bool) -> None:
    root, workspace = tmp_path / "data", tmp_path / "workspace"
    name, *rest = TABLES[layout]
    items: Iterable[Hostile] = tables(rest[0], rest[1], rest[2])
    (root / "patient1").mkdir(parents=True)
    two = nifti(np.stack([picture(1), picture(2)]))
    if layout == "acdc":
        items = _as_lines(items)
        content(two)(root / "patient1" / "patient1_4d.nii")
        write_good(root, ["patient2"], "{0}/{0}_frame01.nii", None)
        write_good(root, ["patient2x"], "patient2/patient2_frame02.nii", None)
        (root / "patient2" / "Info.cfg").write_text("ED: 1\nES: 2\n")
    elif layout == "mnms":
        content(two)(root / "patient1" / "a_sa.nii")
    else:
        write_good(root, ["a", "b"], label=None)

    def run() -> Outcome:
        (workspace / "dataset.json").unlink(missing_ok=True)
        return here(import_.main, [layout, root, "-w", workspace])

    path = root / "patient1" / name if layout == "acdc" else root / name
    count, wrong = each(list(items)[:: 1 if full else 2], path, run, lambda: bool(indexed(workspace)))
    report(tries, count, wrong, Outcome(0, ""), (0,))


def _as_lines(items: Iterable[Hostile]) -> Iterable[Hostile]:
    """Tables as the ``key: value`` lines of an Info.cfg, where they are tables of two lines."""
    for item in items:

        def write(path: Path, item: Hostile = item) -> None:
            item.write(path)
            if item.expected != REFUSED and path.is_file():
                head, _, row = path.read_bytes().partition(b"\n")
                pairs = zip(head.split(b","), row.split(b"\n")[0].split(b","), strict=False)
                path.write_bytes(b"".join(key + b": " + value + b"\n" for key, value in pairs))

        if item.name not in ("byte_order_mark", "quoted"):
            yield Hostile(item.name, write, item.expected)


@pytest.mark.tries(AREA, "JSON: what label values mean, broken and hostile, in labels.json and nnU-Net's dataset.json")
@pytest.mark.parametrize("layout", ["folder", "nnunet"])
def test_import_meanings(tmp_path: Path, tries: Tries, layout: str) -> None:
    root, workspace = tmp_path / "data", tmp_path / "workspace"
    if layout == "folder":
        write_good(root, ["a", "b"])
        path, items = root / "labels" / "labels.json", list(meanings())
    else:
        write_good(root, ["a", "b"], "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz")
        path, items = root / "dataset.json", [_within(item) for item in meanings()]

    def run() -> Outcome:
        (workspace / "dataset.json").unlink(missing_ok=True)
        return here(import_.main, [layout, root, "-w", workspace])

    count, wrong = each(items, path, run, lambda: "expert" in (indexed(workspace).get("a") or {"labels": ()})["labels"])
    report(tries, count, wrong, Outcome(0, ""), (0,))


def _within(item: Hostile) -> Hostile:
    """The meaning as the labels of a dataset.json of nnU-Net."""

    def write(path: Path) -> None:
        item.write(path)
        if path.is_file():
            path.write_bytes(b'{"labels": ' + path.read_bytes() + b', "file_ending": ".nii.gz"}')

    return Hostile(item.name, write, item.expected)
