"""How many planted label errors ``cas_annotators --suspects`` finds: precision at k; table in results/suspects.md.

    python benchmarks/suspects.py -w WORKSPACE --prepare        errors in 40 cases of the expert labels: source "planted"
    cas_plan_and_preprocess -w WORKSPACE
    cas_train enet K --gt planted -w WORKSPACE                  for each of the five folds K
    python benchmarks/suspects.py -w WORKSPACE --score          networks trained on the planted labels
    python benchmarks/suspects.py -w WORKSPACE --score --trained-on expert     upper bound: networks trained on clean labels

``--prepare --frames 12 --name frames`` plants another error: the labels of the patient's other frame, in 12 whole cases. The
networks trained on clean labels score it too.

The truth is kept beside the labels, in annotations/planted/truth.json. ``--score`` adds its row to the table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cardiac_autoseg.annotation.planted import KINDS, plant
from cardiac_autoseg.annotation.suspects import find_suspects, judges, rank_cases
from cardiac_autoseg.data.importers import add_source
from cardiac_autoseg.data.index import Case, load_dataset
from cardiac_autoseg.data.load import load_labels
from cardiac_autoseg.data.volume import write_labels
from cardiac_autoseg.evaluation.overlap import dice_of_sizes, joint_counts, sizes
from cardiac_autoseg.files import write_json
from cardiac_autoseg.inference.crossvalidation import collect, over_cases, summed_probabilities
from cardiac_autoseg.inference.predictor import likeliest
from cardiac_autoseg.workspace import Workspace

TABLE = Path(__file__).parent / "results" / "suspects.md"
Slice = tuple[str, int]


def prepare(workspace: Workspace, name: str, source: str, cases: int, seed: int, frames: bool) -> None:
    """Write the source with errors in some cases, of as many subjects, and the record of them.

    On one slice each, or (``frames``) the whole label is that of the subject's other frame.
    """
    dataset = load_dataset(workspace.dataset)
    rng = np.random.default_rng(seed)
    labelled = dataset.labelled(source)
    subjects = rng.permutation(sorted({case.subject for case in labelled}))
    chosen: dict[str, str] = {}
    for number, subject in enumerate(subjects[:cases]):
        own = [case.id for case in labelled if case.subject == subject]
        chosen[str(rng.choice(own))] = "frame" if frames else KINDS[number % len(KINDS)]
    truth: list[dict[str, Any]] = []
    for case in labelled:
        volume = load_labels(workspace, dataset, case, source)
        labels = volume.array
        if chosen.get(case.id) == "frame":
            other = next(other for other in labelled if other.subject == case.subject and other.id != case.id)
            labels = load_labels(workspace, dataset, other, source).array
            truth.append({"case": case.id, "slice": None, "kind": "frame"})
        elif case.id in chosen:
            labels, places = plant(labels, volume.geometry.spacing_zyx, chosen[case.id], rng, dataset.labels)
            truth += [{"case": case.id, "slice": place, "kind": chosen[case.id]} for place in places]
        write_labels(workspace.annotations(name) / f"{case.id}.nii.gz", labels, volume.geometry)
    add_source(
        workspace, name, workspace.annotations(name), print, simulated=True, note=f"{len(truth)} errors planted in {source}"
    )
    write_json(workspace.annotations(name) / "truth.json", {"source": source, "seed": seed, "planted": truth})
    print(f"{len(truth)} errors planted; next: cas_plan_and_preprocess, then cas_train ARCH FOLD --gt {name} for each fold")


def dice_ranking(workspace: Workspace, name: str, trained_on: str, filters: dict[str, Any]) -> list[Slice]:
    """The simple way: slices by 1 - mean Dice of label and prediction over the structures that either has."""
    pool = collect(workspace, trained_on or name, lambda _: None, **filters)
    dataset = load_dataset(workspace.dataset)
    cases = [case for case in pool.scored if name in case.labels]

    def work(case: Case) -> list[tuple[float, int]]:
        labels = load_labels(workspace, dataset, case, name).array
        total = summed_probabilities(judges(pool, case), case, (labels.shape[1], labels.shape[2]))
        counts = joint_counts(likeliest(total).numpy(), labels, len(dataset.classes))
        scored = []
        for index, table in enumerate(counts):
            present = [dice_of_sizes(*parts) for v in range(1, len(table)) if sum(parts := sizes(table[None], v))]
            scored += [(float(np.mean(present)), index)] if present else []
        return scored

    found = over_cases(work, cases, print)
    return [(case, index) for _, case, index in sorted((dice, case, i) for case, rows in found.items() for dice, i in rows)]


def precision(ranking: list[Slice], truth: dict[Slice, str], k: int) -> float:
    return sum(place in truth for place in ranking[:k]) / k


def row(name: str, ranking: list[Slice], truth: dict[Slice, str]) -> str:
    """Precision at 10, 20 and n, recall at 2 n, and recall at n of each kind; n is the number planted."""
    n = len(truth)
    cells = [f"{precision(ranking, truth, k):.2f}" for k in (10, 20, n)]
    cells.append(f"{len(set(ranking[: 2 * n]) & set(truth)) / n:.2f}")
    for kind in KINDS:
        own = {place for place, planted in truth.items() if planted == kind}
        cells.append(f"{len(own & set(ranking[:n]))} of {len(own)}")
    return "| " + " | ".join([name, *cells]) + " |"


def score(
    workspace: Workspace, name: str, trained_on: str, filters: dict[str, Any], say: Callable[[str], None]
) -> list[str]:
    """Rows of the table for networks trained on ``trained_on`` (default: the planted source itself)."""
    record = json.loads((workspace.annotations(name) / "truth.json").read_text())
    every = {(entry["case"], entry["slice"]): str(entry["kind"]) for entry in record["planted"]}
    started = time.perf_counter()
    suspects = find_suspects(workspace, load_dataset(workspace.dataset), name, say, **filters, trained_on=trained_on)
    seconds = time.perf_counter() - started
    cases = {suspect.case_id for suspect in suspects}
    truth = {place: kind for place, kind in every.items() if place[0] in cases}
    ranking = [(suspect.case_id, suspect.slice) for suspect in suspects]
    architectures = sorted({run.key.architecture for suspect in suspects for run in suspect.runs})
    networks = f"{' + '.join(architectures)} trained on {'clean labels' if trained_on else 'these labels'}"
    if "frame" in truth.values():
        wrong, order = {case for case, _ in truth}, [case.case_id for case in rank_cases(suspects)]
        cells = [f"{sum(case in wrong for case in order[:k]) / k:.2f}" for k in (5, 10, len(wrong))]
        return [f"| {name}; {networks}: cases | {' | '.join(cells)} | | | | |"]
    named = [(s.kind, truth[s.case_id, s.slice]) for s in suspects[: len(truth)] if (s.case_id, s.slice) in truth]
    right = sum(found == {"missed": "missing"}.get(planted, planted) for found, planted in named)
    say(f"{len(suspects)} slices of {len(cases)} cases in {seconds:.1f} s")
    say(f"{right} of the {len(named)} errors found among the first {len(truth)} slices are named rightly")
    for place in [place for place in ranking[: len(truth)] if place not in truth]:
        suspect = suspects[ranking.index(place)]
        say(f"  not planted: rank {ranking.index(place) + 1}, {place[0]} slice {suspect.number}: {suspect.words}")
    chance = len(truth) / len(ranking)
    return [
        row(f"{name}; {networks}: suspects", ranking, truth),
        row(f"{name}; {networks}: 1 − Dice", dice_ranking(workspace, name, trained_on, filters), truth),
        f"| chance | {chance:.2f} | {chance:.2f} | {chance:.2f} | {2 * chance:.2f} | | | |",
    ]


def write_table(rows: list[str]) -> None:
    """Add rows to the table, in place of earlier ones of the same name."""
    head = [
        "# Suspects: planted label errors found\n",
        "`python benchmarks/suspects.py -w WORKSPACE --prepare`, then `--score` (see there): ACDC, expert labels with one",
        "planted error each in 40 cases of 40 patients, a third of each kind: missed (RV, LV and MYO, or all not drawn on a",
        "slice), swapped (LV with RV or MYO), slipped (RV, LV and MYO, or all 6-10 mm off). n is the number planted;",
        "planted1 and planted2 are other drawings of errors. Every case is judged by networks that did not train on its",
        "patient. 1 − Dice ranks slices by its mean over structures. frames: 12 cases with the label of the patient's other",
        "frame (`--prepare --frames 12 --name frames`), in the ranking of cases; its precisions are at 5, 10 and 12.\n",
        "| ranking | precision at 10 | at 20 | at n | recall at 2 n | missed found at n | swapped | slipped |",
        "|---|---|---|---|---|---|---|---|",
    ]
    old = TABLE.read_text().splitlines() if TABLE.is_file() else []
    kept = {line.split("|")[1]: line for line in old if line.startswith("| ") and not line.startswith("| ranking")}
    kept |= {line.split("|")[1]: line for line in rows}
    notes = old[max(i for i, line in enumerate(old) if line.startswith("|")) + 1 :] if kept and old else []
    TABLE.write_text("\n".join([*head, *kept.values(), *notes]) + "\n")
    print("\n".join([*head[-2:], *kept.values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-w", "--workspace", type=Path, required=True)
    parser.add_argument("--prepare", action="store_true", help="make the source with planted errors")
    parser.add_argument("--score", action="store_true", help="find them, and add rows to the table")
    parser.add_argument("--name", default="planted", help="name of the source with planted errors")
    parser.add_argument("--gt", default="expert", help="source to plant errors in")
    parser.add_argument("--cases", type=int, default=40, help="cases, of as many patients, with an error")
    parser.add_argument("--frames", type=int, default=0, help="instead: cases that get the label of the other frame")
    parser.add_argument("--planting-seed", type=int, default=0)
    parser.add_argument(
        "--trained-on", default="", metavar="SOURCE", help="source the networks were trained on; without: --name"
    )
    parser.add_argument("--arch", nargs="+", default=[])
    parser.add_argument("--seed", nargs="+", type=int, default=[], help="only runs of these seeds")
    values = parser.parse_args()
    workspace = Workspace(values.workspace.resolve())
    if values.prepare:
        prepare(
            workspace,
            values.name,
            values.gt,
            values.frames or values.cases,
            values.planting_seed,
            values.frames > 0,
        )
    if values.score:
        filters = {"architectures": values.arch, "seeds": values.seed}
        write_table(score(workspace, values.name, values.trained_on, filters, print))


if __name__ == "__main__":
    main()
