"""The batches and hyper-parameters of every step, from the settings of a run. Errors name the setting."""

from __future__ import annotations

from dataclasses import replace

from asr_emapl.config import RunConfig
from asr_emapl.errors import UserError
from asr_emapl.scaling import (
    BatchGrowth,
    BatchSchedule,
    NoiseAverage,
    ScalingPlan,
    StepAudio,
    double_with_decay,
    momentum,
)


def build_batches(config: RunConfig, world_size: int) -> BatchSchedule:
    """Padded seconds of a global batch, over hours of audio.

    Raises:
        UserError: the hours of batch.progressive are not increasing, or batch.growth lacks a setting.
    """
    batch = config.batch
    first = world_size * config.device.max_seconds if batch.seconds == "auto" else float(batch.seconds)
    try:
        batches = BatchSchedule(first, tuple((hours, later) for hours, later in batch.progressive))
    except ValueError as error:
        raise UserError(f"batch.progressive: {error}") from error
    if batch.growth == "none":
        return batches
    if batch.max_seconds is None:
        raise UserError(f"batch.growth={batch.growth} requires batch.max_seconds, the largest batch")
    if config.optimizer.rule == "none":
        raise UserError(
            f"batch.growth={batch.growth} requires optimizer.rule=full, which scales to each batch"
        )
    if batch.growth == "decay":
        return _doubled_with_decay(config, batches, batch.max_seconds)
    return _doubled_by_need(config, batches, batch.max_seconds)


def _doubled_by_need(config: RunConfig, batches: BatchSchedule, most: float) -> BatchSchedule:
    needed = {
        "optimizer.noise_every_steps": config.optimizer.noise_every_steps is not None,
        "batch.progressive=[]": not batches.changes,
        "batch.seconds in seconds": config.batch.seconds != "auto",
        "pseudo_labels.label_ahead=false": not config.pseudo_labels.label_ahead,
    }
    missing = [setting for setting, is_there in needed.items() if not is_there]
    if missing:
        raise UserError(f"batch.growth=noise requires {' and '.join(missing)}")
    if most < batches.first:
        raise UserError(f"batch.max_seconds: {most:g} s is below the batch of {batches.first:g} s; raise it")
    return replace(batches, growth=BatchGrowth(config.batch.growth_noise_share, most))


def _doubled_with_decay(config: RunConfig, batches: BatchSchedule, most: float) -> BatchSchedule:
    schedule = config.schedule
    if schedule.decay_from_hours is None or schedule.decay_from_hours >= config.hours:
        raise UserError(
            "batch.growth=decay requires schedule.decay_from_hours before the end of the run; set it, or set "
            "batch.growth=none"
        )
    try:
        return double_with_decay(batches, schedule.over(config.hours), most)
    except ValueError as error:
        raise UserError(f"batch.max_seconds: {error}; raise it") from error


def nominal_step_audio(config: RunConfig, world_size: int) -> StepAudio:
    """The padded audio of steps, for use if the corpora are not available. See `TrainingAudio.step_audio`.

    Raises:
        UserError: see `build_batches`; also if kappa is not defined for batch.reference_seconds.
    """
    reference, batches = float(config.batch.reference_seconds), build_batches(config, world_size)
    try:
        return StepAudio.nominal(batches, reference)
    except ValueError as error:
        raise UserError(f"batch.reference_seconds {reference:g}: {error}") from error


def build_plan(config: RunConfig, steps: StepAudio) -> ScalingPlan:
    """The hyper-parameters of every step of the run.

    Raises:
        UserError: a setting of the optimizer, its schedule or the teacher is invalid, or the rule is not
            defined at one of the batches.
    """
    if config.optimizer.rule == "adascale" and config.optimizer.noise_every_steps is None:
        raise UserError("optimizer.rule=adascale requires optimizer.noise_every_steps; 10 costs little")
    try:
        half_life = config.teacher.half_life_over_audio(steps.reference_seconds, 3600.0 * config.hours)
        momentum(half_life(0.0) if callable(half_life) else half_life, steps.reference_seconds)
    except ValueError as error:
        raise UserError(f"teacher: {error}") from error
    try:
        return ScalingPlan(
            steps,
            config.optimizer.reference(),
            config.schedule.over(config.hours),
            half_life,
            config.teacher.audio_per_step,
            NoiseAverage(3600.0 * config.optimizer.noise_half_life_hours) if _uses_noise(config) else None,
        )
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"optimizer: {error}") from error


def _uses_noise(config: RunConfig) -> bool:
    """Whether hyper-parameters depend on the measured gradient noise."""
    return config.batch.growth == "noise" or config.optimizer.rule == "adascale"
