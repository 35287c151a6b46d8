"""Run directories with artificial logs, for tests of their readers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STEP: dict[str, Any] = {
    "event": "step",
    "kind": "labelled",
    "loss": 2.0,
    "gradient_norm": 1.5,
    "utterances": 4,
    "tokens": 20,
    "taken": True,
    "lr": 0.001,
    "rho": 0.99,
    "kappa": 2.0,
    "half_life_hours": 0.25,
}
UNLABELLED: dict[str, Any] = {
    **STEP,
    "kind": "unlabelled",
    "utterances": 3,
    "dropped": {"empty": 1},
    "confidence": 0.9,
    "nonempty": 0.75,
}
# Hyper-parameters of a later step.
LATER: dict[str, Any] = {"lr": 0.002, "rho": 0.98, "kappa": 2.5, "half_life_hours": 0.5}
CONFIG = (
    "hours: 2.0\nbatch: {seconds: 24, reference_seconds: 12}\noptimizer: {lr: 0.001}\nteacher: {rho: 0.99}\n"
)


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write records as JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(
    folder: Path, wer: list[float], splits: tuple[str, ...] = ("dev",), *, config: str = CONFIG
) -> Path:
    """A run with two steps (the second unlabelled) and one validation per hour; the student is worse."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for hour, rate in enumerate(wer, start=1):
        lines.append({**STEP, "step": 2 * hour - 1, "hours": hour - 0.5})
        lines.append({**UNLABELLED, **LATER, "step": 2 * hour, "hours": float(hour)})
        rates = {f"{model}/{split}": rate + (model == "student") for split in splits for model in MODELS}
        lines.append({"event": "validation", "step": 2 * hour, "hours": float(hour), "wer": rates})
    write_lines(folder / "log.jsonl", lines)
    speeds = [{"step": 2 * h, "hours": float(h), "hours_per_second": 0.02} for h in range(1, len(wer) + 1)]
    write_lines(folder / "speed.jsonl", [*speeds, {"event": "checkpoint", "bytes": 5}])
    if config:
        (folder / "config.yaml").write_text(config)
    return folder


MODELS = ("student", "teacher")


SPLITS = ("dev-clean", "dev-other")


def write_validated_run(
    folder: Path,
    rates: list[float],
    models: Sequence[str] = ("student", "teacher"),
    splits: Sequence[str] = SPLITS,
) -> Path:
    """A run that validated once an hour; the second split is 10 worse, the student 1 worse."""
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"event": "start", "hours": 0.0}]
    for step, rate in enumerate(rates, start=1):
        lines.append(
            {"event": "step", "step": step, "hours": step - 0.5, "kind": "labelled", "loss": 1.0}
            | {"utterances": 4, "tokens": 20}
        )
        wer = {f"{m}/{s}": rate + 10.0 * splits.index(s) + (m == "student") for s in splits for m in models}
        lines.append({"event": "validation", "step": step, "hours": float(step), "wer": wer})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
