"""How far a run lies from those at the reference batch, and these from one another, in WER over audio."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from asr_emapl.scoring.curves import read_curves

REFERENCE = "reference"


@dataclass(frozen=True)
class Comparison:
    """Of one split, teacher's WER in points: largest and last distance from the references' mean."""

    run: str
    split: str
    last_wer: float
    largest: float
    last: float


def teacher_curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Split -> [(hours, WER in %)] of the teacher."""
    return {
        name.partition("/")[2]: curve
        for name, curve in read_curves(run).items()
        if name.startswith("teacher/")
    }


def at(curve: Sequence[tuple[float, float]], hours: Sequence[float]) -> np.ndarray:
    """WER at these hours, between measurements by straight lines: steps of another batch end elsewhere."""
    times, rates = zip(*curve, strict=True)
    return np.interp(hours, times, rates)


def mean_curve(references: Sequence[Path], split: str) -> list[tuple[float, float]]:
    """The mean of several runs at the times of the first."""
    curves = [teacher_curves(run)[split] for run in references]
    hours = [h for h, _ in curves[0]]
    rates = np.mean([at(curve, hours) for curve in curves], axis=0)
    return list(zip(hours, rates.tolist(), strict=True))


def compare(name: str, run: Path, references: Sequence[Path]) -> list[Comparison]:
    """The run against the mean of the references, on every split."""
    found = []
    for split, curve in teacher_curves(run).items():
        mean = mean_curve(references, split)
        hours = [h for h, _ in mean]
        apart = np.abs(at(curve, hours) - [rate for _, rate in mean])
        found.append(Comparison(name, split, curve[-1][1], float(apart.max()), float(apart[-1])))
    return found


def spread(references: Sequence[Path]) -> list[Comparison]:
    """Each reference against the mean of the *others*, as any run is: its own share would draw it nearer."""
    found = []
    for i, run in enumerate(references):
        found += compare(run.name, run, [other for j, other in enumerate(references) if j != i])
    return found


def print_tables(runs: Sequence[Comparison], seeds: Sequence[Comparison]) -> None:
    """As Markdown, and everything as distances.json."""
    splits = list(dict.fromkeys(c.split for c in runs))
    print("\n| run | " + " | ".join(f"{s} WER % | largest distance | last distance" for s in splits) + " |")
    print("|---" * (1 + 3 * len(splits)) + "|")
    for name in dict.fromkeys(c.run for c in (*seeds, *runs)):
        cells = [
            f"{c.last_wer:.1f} | {c.largest:.1f} | {c.last:.1f}" for c in (*seeds, *runs) if c.run == name
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for system in dict.fromkeys(c.run.partition("-")[0] for c in seeds):
        for split in splits:
            mine = [c.largest for c in seeds if c.split == split and c.run.startswith(system)]
            print(f"\n{system}, {split}: seeds at kappa 1 leave each other by {statistics.mean(mine):.1f}")
    Path("distances.json").write_text(json.dumps([asdict(c) for c in (*seeds, *runs)], indent=1) + "\n")
