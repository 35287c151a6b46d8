"""Tabulate how hyper-parameters change with batch size: `asr-emapl scale`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from asr_emapl.config import RunConfig
from asr_emapl.errors import UserError
from asr_emapl.planning import build_plan, nominal_step_audio
from asr_emapl.scaling import BatchSchedule, ReferenceOptimizer, StepAudio, momentum
from asr_emapl.scaling.range import ScaledBatch, count, momentum_text, number, value_text, warnings

_LINEAR = {
    "lr": "kappa lr",
    "momentum": "unchanged",
    "weight_decay": "unchanged: multiplied by lr, which is scaled",
}
_SQUARE_ROOT = {
    "lr": "sqrt(kappa) lr",
    "betas": "beta ** kappa",
    "eps": "eps / sqrt(kappa)",
    "weight_decay": "unchanged: L2, a part of the gradient",
}
_RULES = {
    "sgd": _LINEAR,
    "adam": _SQUARE_ROOT,
    "adamw": _SQUARE_ROOT | {"weight_decay": "sqrt(kappa) wd, so that lr wd grows by kappa"},
    "nadam": _SQUARE_ROOT | {"momentum_decay": "kappa momentum_decay: it counts steps"},
    "radam": _SQUARE_ROOT,
    "adagrad": {
        "lr": "unchanged: the sum of squares shrinks by kappa ** 2 instead",
        "eps": "eps / kappa",
        "initial_accumulator_value": "a / kappa ** 2",
        "weight_decay": "unchanged: L2, a part of the gradient",
    },
}


@dataclass(frozen=True)
class ScaleRow:
    """One line of the table.

    A quantity at the reference batch size, at the new batch size, and the scaling rule.
    """

    name: str
    reference: str
    scaled: str
    rule: str


def scale_table(
    config: RunConfig, batch_seconds: float, steps: StepAudio | None = None, epoch_hours: float = 0.0
) -> tuple[list[ScaleRow], list[str]]:
    """Return how the hyper-parameters of a run change at batch size `batch_seconds`.

    Args:
        config: config of the run. `batch.seconds` is ignored; the reference is `batch.reference_seconds`.
        batch_seconds: padded seconds of audio per optimizer step, summed over ranks.
        steps: audio of a step at this batch and at the reference batch; None: the padded seconds.
        epoch_hours: hours of audio in all training manifests; 0: unknown, the table has no epochs.

    Returns:
        The table, and warnings if the scaled run is outside the range in which the rules are known to hold.

    Raises:
        UserError: the batch size is not positive and finite, a setting of the teacher or optimizer is
            invalid, or a rule is undefined at this batch size.
    """
    config = at_batch(config, batch_seconds)
    if steps is None:
        steps = nominal_step_audio(config, world_size=1)
    elif steps.batches.all != (float(batch_seconds),):
        try:
            steps = replace(steps, batches=BatchSchedule(float(batch_seconds)))
        except ValueError as error:
            raise UserError(f"batch: {error}") from error
    plan = build_plan(config, steps)
    batch = ScaledBatch(plan)
    rows = _batch_rows(batch)
    if epoch_hours > 0.0:
        epochs = number(batch.half_life / 3600.0 / epoch_hours)
        rule = f"unchanged: passes over {number(epoch_hours)} h"
        rows.append(ScaleRow("teacher half-life (epochs)", epochs, epochs, rule))
    rows += _optimizer_rows(plan.optimizer, batch.kappa)
    rows += _step_rows(config, batch)
    # Without pseudo-labels, the teacher's half-life does not affect the student.
    learns_from_teacher = config.pseudo_labels.learns_from_itself
    return rows, warnings(plan, learns_from_teacher=learns_from_teacher)


def at_batch(config: RunConfig, batch_seconds: float) -> RunConfig:
    """Return the config with a constant batch size.

    Raises:
        UserError: the batch size is not positive and finite.
    """
    if not (math.isfinite(batch_seconds) and batch_seconds > 0.0):
        raise UserError(f"the batch size must be a positive number of seconds, not {batch_seconds:g}")
    batch = replace(config.batch, seconds=float(batch_seconds), progressive=[], growth="none")
    return replace(config, batch=batch)


def _batch_rows(batch: ScaledBatch) -> list[ScaleRow]:
    steps, hours = batch.plan.steps, number(batch.half_life / 3600.0)
    rho, scaled_rho = (momentum(batch.half_life, s) for s in (batch.reference_audio, batch.audio))
    updates, scaled_updates = batch.steps(batch.half_life / 3600.0)
    rows = [ScaleRow("batch (padded s)", number(steps.reference), number(steps.batches.first), "given")]
    if steps.measured:
        audio = number(batch.reference_audio), number(batch.audio)
        rows.append(ScaleRow("audio per step (s)", *audio, "mean, unpadded"))
    definition = "audio / reference audio" if steps.measured else "nominal: batch / reference batch, padded"
    return [
        *rows,
        ScaleRow("kappa", "1", number(batch.kappa), definition),
        ScaleRow("teacher rho per step", momentum_text(rho), momentum_text(scaled_rho), "rho ** kappa"),
        ScaleRow("teacher half-life (h of audio)", hours, hours, "unchanged: counted in audio"),
        ScaleRow("teacher half-life (steps)", count(updates), count(scaled_updates), "same audio: / kappa"),
    ]


def _optimizer_rows(optimizer: ReferenceOptimizer, kappa: float) -> list[ScaleRow]:
    rules = dict(_RULES[optimizer.name])
    if optimizer.beta_form == "linear" and "betas" in rules:
        rules["betas"] = "1 - kappa (1 - beta)"
    clip_rule = "no clipping" if optimizer.clip_norm is None else "C / sqrt(kappa)"
    if optimizer.noise_share < 1.0:
        # Quantities that scale with the noise share, not just with a power of kappa.
        by_noise = f"by the gain at a noise share of {optimizer.noise_share:g} (scaling.gradient_noise)"
        noisy = {"lr", "eps", "initial_accumulator_value"} if optimizer.name != "sgd" else set()
        noisy |= {"weight_decay"} if optimizer.name == "adamw" else set()
        rules |= dict.fromkeys(noisy & rules.keys(), by_noise)
        clip_rule = clip_rule if optimizer.clip_norm is None else by_noise
    if optimizer.rule == "none":
        rules = dict.fromkeys(rules, "unchanged: optimizer.rule is none")
        clip_rule = "unchanged: optimizer.rule is none"
    if optimizer.rule == "adascale":
        rules = {key: f"{rule}, with the measured r <= kappa for kappa" for key, rule in rules.items()}
        clip_rule = f"{clip_rule}, with r for kappa"
    group, clip_norm = optimizer.at(kappa)
    reference = {**optimizer.group, "clip_norm": optimizer.clip_norm}
    scaled = {**group, "clip_norm": clip_norm}
    rules["clip_norm"] = clip_rule
    return [
        ScaleRow(key.replace("_", " "), value_text(key, reference[key]), value_text(key, scaled[key]), rule)
        for key, rule in rules.items()
    ]


def _step_rows(config: RunConfig, batch: ScaledBatch) -> list[ScaleRow]:
    periods = {"steps in the whole run": config.hours, "warm-up steps": config.schedule.warmup_hours}
    if config.pseudo_labels.uses_unlabelled:
        periods["steps before pseudo-labels"] = config.pseudo_labels.start_hours
    return [
        ScaleRow(name, count(steps), count(scaled), f"same {number(hours)} h of audio: / kappa")
        for name, hours in periods.items()
        for steps, scaled in [batch.steps(hours)]
    ]
