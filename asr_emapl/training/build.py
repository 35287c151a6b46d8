"""What a trainer is made of, part by part from the config; what is wrong there is said before it runs."""

from __future__ import annotations

import inspect
from typing import Any

from asr_emapl.config import RunConfig
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels import EmaLabels, OracleLabels, Strategy
from asr_emapl.scaling import BatchSchedule, ScalingPlan, Schedule
from asr_emapl.text.tokenizer import Tokenizer, load_tokenizer
from asr_emapl.training.optimizer import OptimizerConfig


def read_tokenizer(config: RunConfig) -> Tokenizer:
    """The tokenizer that the config names."""
    if not config.tokenizer:
        raise UserError("tokenizer: name the file that `asr-emapl tokenizer` wrote")
    return load_tokenizer(config.tokenizer)


def require_scalable(config: RunConfig, world_size: int) -> BatchSchedule:
    """The batches of the run, if the rule has an answer at each of them: better asked now than hours later.

    Raises:
        UserError: it has none, or a setting is not known.
    """
    for key, value in (("teacher", config.teacher.kappa), ("optimizer", config.optimizer.kappa)):
        if value not in ("nominal", "step"):
            raise UserError(f"{key}.kappa {value!r} is neither nominal nor step")
    if config.device.sharding == "full" and world_size > 1 and config.optimizer.noise_every_steps:
        raise UserError(
            "optimizer.noise_every_steps: noise is measured in whole gradients, which no process has with "
            "device.sharding=full; set it to 0, or sharding to none"
        )
    batches = config.batches(world_size)
    require_rule(config.optimizer, config.nominal_scaling(world_size))
    varies = batches.changes or config.optimizer.kappa == "step"
    if varies and config.optimizer.beta_form == "linear" and config.optimizer.rule == "full":
        raise UserError(
            "optimizer.beta_form=linear: bias correction is exact over changing batches for powers only; "
            "use beta_form=power with batch.progressive and optimizer.kappa=step"
        )
    return batches


def require_rule(optimizer: OptimizerConfig, scaling: ScalingPlan) -> None:
    """Require that the optimizer's rule has an answer at each batch of the run.

    Raises:
        UserError: it has none.
    """
    for kappa in scaling.kappas:
        optimizer.scaled(kappa)


def read_schedule(config: RunConfig) -> Schedule:
    """The learning rate over the run."""
    try:
        return Schedule(config.schedule, config.hours)
    except ValueError as error:
        raise UserError(str(error)) from error


def require_dropout_switch(student: Any, config: RunConfig) -> None:
    """Refuse a change of dropout that the student cannot make: better asked now than hours later.

    Raises:
        UserError: the config asks for one, and the student has no `set_dropout` that takes it.
    """
    rates = _dropout_from_then_on(config)
    if not rates or config.pseudo_labels.strategy == "none":
        return
    keys = " and ".join(f"pseudo_labels.{name}" for name in rates)
    hook = getattr(student, "set_dropout", None)
    if hook is None:
        raise UserError(f"{keys}: {config.model.target} has no set_dropout(dropout, layerdrop); set to null")
    try:
        inspect.signature(hook).bind(**rates)
    except (TypeError, ValueError) as error:
        raise UserError(f"{keys}: set_dropout of {config.model.target}: {error}; set to null") from error


def switch_dropout(student: Any, config: RunConfig) -> None:
    """Give the student the dropout and layerdrop that it has once pseudo-labels begin; null: as they are."""
    if rates := _dropout_from_then_on(config):
        student.set_dropout(**rates)


def _dropout_from_then_on(config: RunConfig) -> dict[str, float]:
    rates = {"dropout": config.pseudo_labels.dropout, "layerdrop": config.pseudo_labels.layerdrop}
    return {name: rate for name, rate in rates.items() if rate is not None}


def build_strategy(config: RunConfig, teacher: EmaTeacher, *, bf16: bool) -> Strategy | None:
    """Where pseudo-labels come from; None: from nowhere."""
    name = config.pseudo_labels.strategy
    if name == "none":
        return None
    if name == "ema":
        return EmaLabels(teacher, autocast=bf16)
    if name == "oracle":
        return OracleLabels()
    raise UserError(f"pseudo_labels.strategy {name!r} is none of none, ema, oracle")
