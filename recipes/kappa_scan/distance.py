"""Distances in WER over audio between runs and those at the reference batch, and among the latter."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from asr_emapl.report.curves import Curve, read_curves
from asr_emapl.storage import write

REFERENCE = "reference"


@dataclass(frozen=True)
class Comparison:
    """Distances of one run from the mean curve of the references on one split, in points of teacher WER.

    `largest` is that of any point of the curve, `last` that of its end, and `mean` the signed mean over all
    points: above 0 if the run is worse.
    """

    kind: str
    split: str
    last_wer: float
    largest: float
    last: float
    mean: float


def teacher_curves(run: Path) -> dict[str, Curve]:
    """Split -> [(hours, WER in %)] of the teacher."""
    return {
        name.partition("/")[2]: curve
        for name, curve in read_curves(run).items()
        if name.startswith("teacher/")
    }


def at(curve: Curve, hours: Sequence[float]) -> np.ndarray:
    """WER at these hours, linearly interpolated: steps of another batch end at other hours."""
    times, rates = zip(*curve, strict=True)
    return np.interp(hours, times, rates)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean of several curves at the times of the first."""
    hours = [h for h, _ in curves[0]]
    rates = np.mean([at(curve, hours) for curve in curves], axis=0)
    return list(zip(hours, rates.tolist(), strict=True))


def compare(kind: str, run: Path, references: Sequence[Path]) -> list[Comparison]:
    """Compare the run with the mean of the references on every split."""
    bases = [teacher_curves(reference) for reference in references]
    found = []
    for split, curve in teacher_curves(run).items():
        mean = mean_curve([base[split] for base in bases])
        apart = at(curve, [h for h, _ in mean]) - [rate for _, rate in mean]
        largest, last = float(abs(apart).max()), float(abs(apart[-1]))
        found.append(Comparison(kind, split, curve[-1][1], largest, last, float(apart.mean())))
    return found


def spread(kind: str, references: Sequence[Path]) -> list[Comparison]:
    """Compare each reference with the mean of the *others*; with its own share, it would be too close."""
    found = []
    for i, run in enumerate(references):
        found += compare(kind, run, [other for j, other in enumerate(references) if j != i])
    return found


def print_tables(runs: Sequence[Comparison], seeds: Sequence[Comparison]) -> None:
    """Print one Markdown table per split, one row per kind of runs, and write all runs to distances.json.

    The last column is the mean largest distance divided by that of the seeds of the same system.
    """
    for split in dict.fromkeys(c.split for c in runs):
        print(f"\n{split}, teacher\n")
        print("| run | runs | WER at the end % | largest distance | last | mean, signed | largest / seeds' |")
        print("|---" * 7 + "|")
        mine = [c for c in (*seeds, *runs) if c.split == split]
        for kind in dict.fromkeys(c.kind for c in mine):
            same = [c for c in mine if c.kind == kind]
            system = kind.partition("-")[0]
            usual = statistics.mean(
                c.largest for c in seeds if c.split == split and c.kind.startswith(system)
            )
            cells = [_several([getattr(c, name) for c in same]) for name in ("last_wer", "largest", "last")]
            signed = statistics.mean(c.mean for c in same)
            ratio = statistics.mean(c.largest for c in same) / usual if usual else math.nan
            print(f"| {kind} | {len(same)} | " + " | ".join(cells) + f" | {signed:+.1f} | {ratio:.1f} |")
    write("distances.json", json.dumps([asdict(c) for c in (*seeds, *runs)], indent=1) + "\n")


def _several(values: Sequence[float]) -> str:
    """The mean, and half the range if there are several values."""
    half = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.1f}" + (f" +-{half:.1f}" if len(values) > 1 else "")
