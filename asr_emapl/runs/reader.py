"""Names and readers of the files in a run directory, even of a running job. Does not import torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.storage import (
    BrokenLineError,
    finite_number,
    number,
    parse_lines,
    parse_object,
    raw_lines,
    read_lines,
)
from asr_emapl.storage.yaml_text import read_yaml

CONFIG, LOG, SPEED, SKIPPED = "config.yaml", "log.jsonl", "speed.jsonl", "skipped.jsonl"
STARTS, CHECKPOINTS, ROLLBACKS = "starts.jsonl", "checkpoints", "rollbacks.jsonl"
LABEL_SAMPLES, FEATURES = "label_samples.jsonl", "features.pt"

PHASES = ("data", "features", "teacher", "student", "communication", "optimizer")
"""Phases of a step, in order.

data: waiting for the next batch. features: log-mel features and the copy to the device. teacher:
pseudo-labels, including the wait for a search. student: forward and backward pass. communication:
communication that does not overlap the backward pass, and waiting for other processes. optimizer: clipping,
optimizer step and teacher update.
"""


def run_files(path: Path) -> list[Path]:
    """The files that commands read in a run directory or its checkpoints; for a file, the file itself."""
    if not path.is_dir():
        return [path]
    if path.name == CHECKPOINTS:
        return [*path.glob("*.pt")]
    return [
        *(path / name for name in (CONFIG, LOG, SPEED, SKIPPED, STARTS, LABEL_SAMPLES, FEATURES)),
        *path.glob(f"{CHECKPOINTS}/*.pt"),
    ]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the records of log.jsonl, ignoring an incomplete last line.

    Checks that each record has the entries required for its event, and that known entries have the right
    type.

    Raises:
        UserError: the file cannot be read, or lines are invalid.
    """
    return _read(path, lambda record: ("event", *_REQUIRED.get(str(record.get("event")), ())))


def read_speed(path: Path) -> list[dict[str, Any]]:
    """Read the records of speed.jsonl, as `read_log` does."""
    return _read(path, lambda record: ("hours",) if "hours_per_second" in record else ())


def read_rollbacks(folder: Path) -> list[dict[str, Any]]:
    """Read how often a run went back after its labels had collapsed; see `asr_emapl.training.rollback`."""
    path = folder / ROLLBACKS
    return _read(path, lambda record: ("reason", "from")) if path.exists() else []


def read_label_samples(folder: Path) -> list[dict[str, Any]]:
    """Read the sample of kept and dropped labels; see `LabelMonitor.sampled`."""
    path = folder / LABEL_SAMPLES
    return _read(path, lambda record: ("reason", "id", "text", "step", "confidence")) if path.exists() else []


def read_skipped(path: Path) -> list[dict[str, Any]]:
    """Read the records of skipped.jsonl, as `read_log` does."""
    return _read(path, lambda record: ("id",))


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Read the records of starts.jsonl, as `read_log` does. See `asr_emapl.runs.starts`."""
    return _read(path, lambda record: ("hours", *_START_TEXTS))


def read_run_config(folder: Path) -> dict[str, Any] | None:
    """Read config.yaml of a run directory; None if there is none.

    Raises:
        UserError: the file is not a YAML mapping.
    """
    path = folder / CONFIG
    if not path.exists():
        return None
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: has no settings; is it the config.yaml that the run wrote?")
    return config


def logged_validation(folder: Path, lines: int, step: int) -> dict[str, float] | None:
    """The WERs of the validation of `step`, if they are in the log after its first `lines` lines.

    None if the line is missing or, after a killed process, incomplete.

    Raises:
        UserError: the log is not a regular file, or cannot be read.
    """
    path = folder / LOG
    written = raw_lines(path, complete=True) if path.exists() else iter(())
    line = next((line for number, line in written if number > lines), b"")
    try:
        record = parse_object(line)
        if (record["event"], record["step"]) != ("validation", step):
            return None
        return {name: math.nan if rate is None else float(rate) for name, rate in record["wer"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _read(path: Path, required: Callable[[dict[str, Any]], tuple[str, ...]]) -> list[dict[str, Any]]:
    def parse(line: str) -> dict[str, Any]:
        try:
            record = parse_object(line)
            for entry in required(record):
                if entry not in record:
                    raise BrokenLineError(f"{entry!r} is missing")
            for entry, is_valid in _TYPES.items():
                if entry in record and not is_valid(record[entry]):
                    raise BrokenLineError(f"{entry!r} is {str(record[entry])[:40]}")
        except BrokenLineError as error:
            raise BrokenLineError(f"not a line of a run's log ({error})") from error
        return record

    lines = read_lines(path, complete=True, remedy=f"is {path.parent} a run directory?")
    return [record for _, record in parse_lines(path, lines, parse)]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return finite_number(value) is not None


def _is_number_or_null(value: object) -> bool:
    """A number, or null, which represents NaN and infinities in the log."""
    return value is None or _is_number(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_all(is_valid: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_valid, value.values()))


def _are_counts(value: object) -> bool:
    """Ten numbers."""
    return isinstance(value, list) and len(value) == 10 and all(map(_is_count, value))


def _are_labels(value: object) -> bool:
    """Labels of followed utterances."""

    def is_label(label: object) -> bool:
        if not isinstance(label, dict) or not {"id", "text", "confidence"} <= label.keys():
            return False
        texts = (label["id"], label["text"], label.get("transcript") or "")
        return all(map(_is_text, texts)) and _is_number_or_null(label["confidence"])

    return isinstance(value, list) and all(map(is_label, value))


def _is_noise(value: object) -> bool:
    """Variance and mean square of the gradient, or null."""
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(map(_is_number_or_null, value))
    )


def _are_times(value: object) -> bool:
    """Per process: the seconds of each phase, of audio and of padded audio."""
    entries, are_numbers = {*PHASES, "audio", "padded"}, _are_all(_is_number)
    if not isinstance(value, list) or not value:
        return False
    return all(are_numbers(times) and times.keys() >= entries for times in value)


_REQUIRED: dict[str, tuple[str, ...]] = {
    "step": ("hours", "kind", "loss", "utterances", "tokens"),
    "validation": ("hours", "wer"),
    "labels": ("hours",),
    "alarm": ("hours", "reason", "text"),
}

_START_TEXTS = ("date", "command", "version", "commit", "torch", "device")
_MEASURES = ("loss", "gradient_norm", "lr", "rho", "kappa", "half_life_hours", "confidence", "nonempty")
_LABEL_MEASURES = (
    *("changed", "label_wer", "kept_tokens", "kept_words", "tokens_per_second", "words_per_second"),
    *("entropy", "most_frequent", "looping", "agreement", "blank_share"),
)
_TYPES: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("event", "kind", "id", *_START_TEXTS), _is_text),
    **dict.fromkeys(("hours", "hours_per_second"), _is_number),
    **dict.fromkeys(("step", "utterances", "tokens"), _is_count),
    **dict.fromkeys((*_MEASURES, *_LABEL_MEASURES), _is_number_or_null),
    "dropped": _are_all(_is_count),
    # Of a sampled label, its file; earlier logs have shares of the audio by reason.
    "audio": lambda value: _is_text(value) or _are_all(_is_number)(value),
    "audio_hours": _are_all(_is_number),
    **dict.fromkeys(("decile_errors", "decile_words"), _are_counts),
    "followed": _are_labels,
    **dict.fromkeys(("reason", "text", "from"), _is_text),
    "transcript": lambda value: value is None or _is_text(value),
    # The WER against an empty reference is infinite.
    "wer": _are_all(lambda rate: number(rate) is not None),
    "gradient_noise": _is_noise,
    "ranks": _are_times,
}
