"""Settings of runs side by side, and the hyper-parameters that result from the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from asr_emapl.errors import UserError
from asr_emapl.report.run import Run

if TYPE_CHECKING:
    from asr_emapl.checks.scale import ScaleRow
    from asr_emapl.config import RunConfig
    from asr_emapl.scaling import StepAudio


@dataclass(frozen=True)
class SettingRow:
    """A key of the config with its value in each run, "" where a run has none."""

    key: str
    values: list[str]

    @property
    def differs(self) -> bool:
        """Whether the value differs between runs."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Scaled:
    """Hyper-parameters scaled to the batch of a run, or a note explaining why they are unknown."""

    run: Run
    rows: list[ScaleRow]
    warnings: list[str]
    note: str = ""


def settings(runs: Sequence[Run]) -> list[SettingRow]:
    """Return every key set in any run, in config order; empty if no run has a config.yaml."""
    flat = [dict(_flat(run.config or {})) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    return [SettingRow(key, [values.get(key, "") for values in flat]) for key in keys]


def scaled(run: Run) -> Scaled | None:
    """The table of `asr-emapl scale` for the final batch of the run; None without a config."""
    if run.config is None:
        return None
    from asr_emapl.checks.scale import scale_table
    from asr_emapl.config import config_from_dict
    from asr_emapl.planning import build_batches

    try:
        config = config_from_dict(run.config, str(run.folder / "config.yaml"))
        told = [step["kappa"] for step in run.steps[-1:] if "kappa" in step]
        if config.batch.seconds == "auto" or config.batch.growth == "noise":
            if not told:
                return Scaled(run, [], [], "the log does not say which batch the run had")
            # Assumes the same share of padding at both batch sizes.
            seconds = told[0] * config.batch.reference_seconds
        else:
            seconds = build_batches(config, 1).seconds(run.hours)
        # With audio_per_step=actual, the log contains per-step kappas, not the kappa of the run.
        is_of_run = bool(told) and config.optimizer.audio_per_step == "nominal"
        steps = _measured(run, config, seconds) if is_of_run else None
        return Scaled(run, *scale_table(config, seconds, steps))
    except UserError as error:
        return Scaled(run, [], [], str(error))


def _measured(run: Run, config: RunConfig, seconds: float) -> StepAudio | None:
    """Return the logged kappa and the mean audio of the last steps with it; None for a single step."""
    from asr_emapl.scaling import BatchSchedule, StepAudio

    kappa = run.steps[-1]["kappa"]
    last = [step["hours"] for step in takewhile(lambda step: step.get("kappa") == kappa, reversed(run.steps))]
    if len(last) < 2 or not last[0] > last[-1]:
        return None
    audio = 3600.0 * (last[0] - last[-1]) / (len(last) - 1)
    reference = float(config.batch.reference_seconds)
    return StepAudio(BatchSchedule(seconds), reference, {seconds: audio, reference: audio / kappa})


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text); lists are values."""
    if isinstance(value, dict) and value:
        for key, held in value.items():
            yield from _flat(held, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None or value == {} else str(value)
