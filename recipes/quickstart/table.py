"""The quickstart's table: WER of each system in each folder of runs (one a seed), mean and spread.

python recipes/quickstart/table.py exp/quickstart/runs/seed-*
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

SYSTEMS = {
    "seed": "seed (supervised, where pseudo-labels begin)",
    "baseline": "supervised baseline",
    "ema": "EMA pseudo-labels",
    "oracle": "oracle (true texts)",
}
PARTS = ("dev-clean", "dev-other")


def rates(folders: Sequence[Path], system: str, model: str, part: str) -> list[float]:
    """WER in percent, one a folder that has the system."""
    files = [folder / system / f"{part}.{model}.json" for folder in folders]
    return [100 * json.loads(f.read_text())["words"]["rate"] for f in files if f.exists()]


def cell(values: Sequence[float]) -> str:
    """Mean, and half the range if there are several."""
    if not values:
        return "-"
    spread = f" +-{(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def verdict(folders: Sequence[Path], part: str) -> str:
    """What pseudo-labels brought on one part, teacher against the baseline's average."""
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
    """Print the table as Markdown, which reads well on a terminal too."""
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
