"""Differences in WER over audio between runs and those of the same seed at the reference batch."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from asr_emapl.runs.curves import Curve, read_curves
from asr_emapl.scoring.intervals import student_quantile
from asr_emapl.storage import write

REFERENCE = "reference"
_LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """The teachers of the runs of one kind on one split, compared with those at kappa 1 of the same seeds.

    Attributes:
        system, kind: what is trained, and how it is scaled.
        wer: WER in percent at the end, of each seed.
        last: difference of each seed at the end, in points; above 0 if the run is worse.
        mean: the same, as the mean over the curve.
        distance: root mean square of the differences over the curve, mean over seeds. Of the reference:
            between curves of different seeds.
    """

    system: str
    kind: str
    split: str
    wer: list[float]
    last: list[float]
    mean: list[float]
    distance: float


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


def difference(curve: Curve, reference: Curve) -> np.ndarray:
    """The difference in points at the times of the reference."""
    return at(curve, [hours for hours, _ in reference]) - [rate for _, rate in reference]


def compare(system: str, kind: str, runs: Sequence[Path], references: Sequence[Path]) -> list[Row]:
    """Compare the runs of a kind with the references, seed by seed in the same order; one row per split."""
    curves, bases = ([teacher_curves(run) for run in group] for group in (runs, references))
    pairs = list(zip(curves, bases, strict=True))
    if kind == REFERENCE:
        seeds = [(one, other) for one, other in itertools.permutations(bases, 2)]
    rows = []
    for split in bases[0]:
        apart = [difference(curve[split], base[split]) for curve, base in pairs]
        distances = [difference(a[split], b[split]) for a, b in (seeds if kind == REFERENCE else pairs)]
        rows.append(
            Row(
                system,
                kind,
                split,
                wer=[curve[split][-1][1] for curve in curves],
                last=[float(points[-1]) for points in apart],
                mean=[float(points.mean()) for points in apart],
                distance=statistics.mean(float(np.sqrt(np.square(points).mean())) for points in distances),
            )
        )
    return rows


def print_tables(rows: Sequence[Row]) -> None:
    """Print one Markdown table per system and split, and write all rows to distances.json."""
    for system, split in dict.fromkeys((row.system, row.split) for row in rows):
        print(f"\n{system}, {split}, teacher\n")
        print("| run | seeds | WER at the end % | end - kappa 1 | curve - kappa 1 | distance | / full rule |")
        print("|---" * 7 + "|")
        same = {row.kind: row for row in rows if (row.system, row.split) == (system, split)}
        for kind, row in same.items():
            full = same.get(f"full-{kind.partition('-')[2]}")
            ratio = (
                f"{row.distance / full.distance:.1f}" if full and full is not row and full.distance else "-"
            )
            spread = f" +-{statistics.stdev(row.wer):.1f}" if len(row.wer) > 1 else ""
            cells = [kind, str(len(row.wer)), f"{statistics.mean(row.wer):.1f}{spread}"]
            cells += ["-", "-"] if kind == REFERENCE else [interval(row.last), interval(row.mean)]
            print(f"| {' | '.join(cells)} | {row.distance:.1f} | {ratio} |")
    write("distances.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def interval(values: Sequence[float]) -> str:
    """The mean with its 95 % interval (Student's t over seeds); a star if it excludes 0."""
    mean = statistics.mean(values)
    reach = student_quantile(_LEVEL, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    star = "*" if abs(mean) > reach else ""
    return f"{mean:+.1f} ({mean - reach:+.1f} to {mean + reach:+.1f}){star}"
