"""The data of a run that a report needs: log, speed and settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.progress import track
from asr_emapl.report.seed import with_seed
from asr_emapl.report.usage import Usage, usage_of
from asr_emapl.runs.curves import Curve, curves_of
from asr_emapl.runs.reader import (
    STARTS,
    read_label_samples,
    read_log,
    read_run_config,
    read_speed,
    read_starts,
)

_BINS = 160  # maximum number of points per curve; small charts cannot resolve more


@dataclass(frozen=True)
class Run:
    """Contents of a run directory.

    Attributes:
        label: name of the run.
        folder: the run directory.
        steps: the records of optimizer steps in log.jsonl.
        labels: its records of the statistics of pseudo-labels.
        alarms: its records of collapsed labels.
        label_samples: the records of label_samples.jsonl.
        wer: "model/split" -> WER in percent at each validation.
        wer_from_seed: the same, after the WER of the checkpoint that the run starts from.
        speed: curve of throughput (hours of audio per hour) over hours of audio.
        usage: breakdown of the run time, or None if not measured.
        starts: the records of starts.jsonl.
        config: the settings as resolved, None where the directory has no config.yaml.
    """

    label: str
    folder: Path
    steps: list[dict[str, Any]] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    label_samples: list[dict[str, Any]] = field(default_factory=list)
    wer: dict[str, Curve] = field(default_factory=dict)
    wer_from_seed: dict[str, Curve] = field(default_factory=dict)
    speed: Curve = field(default_factory=list)
    usage: Usage | None = None
    config: dict[str, Any] | None = None
    starts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """Hours of audio consumed."""
        ends = [step["hours"] for step in self.steps[-1:]]
        return max(ends + [curve[-1][0] for curve in self.wer.values()], default=0.0)

    def curve(self, value: Callable[[dict[str, Any]], float | None], kind: str | None = None) -> Curve:
        """A value over the run's steps, all or those of one kind, as means over bins of audio.

        Steps for which `value` is None or not finite are left out.
        """
        points: Curve = []
        for step in self.steps:
            if kind is None or step["kind"] == kind:
                found = value(step)
                if found is not None and math.isfinite(found):
                    points.append((step["hours"], found))
        return _binned(points)

    def dropped(self) -> tuple[int, Counter[str]]:
        """Return the number of pseudo-labels used for training, and the number dropped by reason."""
        steps = [step for step in self.steps if step["kind"] == "unlabelled"]
        reasons = sum((Counter(step.get("dropped", {})) for step in steps), Counter[str]())
        return sum(step["utterances"] for step in steps), reasons

    def label_hours(self) -> Counter[str]:
        """Return the hours of audio of pseudo-labels, kept and dropped by reason; empty: unknown."""
        hours = Counter[str]()
        for record in self.labels:
            hours.update(record.get("audio_hours", {}))
        return hours


def wer_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table with the last WER of each run and, if lower, its best WER."""
    names = sorted(
        dict.fromkeys(name for run in runs for name in run.wer), key=lambda n: n.partition("/")[::-1]
    )

    def cell(curve: Curve) -> str:
        rates = [rate for _, rate in curve]
        if not rates:
            return "-"
        return f"{rates[-1]:.2f}" + (f" (best {min(rates):.2f})" if min(rates) < rates[-1] else "")

    head = ["WER %", *(" ".join(name.split("/", 1)[::-1]) for name in names)]
    return head, [[run.label, *(cell(run.wer.get(name, [])) for name in names)] for run in runs]


def read_runs(runs: Sequence[tuple[str, Path]]) -> list[Run]:
    """Read runs, given as (label, run directory).

    Raises:
        UserError: there are no runs, two runs have the same label, or a log or config is missing or invalid.
    """
    if not runs:
        raise UserError("there are no runs to report on: name run directories")
    for label, count in Counter(label for label, _ in runs).items():
        if count > 1:
            raise UserError(f"{count} runs are called {label!r}: name them with LABEL=DIRECTORY")
    read = (_read_run(label, folder) for label, folder in runs)
    return list(track(read, "reading runs", len(runs), "runs"))


def _read_run(label: str, folder: Path) -> Run:
    records = read_log(folder / "log.jsonl")
    wer = curves_of(records)
    steps = [record for record in records if record.get("event") == "step"]
    timed = read_speed(folder / "speed.jsonl") if (folder / "speed.jsonl").exists() else []
    # The file also contains other timings.
    speed = [(r["hours"], 3600.0 * r["hours_per_second"]) for r in timed if "hours_per_second" in r]
    labels = [record for record in records if record.get("event") == "labels"]
    starts = read_starts(folder / STARTS) if (folder / STARTS).exists() else []
    config = read_run_config(folder)
    usage = usage_of(records, timed)
    if usage is not None:
        usage = replace(usage, cores_are_used=_uses_all_cores(usage, config, starts))
    return Run(
        label,
        folder,
        steps,
        labels,
        [record for record in records if record.get("event") == "alarm"],
        read_label_samples(folder),
        wer,
        with_seed(wer, folder, config),
        speed,
        usage,
        config,
        starts,
    )


def _uses_all_cores(usage: Usage, config: dict[str, Any] | None, starts: list[dict[str, Any]]) -> bool:
    """Whether another decoding process would have no core of its own; False if it is not known."""
    cores = starts[-1].get("cores") if starts else None
    data = (config or {}).get("data")
    workers = data.get("workers") if isinstance(data, dict) else None
    if not isinstance(cores, int) or not isinstance(workers, int):
        return False
    return usage.processes * (1 + workers) >= cores


def _binned(points: Curve) -> Curve:
    """Return the points, averaged in bins of equal width if there are too many."""
    if len(points) <= _BINS:
        return points
    first, last = points[0][0], points[-1][0]
    width = (last - first) / _BINS or 1.0
    bins: dict[int, Curve] = {}
    for hours, value in points:
        bins.setdefault(min(int((hours - first) / width), _BINS - 1), []).append((hours, value))
    return [
        (sum(hours for hours, _ in held) / len(held), sum(value for _, value in held) / len(held))
        for _, held in sorted(bins.items())
    ]
