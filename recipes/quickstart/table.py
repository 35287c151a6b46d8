"""Print the quickstart's table: WER of each system, mean and spread over folders of runs (one per seed).

python recipes/quickstart/table.py exp/quickstart/runs/seed-*
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from asr_emapl.scoring.score_table import cell, read_rates

SYSTEMS = {
    "seed": "seed (supervised, start of pseudo-labelling)",
    "baseline": "supervised baseline",
    "ema": "EMA pseudo-labels",
    "oracle": "oracle (reference transcripts)",
}
PARTS = ("dev-clean", "dev-other")


def rates(folders: Sequence[Path], system: str, model: str, part: str) -> list[float]:
    """WER in percent for each folder that has the system."""
    found = [folder / system for folder in folders if (folder / system / f"{part}.{model}.json").exists()]
    return [read_rates(folder)[part, model] for folder in found]


def verdict(folders: Sequence[Path], part: str) -> str:
    """The gain from pseudo-labels on one part, between the teachers of the two runs."""
    mean = {
        s: statistics.mean(values) if (values := rates(folders, s, "teacher", part)) else None
        for s in SYSTEMS
    }
    baseline, ema, oracle = mean["baseline"], mean["ema"], mean["oracle"]
    if baseline is None or ema is None:
        return f"{part}: not trained yet"
    text = f"{part}: {100 * (baseline - ema) / baseline:.0f} % fewer word errors than the supervised baseline"
    if oracle is not None and not oracle < baseline:
        text += ", no gap to the oracle"
    elif oracle is not None:
        text += f", {100 * (baseline - ema) / (baseline - oracle):.0f} % of the gap to the oracle"
    return text


def main(folders: Sequence[Path]) -> None:
    """Print the table as Markdown, aligned for a terminal."""
    columns = [(model, part) for part in PARTS for model in ("student", "teacher")]
    print(f"\n| {'WER %':46} | " + " | ".join(f"{part} {model}" for model, part in columns) + " |")
    print("|" + "---|" * (len(columns) + 1))
    for system, name in SYSTEMS.items():
        cells = [cell(rates(folders, system, model, part)) for model, part in columns]
        if any(c != "-" for c in cells):
            print(f"| {name:46} | " + " | ".join(f"{c:>17}" for c in cells) + " |")
    print()
    for part in PARTS:
        print(verdict(folders, part))
    if len(folders) > 1:
        print(f"mean over {len(folders)} seeds, +- half the range")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
