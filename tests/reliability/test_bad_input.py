"""A corpus of broken and hostile images and studies given to cas_predict among good ones."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

import pytest

from cardiac_autoseg.delivery.inputs import find_inputs
from cardiac_autoseg.errors import UserError

from .conftest import Tries
from .hostile_dicom import studies
from .hostile_doors import AREA, MORE_MEMORY_MB, Outcome, judge, patience, process, report, tree, write_all
from .hostile_images import images
from .hostile_names import names
from .hostile_nifti import Hostile, content, nifti, packed, picture
from .hostile_study import linked, write_study
from .hostile_zips import zips


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., Path]) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "tiny")


def predict(model: Path, inputs: Sequence[Path], output: Path, seconds: float) -> Outcome:
    words = ["predict", "-i", *inputs, "-o", output, "--model", model, "--device", "cpu", "--no-dicom"]
    return process(words, patience(seconds))


def differences(root: Path, output: Path, before: dict[str, tuple[int, int]]) -> dict[str, str]:
    """What was changed or made below ``root`` outside of ``output``."""
    after = {path: state for path, state in tree(root).items() if not path.startswith(f"{output}/")}
    return {path: "it was changed or made" for path in {*before, *after} if after.get(path) != before.get(path)}


def among_good(
    root: Path, model: Path, folder: Path, good: Sequence[str], items: Sequence[Hostile], every: bool
) -> tuple[dict[str, str], Outcome]:
    """Predict ``folder`` with the good ones in it, then with all of ``items``; what did not hold, and the outcome.

    ``every``: each thing in the folder is named to the command, not the folder.
    """

    def inputs() -> list[Path]:
        return sorted(folder.iterdir()) if every else [folder]

    plain = predict(model, inputs(), root / "plain", 60)
    assert plain.code == 0, plain.text
    write_all(folder, items)
    before, output = tree(root), root / "out"
    outcome = predict(model, inputs(), output, 200)
    wrong = judge(items, outcome.text, lambda item: (output / f"{_stem(item.name)}.nii.gz").is_file())
    wrong |= {name: "a good one was not done" for name in good if not (output / f"{name}.nii.gz").is_file()}
    if outcome.megabytes > plain.megabytes + MORE_MEMORY_MB:
        wrong["memory"] = f"{outcome.megabytes:.0f} MB, where good ones take {plain.megabytes:.0f}"
    return wrong | differences(root, output, before), outcome


def _stem(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".nii").removesuffix(".zip")


def good_images(folder: Path) -> list[str]:
    """Two good images, the first and the last of a folder by name; their names."""
    write_all(
        folder, [Hostile("0_good.nii.gz", packed(nifti(picture(1)))), Hostile("zz_good.nii", content(nifti(picture(2))))]
    )
    return ["0_good", "zz_good"]


@pytest.mark.tries(AREA, "images: a folder of broken and hostile NIfTI files among good ones to cas_predict")
def test_predict_images(tmp_path: Path, model: Path, tries: Tries) -> None:
    good, items = good_images(tmp_path / "in"), list(images())
    wrong, outcome = among_good(tmp_path, model, tmp_path / "in", good, items, every=False)
    report(tries, len(items), wrong, outcome, (1,))


@pytest.mark.tries(AREA, "DICOM: broken and hostile studies, folders and zips, among good ones to cas_predict")
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_predict_dicom(tmp_path: Path, model: Path, tries: Tries, full: bool) -> None:
    folder, good = tmp_path / "in", write_study(tmp_path / "good")
    folder.mkdir()
    for name in ("0_good", "zz_good"):
        linked(good, folder / name)
    items = [*studies(good), *zips(good)]
    items = items if full else [item for number, item in enumerate(items) if number % 5 == 0 and not item.large]
    wrong, outcome = among_good(tmp_path, model, folder, ["0_good", "zz_good"], items, every=True)
    report(tries, len(items), wrong, outcome, (1,))


@pytest.mark.tries(AREA, "odd names of good images: all are predicted, and found through page and table")
def test_predict_names(tmp_path: Path, model: Path, tries: Tries) -> None:
    folder, output, items = tmp_path / "in", tmp_path / "out", list(names())
    write_all(folder, items)
    before = tree(tmp_path)
    outcome = predict(model, [folder], output, 100)
    called = {item.path.name: item.name for item in find_inputs([str(folder)])}
    page = (output / "index.html").read_text(encoding="utf-8")
    links = {unquote(part.partition('"')[0]) for part in page.split('href="')[1:]}
    with (output / "measurements.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row[0] for row in csv.reader(stream)}
    wrong = {}
    for item in items:
        name = called[item.name]
        missing = [end for end in (".nii.gz", ".json", ".html") if not (output / f"{name}{end}").is_file()]
        if missing or f"{name}.html" not in links or not {name, f"'{name}"} & rows:
            wrong[item.name] = f"of {name!r} there is no {missing or 'link or row'}"
    assert len({name.casefold() for name in called.values()}) == len(items)
    assert "<script>alert" not in page
    report(tries, len(items), wrong | differences(tmp_path, output, before), outcome, (0,))


@pytest.mark.tries(
    AREA, "globs and names on the command line: links in circles, a leading dash or tilde, folders that hold nothing"
)
def test_predict_patterns(tmp_path: Path, model: Path, tries: Tries, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    good_images(folder / "below")
    write_all(folder, [Hostile(name, content(nifti(picture(3)))) for name in ("-dash.nii", "~tilde.nii", "[a].nii")])
    for name in ("again", "and_again"):
        (folder / "below" / name).symlink_to(folder)
    (folder / "circle").symlink_to("circle")
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    both = {"0_good", "zz_good"}
    expected: dict[tuple[str, ...], set[str] | None] = {
        ("**/*good*",): both,
        (f"{folder}/**/*.nii.gz",): {"0_good"},
        ("**",): {*both, "-dash", "~tilde", "[a]"},
        ("*",): {*both, "-dash", "~tilde", "[a]"},
        ("./-dash.nii",): {"-dash"},
        ("~tilde.nii",): {"~tilde"},
        ("[a].nii",): {"[a]"},
        ("circle",): None,
        ("nowhere",): None,
        ("nowhere/**/x",): None,
        ("[",): None,
        ("empty",): None,
        ("~nobody/x.nii",): None,
        ("x" * 5000,): None,
        ("nul\0byte.nii",): None,
    }
    wrong = {}
    for patterns, wanted in expected.items():
        try:
            found: set[str] | None = {item.name for item in find_inputs(patterns)}
        except Exception as error:
            # A command turns an OSError into a message, too.
            found = None if isinstance(error, UserError | OSError) else {repr(error)}
        if found != wanted:
            wrong[str(patterns)[:80]] = f"found {found}, not {wanted}"
    outcome = predict(model, [Path("below"), Path("empty"), Path("circle"), Path("~tilde.nii")], tmp_path / "out", 60)
    done = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    if done != {"0_good.nii.gz", "zz_good.nii.gz", "~tilde.nii.gz"}:
        wrong["among others"] = f"done are {sorted(done)}"
    report(tries, len(expected) + 1, wrong, outcome, (1,))
