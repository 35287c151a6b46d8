"""WER over hours of audio consumed, from the log of a run. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.runs.reader import LOG, read_log
from asr_emapl.storage import number

Curve = list[tuple[float, float]]
"""(hours of audio consumed, WER in percent), in the order of the log."""


def read_curves(run: Path) -> dict[str, Curve]:
    """Read the validation results of a run, which may still be in progress.

    Returns:
        "model/split" (such as "teacher/dev-clean") -> curve.

    Raises:
        UserError: the run directory has no log.jsonl, a line is invalid, or there are no validation results.
    """
    path = run / LOG
    curves = curves_of(read_log(path))
    if not curves:
        raise UserError(
            f"{path}: no validation results yet; set data.validation and wait for the first validation "
            "(validation.every_hours)"
        )
    return curves


def curves_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """Return the validation results in records of `read_log`, as `read_curves` does; may be empty."""
    curves: dict[str, Curve] = {}
    for record in records:
        if record.get("event") == "validation":
            for name, rate in record["wer"].items():
                curves.setdefault(name, []).append((float(record["hours"]), number(rate) or 0.0))
    return curves
