"""End-diastole (ED) and end-systole (ES) found from LV volume curves whose frames are known; writes results/ed_es.md.

    python benchmarks/ed_es.py [--cine FOLDER --model BUNDLE --fold N]

200 synthetic cines of 20 to 30 frames, with the volumes of their true labels: as they are, with errors of segmentation, with
noise, and with one frame far off; in each case also started anywhere in the cycle, run backwards, with several beats, and
without the end of the cycle. ``--cine`` adds a patient in ACDC's layout with a 4D image, against its ``Info.cfg``, segmented
by the networks of the bundle that were validated on fold N, hence have not seen this patient.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cardiac_autoseg.evaluation.curve import volume_curve
from cardiac_autoseg.phantom import GROUPS, random_acquisition, random_subject, voxelise

RESULT = Path(__file__).parent / "results" / "ed_es.md"
CINES, SEED, LV = 200, 5000, 3
CONTOUR_MM, MISSED = 0.25, 0.02
Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Cine:
    """``areas`` (T, Z) mm² of the LV, ``step`` mm between slices, known frames ``ed`` and ``es`` modulo ``period``."""

    group: str
    areas: Array
    step: float
    ed: int
    es: int
    period: int

    @property
    def volumes(self) -> Array:
        return self.areas.sum(axis=1) * self.step / 1000

    def frames(self, order: Array) -> Cine:
        """These frames in this order: the known frames are where ``order`` has them."""
        ends = [int(np.flatnonzero(order == frame)[0]) for frame in (self.ed, self.es)]
        return dataclasses.replace(self, areas=self.areas[order], ed=ends[0], es=ends[1])


def phantom(number: int) -> Cine:
    anatomy = random_subject(GROUPS[number % len(GROUPS)], SEED + number)
    scan = random_acquisition(anatomy, SEED + number)
    labels = (voxelise(anatomy, scan, float(contraction)) for contraction in scan.contractions())
    pixel = scan.spacing[1] * scan.spacing[2]
    areas = np.array([np.count_nonzero(frame == LV, axis=(1, 2)) * pixel for frame in labels])
    return Cine(anatomy.group, areas, scan.spacing[0], scan.ed_frame, scan.es_frame, scan.frames)


def as_is(cine: Cine, _: np.random.Generator) -> Cine:
    return cine


def shifted(cine: Cine, rng: np.random.Generator) -> Cine:
    return cine.frames(np.roll(np.arange(cine.period), rng.integers(cine.period)))


def backwards(cine: Cine, _: np.random.Generator) -> Cine:
    return cine.frames(np.arange(cine.period)[::-1])


def beats(cine: Cine, rng: np.random.Generator) -> Cine:
    start, count = rng.integers(cine.period), rng.integers(2 * cine.period, round(3.5 * cine.period))
    return cine.frames((start + np.arange(count)) % cine.period)


def cut(cine: Cine, rng: np.random.Generator) -> Cine:
    count = round(cine.period * rng.uniform(0.65, 0.9))
    return dataclasses.replace(cine.frames((cine.ed + np.arange(count)) % cine.period), period=10**6)


def clean(cine: Cine, _: np.random.Generator) -> Array:
    return cine.volumes


def segmented(cine: Cine, rng: np.random.Generator) -> Array:
    """Every contour of every slice too wide or narrow by a draw of its own; now and then the basal slice is missed."""
    outline = 2 * np.sqrt(np.pi * cine.areas)
    areas = np.maximum(cine.areas + outline * rng.normal(0, CONTOUR_MM, cine.areas.shape), 0)
    for frame in np.flatnonzero(rng.random(len(areas)) < MISSED):
        areas[frame, np.flatnonzero(cine.areas[frame])[0]] = 0
    return areas.sum(axis=1) * cine.step / 1000


def noise(part: float) -> Callable[[Cine, np.random.Generator], Array]:
    """Noise of this part of the EDV on every frame."""
    return lambda cine, rng: cine.volumes + rng.normal(0, part * cine.volumes.max(), len(cine.areas))


def outlier(cine: Cine, rng: np.random.Generator) -> Array:
    volumes = cine.volumes.copy()
    volumes[rng.integers(len(volumes))] *= rng.choice([0.0, 0.7, 1.3])
    return volumes


ORDERS = {
    "as they are": as_is,
    "started anywhere in the cycle": shifted,
    "run backwards": backwards,
    "2 to 3.5 beats": beats,
    "last 10 to 35 % of the cycle missing": cut,
}
ERRORS = {
    "true labels": clean,
    "segmentation errors": segmented,
    "one frame off": outlier,
    "noise 1 % of EDV": noise(0.01),
    "noise 2 % of EDV": noise(0.02),
    "noise 5 % of EDV": noise(0.05),
}


def frame_error(found: int, true: int, period: int) -> int:
    return (found - true + period // 2) % period - period // 2


def table(cines: list[Cine]) -> list[str]:
    lines = [
        "| frames | volumes | ED within 1 | ES within 1 | both | both, EF ≥ 40 % | ED error | ES error |",
        "|---" * 8 + "|",
    ]
    for order, arrange in ORDERS.items():
        for error, measure in ERRORS.items():
            rng = np.random.default_rng(1)
            rows = []
            for cine in cines:
                arranged = arrange(cine, rng)
                found_in = volume_curve(measure(arranged, rng))
                ends = ((found_in.ed, arranged.ed), (found_in.es, arranged.es))
                rows.append([frame_error(found, true, arranged.period) for found, true in ends])
            errors = np.array(rows)
            good = np.abs(errors) <= 1
            normal = np.array([np.ptp(cine.volumes) >= 0.4 * cine.volumes.max() for cine in cines])
            shares = [good[:, 0], good[:, 1], good.all(axis=1), good.all(axis=1)[normal]]
            cells = [f"{100 * share.mean():.1f} %" for share in shares] + [spread(errors[:, i]) for i in (0, 1)]
            lines.append(f"| {order} | {error} | " + " | ".join(cells) + " |")
    return lines


def spread(errors: Array) -> str:
    """How many cines have which error, in frames."""
    counts = Counter(int(np.clip(error, -3, 3)) for error in errors)
    names = {-3: "≤ −3", 3: "≥ 3"}
    return ", ".join(f"{names.get(error, f'{error:+d}' if error else '0')}: {counts[error]}" for error in sorted(counts))


def unseen_model(bundle: Path, fold: str | None) -> Any:
    """The networks of the bundle that were validated on this fold; None: all of them."""
    from cardiac_autoseg.inference.model import Model, _groups, load_model

    model = load_model(bundle)
    if fold is None:
        return model
    networks = [network for group in model.groups for network in group.networks]
    pairs = [pair for pair in zip(model.bundle.members, networks, strict=True) if pair[0].fold == fold]
    chosen = dataclasses.replace(model.bundle, members=tuple(member for member, _ in pairs))
    return Model(chosen, _groups(chosen, [network for _, network in pairs]), model.flips, model.views, model.device)


def info(folder: Path) -> dict[str, str]:
    """What an ACDC patient's Info.cfg says."""
    return dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines() if ": " in line)


def patient(folder: Path, bundle: Path, fold: str | None) -> list[str]:
    """A real cine against its Info.cfg (frames from 1)."""
    from cardiac_autoseg.data.volume import read_cine
    from cardiac_autoseg.inference.temporal import temporal_consistency

    model = unseen_model(bundle, fold)
    volume = read_cine(folder / f"{folder.name}_4d.nii.gz")
    labels = model(volume.array, volume.geometry.spacing_zyx)
    voxel = float(np.prod(volume.geometry.spacing_zyx)) / 1000
    volumes = {
        name: np.count_nonzero(labels == value, axis=(1, 2, 3)) * voxel for name, value in model.labels.items() if value
    }
    curve = volume_curve(volumes["LV"])
    ed, es, notes = curve.ed, curve.es, curve.notes
    rough = temporal_consistency(volumes).roughness
    known, members = info(folder), len(model.bundle.members)
    return [
        f"A patient's cine of {len(labels)} frames, segmented by {members} network(s) that have not seen it; frames from 1:",
        "",
        "| | found | `Info.cfg` |",
        "|---|---|---|",
        f"| ED | {ed + 1} | {known['ED']} |",
        f"| ES | {es + 1} | {known['ES']} |",
        "",
        f"LV volumes (mL): {', '.join(f'{value:.1f}' for value in volumes['LV'])}. Noise from frame to frame:"
        f" {rough['LV']:.1f} % of the EDV. Notes: {'; '.join(notes)}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cine", type=Path, metavar="FOLDER", help="an ACDC patient's folder with a 4D image")
    parser.add_argument("--model", type=Path, metavar="BUNDLE", help="networks for it")
    parser.add_argument("--fold", help="use the networks of this fold only")
    values = parser.parse_args()
    cines = [phantom(number) for number in range(CINES)]
    fractions = [100 * np.ptp(cine.volumes) / cine.volumes.max() for cine in cines]
    flat = sum(fraction < 40 for fraction in fractions)
    lines = [
        "# End-diastole and end-systole",
        "",
        f"`python benchmarks/ed_es.py`: {CINES} synthetic cines of 20 to 30 frames, EF {min(fractions):.0f} to"
        f" {max(fractions):.0f} % ({flat} of them below 40 %), against the frames of their largest and smallest volume.",
        "",
        f"Segmentation errors: each contour off by {CONTOUR_MM} mm (SD), drawn for each slice and frame, and in"
        f" {100 * MISSED:.0f} % of the frames the basal slice missed. One frame off: 30 % too large, too small, or empty."
        " With several beats any of them counts. Errors in frames; the last two columns count cines.",
        "",
        *table(cines),
    ]
    if values.cine:
        lines += ["", "## A real cine", "", *patient(values.cine, values.model, values.fold)]
    RESULT.write_text("\n".join(lines) + "\n")
    print(RESULT.read_text())


if __name__ == "__main__":
    main()
