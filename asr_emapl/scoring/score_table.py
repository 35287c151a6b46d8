"""Build a WER table from files written by `asr-emapl score --json`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_emapl.errors import UserError

_MODELS = ("student", "teacher")


def score_table(systems: Mapping[str, Sequence[Path]]) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of a table with one row per system and one column per split and model.

    Args:
        systems: system name -> folders with <split>.<model>.json. For several folders, such as one per seed,
            the table shows the mean and half the range.

    Raises:
        UserError: see `read_rates`.
    """
    rates = {name: [read_rates(folder) for folder in folders] for name, folders in systems.items()}
    columns = sorted({key for found in rates.values() for one in found for key in one})
    rows = [
        [name, *(cell([one[key] for one in found if key in one]) for key in columns)]
        for name, found in rates.items()
    ]
    return ["WER %", *(f"{split} {model}" for split, model in columns)], rows


def read_rates(folder: Path) -> dict[tuple[str, str], float]:
    """Return the WER in percent by split and model.

    Raises:
        UserError: the folder contains no scores, or a file was not written by `score --json`.
    """
    rates = {}
    for path in sorted(folder.glob("*.json")):
        split, _, model = path.stem.rpartition(".")
        if model not in _MODELS:
            continue
        try:
            rates[split, model] = 100.0 * float(json.loads(path.read_text(encoding="utf-8"))["words"]["rate"])
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise UserError(f"{path}: not written by `asr-emapl score --json`; rerun it") from error
    if not rates:
        raise UserError(f"{folder}: contains no scores (<split>.teacher.json or <split>.student.json)")
    return rates


def cell(values: Sequence[float]) -> str:
    """Format the mean and, for several values, half the range."""
    if not values:
        return "-"
    spread = f" +-{(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"
