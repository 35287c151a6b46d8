"""Check the types of a checkpoint's entries once when it is loaded.

A file that torch can load may contain anything. After this check, only weights that do not fit the model can
cause an error (`files.fitting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from asr_emapl.data.mixture import DataCursor
from asr_emapl.pseudo_labels.kept_share import BINS
from asr_emapl.pseudo_labels.label_table import LabelTable

State = dict[str, Any]

_Check = Callable[[Any, str], None]

# Limits that no config reaches; they bound the time for lists that contain the same list many times.
_MAX_NUMBER = 2**63 - 1
_MAX_VALUES = 100_000
_MAX_DEPTH = 32
_MAX_POSITION = 10_000_000  # a cache of labels has the numbers of its utterances


def require_entries(state: Any) -> State:
    """Check that a state has the entries required for decoding, and that all entries have the right type.

    Raises:
        ValueError: an entry is missing or has another type; the message names it.
    """
    _mapping(state, "it")
    _require_names(state, ["student", "teacher", "tokenizer", "config"])
    for name, check in _ENTRIES.items():
        if name in state:
            check(state[name], name)
    return state


def require_run_entries(state: State) -> None:
    """Check that a state from `require_entries` has all entries required for a resume.

    Raises:
        ValueError: an entry is missing.
    """
    _require_names(state, [name for name in _ENTRIES if name not in _OPTIONAL])


def _require_names(state: Mapping[str, Any], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(f"entry {', '.join(missing)} is missing")


def _require(is_valid: bool, place: str, expected: str) -> None:
    if not is_valid:
        raise ValueError(f"{place} is not {expected}")


def _is(expected: str, is_valid: Callable[[Any], bool]) -> _Check:
    return lambda value, place: _require(is_valid(value), place, expected)


def _has(checks: Mapping[str, _Check]) -> _Check:
    """A mapping with at least these fields."""

    def check(value: Any, place: str) -> None:
        _mapping(value, place)
        for name, check_field in checks.items():
            if name not in value:
                raise ValueError(f"{place}.{name} is missing")
            check_field(value[name], f"{place}.{name}")

    return check


def _list_of(check_item: _Check) -> _Check:
    def check(value: Any, place: str) -> None:
        _require(isinstance(value, list), place, "a list")
        for item in value:
            check_item(item, place)

    return check


def _dict_of(check_item: _Check) -> _Check:
    def check(value: Any, place: str) -> None:
        _mapping(value, place)
        for name, item in value.items():
            check_item(item, f"{place}.{name}")

    return check


def _is_number(value: Any) -> bool:
    """Whether the value is a number in a range without overflow, which Python's integers can exceed."""
    return type(value) in (int, float) and (-_MAX_NUMBER <= value <= _MAX_NUMBER)


_number = _is("a number", lambda value: _is_number(value) or (type(value) is float and math.isinf(value)))
_amount = _is("a number of at least 0", lambda value: _is_number(value) and value >= 0.0)
_positive = _is("a positive number", lambda value: _is_number(value) and value > 0.0)
_count = _is("an integer of at least 0", lambda v: type(v) is int and 0 <= v <= _MAX_NUMBER)
_text = _is("a text", lambda value: isinstance(value, str))
_flag = _is("true or false", lambda value: type(value) is bool)
_mapping = _is("a mapping", lambda value: isinstance(value, dict))


_tensor = _is("a tensor", lambda value: isinstance(value, Tensor))
_moment = _is("a tensor or a number", lambda v: isinstance(v, Tensor) or type(v) is float or _is_number(v))


def _weights(value: Any, place: str) -> None:
    _mapping(value, place)
    for name, weight in value.items():
        _text(name, f"a name in {place}")
        if not name.endswith("_extra_state"):  # get_extra_state may return anything
            _tensor(weight, f"{place}.{name}")


def _running_mean(value: Any, place: str) -> None:
    if value != {}:  # {}: the run has no running mean
        _has({"mean": _weights, "audio": _amount})(value, place)


def _bias_corrected(value: Any, place: str) -> None:
    if value != {}:  # {}: the run does not keep it
        _has({"ema": _weights, "start": _weights, "average": _weights, "audio": _amount})(value, place)


def _optimizer(value: Any, place: str) -> None:
    _has({"state": _dict_of(_dict_of(_moment))})(value, place)
    _require(all(type(i) is int for i in value["state"]), f"{place}.state", "a mapping of parameter numbers")


def _contents(value: Any, place: str) -> None:
    _dict_of(_list_of(_text))(value, place)
    if not value:
        raise ValueError(f"{place} has no corpus")


def _strategy(value: Any, place: str) -> None:
    _mapping(value, place)
    for name in LabelTable.TENSORS if "rows" in value else ():
        _require(isinstance(value.get(name), Tensor), f"{place}.{name}", "a tensor")


def _monitor(value: Any, place: str) -> None:
    if value != {}:  # {}: the run has none
        labels = dict.fromkeys(("seen", "samples"), _labels)
        parts = {"previous": _strategy, "first": _mapping, "audio": _dict_of(_count), **labels}
        _has(parts)(value, place)


def _filters(value: Any, place: str) -> None:
    if value != {}:  # {}: no share of the labels is kept
        _has({"counts": _list_of(_amount)})(value, place)
        _require(len(value["counts"]) == BINS, place, f"{BINS} counts")


def _labels(value: Any, place: str) -> None:
    """A list of tuples of plain data."""
    _list_of(_is("a label", lambda label: isinstance(label, tuple)))(value, place)
    _plain_values(value, place, _MAX_POSITION)


def _pseudo_labels(value: Any, place: str) -> None:
    _has(
        {
            "strategy": _strategy,
            "filters": _filters,
            "monitor": _monitor,
            "gate": _dict_of(_amount),
            "best": _best,
            "guard": _guard,
        }
    )(value, place)
    _labels(value.get("ahead", []), f"{place}.ahead")  # earlier versions did not label ahead


_best = _dict_of(_has({"wer": _number, "step": _count, "weights": _weights}))


def _guard(value: Any, place: str) -> None:
    if value != {}:  # {}: the run has none
        pairs = _dict_of(_list_of(_number))
        parts = {"sums": _dict_of(_number), "best": pairs, "since": pairs, "healthy_step": _count}
        _has(parts)(value, place)


def _position(value: Any, place: str) -> None:
    for number in _plain_values(value, place, _MAX_POSITION):
        _amount(number, place)
    try:
        position = DataCursor.from_state(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{place} is not a data cursor ({type(error).__name__}: {error})") from error
    for corpus in (*position.labelled.corpora, *position.unlabelled.corpora):
        for field in fields(corpus):
            if field.type == "int":
                _count(getattr(corpus, field.name), f"{place}.{field.name}")


def _origin(value: Any, place: str) -> None:
    if value != {}:  # {}: the run did not start from a checkpoint
        _has({"checkpoint": _text, "hours": _amount, "digest": _text})(value, place)


def _built(value: Any, place: str) -> None:
    if value != {}:  # {}: the run needs no file of weights
        _has({"model": _mapping, "features": _mapping, "fingerprint": _text})(value, place)
        _plain_values(value, place)


def _plan(value: Any, place: str) -> None:
    if value != {}:  # {}: nothing depends on what the run measures
        noise = dict.fromkeys(("half_life", "variance", "signal", "seconds"), _number) | {"steps": _count}
        _has({"noise": _has(noise), "changes": _list_of(_list_of(_positive))})(value, place)
        _require(len(value["noise"]) == 5, f"{place}.noise", "five numbers")
        _require(all(len(pair) == 2 for pair in value["changes"]), f"{place}.changes", "a list of pairs")


def _step_or_none(value: Any, place: str) -> None:
    if value is not None:
        _count(value, place)


def _config(value: Any, place: str) -> None:
    _plain_values(value, place)
    model = _has({"target": _text, "options": _mapping})
    _has({"model": model, "optimizer": _has({"name": _text})})(value, place)


def _plain_values(value: Any, place: str, most: int = _MAX_VALUES) -> list[Any]:
    """Return the leaves of nested mappings and lists, if all of them are numbers, texts or None."""
    found: list[Any] = []
    pending = [(value, 0)]
    for _ in range(most):
        if not pending:
            return found
        item, depth = pending.pop()
        _require(depth <= _MAX_DEPTH, place, f"nested in at most {_MAX_DEPTH} levels")
        if isinstance(item, dict):
            _require(all(isinstance(key, str) for key in item), place, "a mapping of names")
            pending += [(part, depth + 1) for part in item.values()]
        elif isinstance(item, list | tuple):
            pending += [(part, depth + 1) for part in item]
        else:
            _require(item is None or type(item) in (bool, int, float, str), place, "plain data")
            found.append(item)
    raise ValueError(f"{place} has more than {most} values")


_ENTRIES: dict[str, _Check] = {
    "student": _weights,
    "teacher": _has({"module": _weights, "audio": _amount}),
    "optimizer": _optimizer,
    "running_mean": _running_mean,
    # Earlier versions did not have it.
    "bias_corrected": _bias_corrected,
    "clock": _has({"samples": _count, "sample_rate_hz": _positive}),
    "position": _position,
    "pseudo_labels": _pseudo_labels,
    "contents": _contents,
    "step": _count,
    "validation_due": _flag,
    "kappa": _positive,
    "log_lines": _count,
    "tokenizer": _mapping,
    "config": _config,
    # The checkpoint that the run started from; see `checkpoints.origin`. Earlier versions did not record it.
    "origin": _origin,
    # How the model is built without files of weights; see `checkpoints.built`.
    "built": _built,
    # What the run has measured; see `ScalingPlan.state_dict`. Earlier versions measured nothing.
    "plan": _plan,
    # Which checkpoints are kept; only in a run directory.
    "kept": _has({"best": _step_or_none, "rate": _number, "for_good": _list_of(_count)}),
}
_OPTIONAL = ("bias_corrected", "origin", "built", "plan", "kept")
