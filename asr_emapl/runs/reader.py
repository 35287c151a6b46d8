"""Reading what a run wrote of itself, while it may still be writing. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.storage import BrokenLineError, finite_number, number, parse_object, read_lines

# As training.phases has them, in the order of a step.
PHASES = ("data", "features", "teacher", "student", "communication", "optimizer")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl; what follows the last line's end is not whole yet, and left out.

    A record has what its event always has, and entries of their kind: no reader has to ask again.

    Raises:
        UserError: the file cannot be read, or a line of it is broken.
    """
    return _read(path, lambda record: ("event", *_REQUIRED.get(str(record.get("event")), ())))


def read_speed(path: Path) -> list[dict[str, Any]]:
    """The records of speed.jsonl, as `read_log`."""
    return _read(path, lambda record: ("hours",) if "hours_per_second" in record else ())


def read_skipped(path: Path) -> list[dict[str, Any]]:
    """The records of skipped.jsonl, as `read_log`."""
    return _read(path, lambda record: ("id",))


def run_files(path: Path) -> list[Path]:
    """The files of a run directory that commands read; of any other path, the path itself."""
    if not path.is_dir():
        return [path]
    names = ("config.yaml", "log.jsonl", "speed.jsonl", "skipped.jsonl")
    return [*(path / name for name in names), *path.glob("checkpoints/*.pt")]


def _read(path: Path, required: Callable[[dict[str, Any]], tuple[str, ...]]) -> list[dict[str, Any]]:
    records = []
    for position, line in read_lines(path, complete=True, remedy=f"is {path.parent} a run directory?"):
        try:
            record = parse_object(line)
            for entry in required(record):
                if entry not in record:
                    raise BrokenLineError(f"{entry!r} is missing")
            for entry, is_kind in _KINDS.items():
                if entry in record and not is_kind(record[entry]):
                    raise BrokenLineError(f"{entry!r} is {str(record[entry])[:40]}")
        except BrokenLineError as error:
            raise UserError(f"{path}:{position}: is no line of a run's log ({error})") from error
        records.append(record)
    return records


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return finite_number(value) is not None


def _is_measure(value: object) -> bool:
    """A number, or null: the log writes it for NaN and infinities."""
    return value is None or _is_number(value)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _are_rates(value: object) -> bool:
    """WERs, of which one against no words is infinite."""
    return isinstance(value, dict) and all(number(rate) is not None for rate in value.values())


def _are_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_noise(value: object) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_measure, value)))


def _are_times(value: object) -> bool:
    """Of each process: the seconds of every phase, and the seconds of audio and of padded audio."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(_are_numbers(times) and times.keys() >= {*PHASES, "audio", "padded"} for times in value)
    )


_REQUIRED: dict[str, tuple[str, ...]] = {
    "step": ("hours", "kind", "loss", "utterances", "tokens"),
    "validation": ("hours", "wer"),
}

_KINDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("event", "kind", "id"), _is_text),
    "hours": _is_number,
    "hours_per_second": _is_number,
    **dict.fromkeys(("step", "utterances", "tokens"), _is_count),
    **dict.fromkeys(
        ("loss", "gradient_norm", "lr", "rho", "kappa", "half_life_hours", "confidence", "nonempty"),
        _is_measure,
    ),
    "dropped": _are_counts,
    "wer": _are_rates,
    "gradient_noise": _is_noise,
    "ranks": _are_times,
}
