"""Change the student's dropout when pseudo-labels start."""

from __future__ import annotations

import inspect
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.config import PseudoLabelConfig


def require_dropout_switch(student: Any, config: PseudoLabelConfig, target: str) -> None:
    """Check before a run that the student supports the configured change of dropout.

    Args:
        target: import path of the model, for messages.

    Raises:
        UserError: the config sets a rate, and the student has no `set_dropout` that accepts it.
    """
    rates = _rates(config)
    if not rates or not config.uses_unlabelled:
        return
    keys = " and ".join(f"pseudo_labels.{name}" for name in rates)
    hook = getattr(student, "set_dropout", None)
    if hook is None:
        raise UserError(f"{keys}: {target} has no set_dropout(dropout, layerdrop); use null")
    try:
        inspect.signature(hook).bind(**rates)
    except (TypeError, ValueError) as error:
        raise UserError(f"{keys}: set_dropout of {target}: {error}; use null") from error


def switch_dropout(student: Any, config: PseudoLabelConfig) -> None:
    """Set the rates of the config; null leaves a rate unchanged."""
    if rates := _rates(config):
        student.set_dropout(**rates)


def _rates(config: PseudoLabelConfig) -> dict[str, float]:
    rates = {"dropout": config.dropout, "layerdrop": config.layerdrop}
    return {name: rate for name, rate in rates.items() if rate is not None}
