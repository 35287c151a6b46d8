"""From the config to the parts of a trainer: batches, plan, student, teacher. Errors name the setting."""

from __future__ import annotations

import inspect
import math
from typing import Any

from asr_emapl.config import RunConfig
from asr_emapl.ema import EmaTeacher
from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels import EmaLabels, OracleLabels, Strategy
from asr_emapl.scaling import BatchSchedule, ScalingPlan, Schedule, StepAudio, momentum
from asr_emapl.text.tokenizer import Tokenizer, load_tokenizer


def read_tokenizer(config: RunConfig) -> Tokenizer:
    """The tokenizer that the config names."""
    if not config.tokenizer:
        raise UserError("tokenizer is not set; name the file that `asr-emapl tokenizer` wrote")
    return load_tokenizer(config.tokenizer)


def build_batches(config: RunConfig, world_size: int) -> BatchSchedule:
    """Padded seconds of a global batch, over hours of audio.

    Raises:
        UserError: batch.seconds is neither a positive number nor "auto", or batch.progressive is not a list
            of [from_hours, seconds] with rising hours.
    """
    seconds = config.batch.seconds
    try:
        # YAML 1.1 reads 1e2 as a string.
        first = world_size * config.device.max_seconds if seconds == "auto" else float(seconds)
    except ValueError:
        first = math.nan
    if not 0.0 < first < math.inf:
        raise UserError(f"batch.seconds {seconds!r} is neither a positive number nor auto")
    if any(len(pair) != 2 for pair in config.batch.progressive):
        raise UserError("batch.progressive: write [from_hours, seconds] pairs, for example [[20, 120]]")
    try:
        return BatchSchedule(first, tuple((hours, later) for hours, later in config.batch.progressive))
    except ValueError as error:
        raise UserError(f"batch.progressive: {error}") from error


def nominal_step_audio(config: RunConfig, world_size: int) -> StepAudio:
    """Audio of steps without the corpora: the padded seconds. A run measures it (`Corpora.step_audio`).

    Raises:
        UserError: as `build_batches`, or batch.reference_seconds gives no kappa.
    """
    reference, batches = float(config.batch.reference_seconds), build_batches(config, world_size)
    if not 0.0 < reference < math.inf:
        raise UserError(f"batch.reference_seconds must be positive, not {config.batch.reference_seconds}")
    try:
        return StepAudio.nominal(batches, reference)
    except ValueError as error:
        raise UserError(f"batch.reference_seconds {reference:g}: {error}") from error


def build_plan(config: RunConfig, steps: StepAudio) -> ScalingPlan:
    """The hyper-parameters of every step of the run.

    Raises:
        UserError: a setting of the optimizer, its schedule or the teacher is invalid, or the rule has no
            answer at one of the batches.
    """
    try:
        schedule = Schedule(config.schedule, config.hours)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        half_life = config.teacher.half_life_over_audio(steps.reference_seconds, 3600.0 * config.hours)
        momentum(half_life(0.0) if callable(half_life) else half_life, steps.reference_seconds)
    except ValueError as error:
        raise UserError(f"teacher: {error}") from error
    try:
        return ScalingPlan(
            steps,
            config.optimizer.reference(),
            schedule,
            half_life,
            config.teacher.audio_per_step,  # type: ignore[arg-type]
        )
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"optimizer: {error}") from error


def require_measurable_noise(config: RunConfig, world_size: int) -> None:
    """Refuse to measure gradient noise where no process has a whole gradient.

    Raises:
        UserError: optimizer.noise_every_steps is set and the student is sharded.
    """
    if config.device.sharding == "full" and world_size > 1 and config.optimizer.noise_every_steps:
        raise UserError(
            "optimizer.noise_every_steps: gradient noise needs whole gradients, which no process has with "
            "device.sharding=full; set it to null, or sharding to none"
        )


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
