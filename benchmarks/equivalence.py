"""How often are the verdicts of cas_compare wrong, and is their power as printed? Simulation; writes results/equivalence.md.

python benchmarks/equivalence.py        about a minute on one core
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

from cardiac_autoseg.comparison.paired import seed_spread
from cardiac_autoseg.comparison.statistics import (
    ALPHA,
    Floats,
    equivalence_p,
    equivalence_power,
    holm,
    tost_power,
)

RESULT = Path(__file__).parent / "results" / "equivalence.md"
MARGIN = 0.02
SIZES = (10, 20, 50, 100)
STUDIES, CHUNK = 40_000, 1_000
PRINTED = 150  # studies whose printed power is averaged
FAMILIES, ENDPOINTS = 20_000, 15
SEED_STUDIES = 2000

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return rng.normal(size=size)


def heavy(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return rng.standard_t(4, size) / np.sqrt(2)


def dice_like(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    a, b = 1.2, 12.0
    sd = np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
    return (a / (a + b) - rng.beta(a, b, size)) / sd


def exponential(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return 1 - rng.exponential(size=size)


def skewed(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    shape = 4 / 9
    return (shape - rng.gamma(shape, size=size)) / np.sqrt(shape)


def failures(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    values = rng.normal(size=size) - 8 * (rng.random(size) < 0.05)
    return (values + 0.4) / np.sqrt(1 + 64 * 0.05 * 0.95)


# Differences of mean 0 and SD 1.
SHAPES: dict[str, Draw] = {
    "normal": normal,
    "heavy tails (t, 4 degrees of freedom)": heavy,
    "Dice-like (beta), skewness -1.5": dice_like,
    "exponential, skewness -2": exponential,
    "gamma, skewness -3": skewed,
    "a failure of 8 SD in one of 20 patients": failures,
}


def sd_for(n: int, power: float) -> float:
    """The standard deviation with which Student's TOST has this power at difference 0."""
    low, high = 1e-5, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tost_power(n, middle, MARGIN) > power else (low, middle)
    return low


def rate(draw: Draw, n: int, sd: float, difference: float, skewness: bool, rng: np.random.Generator) -> float:
    """Share of simulated studies that find equivalence, through the function behind every verdict."""
    found = 0
    for _ in range(STUDIES // CHUNK):
        samples = difference + sd * draw(rng, (CHUNK, n))
        found += int((equivalence_p(samples, MARGIN, skewness) < ALPHA).sum())
    return found / STUDIES


def false_equivalence(rng: np.random.Generator) -> list[str]:
    lines = [
        "## False verdicts of equivalence",
        "",
        'True mean difference exactly at the margin, so every verdict "equivalent" is false; at most 5 % may be.',
        f"{STUDIES:,} studies each (standard error 0.1 points). Upper and lower: the side of the margin; the worse of two",
        "spreads, those with which Student's TOST has a power of 0.8 and of 0.99. Of the last kind, 36 % of the samples of",
        "20 patients hold no failure: what did not happen in the sample cannot be judged from it.",
        "",
        "| paired differences | n | Student's TOST: upper | lower | used (with Hall's correction): upper | lower |",
        "|---|---|---|---|---|---|",
    ]
    for name, draw in SHAPES.items():
        for n in SIZES:
            cells = []
            for skewness in (False, True):
                for side in (MARGIN, -MARGIN):
                    cells.append(max(rate(draw, n, sd_for(n, power), side, skewness, rng) for power in (0.8, 0.99)))
            lines.append(f"| {name} | {n} | " + " | ".join(f"{100 * cell:.1f} %" for cell in cells) + " |")
    return lines


def power(rng: np.random.Generator) -> list[str]:
    lines = [
        "",
        "## Power",
        "",
        "True mean difference 0, spread so that Student's TOST has a power of 0.8 with normal differences. Reached:",
        f"share of {STUDIES:,} studies. Formula: `tost_power` with the true spread. Printed: what `compare_pairs` prints,",
        f"which knows its sample only, mean and SD over {PRINTED} studies.",
        "",
        "| paired differences | n | Student's TOST: formula | reached | used: printed | reached |",
        "|---|---|---|---|---|---|",
    ]
    for name, draw in SHAPES.items():
        for n in SIZES:
            sd = sd_for(n, 0.8)
            printed = [equivalence_power(sd * draw(rng, (n,)), MARGIN, resamples=1000) for _ in range(PRINTED)]
            cells = (
                f"{tost_power(n, sd, MARGIN):.3f}",
                f"{rate(draw, n, sd, 0.0, False, rng):.3f}",
                f"{np.mean(printed):.2f} ± {np.std(printed):.2f}",
                f"{rate(draw, n, sd, 0.0, True, rng):.3f}",
            )
            lines.append(f"| {name} | {n} | " + " | ".join(cells) + " |")
    return lines


def false_difference(rng: np.random.Generator) -> list[str]:
    lines = [
        "",
        "## False verdicts of difference",
        "",
        f"No difference in any of {ENDPOINTS} endpoints (two networks with equal, skewed errors), correlated or not within",
        f'a patient; share of {FAMILIES:,} studies with at least one "different" (standard error 0.15 points at 5 %).',
        "",
        "| n | correlation of the endpoints | without correction | with Holm's (used) |",
        "|---|---|---|---|",
    ]
    for n in (10, 20, 100):
        for shared in (0.0, 0.5):
            raw = corrected = 0
            for _ in range(FAMILIES // CHUNK):
                errors = np.sqrt(1 - shared) * rng.exponential(size=(2, CHUNK, ENDPOINTS, n))
                errors += np.sqrt(shared) * rng.exponential(size=(2, CHUNK, 1, n))
                # The function `wilcoxon` of cas_compare calls, for all at once.
                p_values = stats.wilcoxon(errors[0] - errors[1], axis=-1).pvalue
                raw += int((p_values.min(axis=1) < ALPHA).sum())
                corrected += sum(min(filter(None, holm(list(row))), default=1.0) < ALPHA for row in p_values)
            lines.append(f"| {n} | {shared} | {100 * raw / FAMILIES:.1f} % | {100 * corrected / FAMILIES:.1f} % |")
    return lines


def seeds(rng: np.random.Generator) -> list[str]:
    lines = [
        "",
        "## Beyond the seed spread",
        "",
        "Each source trained with some seeds, whose means have a standard deviation of 1; the effect is the difference",
        f"of the sources' means over seeds. Share of {SEED_STUDIES:,} studies that call it beyond the seed spread, by size.",
        "",
        "| seeds | spread from | effect 0 | 3 | 10 | 30 |",
        "|---|---|---|---|---|---|",
    ]
    for count in (2, 3, 5):
        first, second = np.triu_indices(count, 1)
        for sources, words in ((1, "the baseline"), (2, "both sources")):
            shares = []
            for effect in (0.0, 3.0, 10.0, 30.0):
                found = 0
                for _ in range(SEED_STUDIES):
                    means = rng.normal(size=(2, count))
                    pairs = (means[:sources, first] - means[:sources, second]).reshape(-1, 1)
                    spread = seed_spread(pairs, sources)
                    found += spread is not None and abs(effect + means[1].mean() - means[0].mean()) > spread.limit
                shares.append(f"{100 * found / SEED_STUDIES:.1f} %")
            lines.append(f"| {count} | {words} | " + " | ".join(shares) + " |")
    return lines


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    started, rng = time.process_time(), np.random.default_rng(0)
    lines = ["# Verdicts of equivalence and difference", "", "", ""]
    for part in (false_equivalence, power, false_difference, seeds):
        lines += part(rng)
        print(f"{part.__name__}: {time.process_time() - started:.0f} s")
    lines[2] = f"`python benchmarks/equivalence.py`: simulated studies, {time.process_time() - started:.0f} s of one core."
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(RESULT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
