"""What a checkpoint has to hold: whether each entry is there and of its kind, checked once, when it is read.

A file that torch can load may still hold anything. What uses it after this check needs no check of its own,
but for what depends on the run: whether the weights fit the model (`checkpoint.fitting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from asr_emapl.data.mixture import DataCursor

State = dict[str, Any]

_Check = Callable[[Any, str], None]

# More than any config holds. They bound the time that lists take which hold the same list many times over.
_MOST_VALUES = 100_000
_DEEPEST = 32


def require_entries(state: Any) -> State:
    """The state, if it has what decoding needs and each of its entries is of the right kind.

    Raises:
        ValueError: an entry is missing or is something else; says which, and what it should be.
    """
    _require(isinstance(state, dict), "it", "a mapping of entries")
    _require_names(state, _TO_DECODE)
    for name, check in _ENTRIES.items():
        if name in state:
            check(state[name], name)
    return state


def require_run_entries(state: State) -> None:
    """Refuse a state, checked before, that lacks an entry without which a run does not resume.

    Raises:
        ValueError: an entry is missing.
    """
    _require_names(state, [name for name in _ENTRIES if name != "kept"])


def _require(holds: bool, place: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{place} is not {wanted}")


def _require_names(state: Mapping[str, Any], names: list[str]) -> None:
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"entry {', '.join(missing)} is missing")


def _fields(checks: Mapping[str, _Check]) -> _Check:
    """A mapping with at least these fields."""

    def check(value: Any, place: str) -> None:
        _require(isinstance(value, dict), place, "a mapping")
        for name, of_field in checks.items():
            if name not in value:
                raise ValueError(f"{place}.{name} is missing")
            of_field(value[name], f"{place}.{name}")

    return check


def _number(value: Any, place: str) -> None:
    _require(type(value) in (int, float) and not math.isnan(value), place, "a number")


def _amount(value: Any, place: str) -> None:
    _require(type(value) in (int, float) and 0.0 <= value < math.inf, place, "a number of at least 0")


def _positive(value: Any, place: str) -> None:
    _require(type(value) in (int, float) and 0.0 < value < math.inf, place, "a positive number")


def _count(value: Any, place: str) -> None:
    _require(type(value) is int and value >= 0, place, "a whole number of at least 0")


def _text(value: Any, place: str) -> None:
    _require(isinstance(value, str), place, "a text")


def _flag(value: Any, place: str) -> None:
    _require(type(value) is bool, place, "true or false")


def _mapping(value: Any, place: str) -> None:
    _require(isinstance(value, dict), place, "a mapping")


def _weights(value: Any, place: str) -> None:
    _mapping(value, place)
    for name, weight in value.items():
        _require(isinstance(name, str), place, "a mapping of names")
        # What a module's get_extra_state returned is its own affair.
        _require(isinstance(weight, Tensor) or name.endswith("_extra_state"), f"{place}.{name}", "a tensor")


def _running_mean(value: Any, place: str) -> None:
    if value != {}:  # of a run that keeps none
        _fields({"mean": _weights, "audio": _amount})(value, place)


def _optimizer(value: Any, place: str) -> None:
    _fields({"state": _mapping})(value, place)
    for index, moments in value["state"].items():
        _require(type(index) is int, f"{place}.state", "a mapping of the numbers of parameters")
        _mapping(moments, f"{place}.state.{index}")
        for name, moment in moments.items():
            of_kind = isinstance(moment, Tensor) or type(moment) in (int, float)
            _require(of_kind, f"{place}.state.{index}.{name}", "a tensor or a number")


def _contents(value: Any, place: str) -> None:
    _fields({"labelled": lambda hashes, place: None})(value, place)  # what every run learns from
    for kind, hashes in value.items():
        _require(isinstance(hashes, list), f"{place}.{kind}", "a list of hashes")
        for found in hashes:
            _text(found, f"{place}.{kind}")


def _position(value: Any, place: str) -> None:
    for number in _plain_values(value, place):
        _amount(number, place)
    try:
        position = DataCursor.from_state(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{place} is not a place in the data ({type(error).__name__}: {error})") from error
    for corpus in (*position.labelled.corpora, *position.unlabelled.corpora):
        for field in fields(corpus):
            if field.type == "int":
                _count(getattr(corpus, field.name), f"{place}.{field.name}")


def _steps(value: Any, place: str) -> None:
    _require(isinstance(value, list), place, "a list of steps")
    for step in value:
        _count(step, place)


def _step_or_none(value: Any, place: str) -> None:
    if value is not None:
        _count(value, place)


def _config(value: Any, place: str) -> None:
    _plain_values(value, place)
    model = _fields({"target": _text, "options": _mapping})
    _fields({"model": model, "optimizer": _fields({"name": _text})})(value, place)


def _plain_values(value: Any, place: str) -> list[Any]:
    """All numbers, texts and Nones in nested mappings and lists, if these contain nothing else."""
    found: list[Any] = []
    pending = [(value, 0)]
    for _ in range(_MOST_VALUES):
        if not pending:
            return found
        item, depth = pending.pop()
        _require(depth <= _DEEPEST, place, f"nested in at most {_DEEPEST} levels")
        if isinstance(item, dict):
            _require(all(isinstance(key, str) for key in item), place, "a mapping of names")
            pending += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list | tuple):
            pending += [(part, depth + 1) for part in item]
        else:
            _require(item is None or type(item) in (bool, int, float, str), place, "plain data")
            found.append(item)
    raise ValueError(f"{place} holds more than {_MOST_VALUES} values")


_ENTRIES: dict[str, _Check] = {
    "student": _weights,
    "teacher": _fields({"module": _weights, "audio": _amount}),
    "optimizer": _optimizer,
    "running_mean": _running_mean,
    "clock": _fields({"samples": _count, "sample_rate_hz": _positive}),
    "position": _position,
    "contents": _contents,
    "step": _count,
    "validation_due": _flag,
    "kappa": _positive,
    "log_lines": _count,
    "tokenizer": _mapping,
    "config": _config,
    # Of checkpoints in a run's folder: which of them stay.
    "kept": _fields({"best": _step_or_none, "rate": _number, "for_good": _steps}),
}
_TO_DECODE = ["student", "teacher", "tokenizer", "config"]
