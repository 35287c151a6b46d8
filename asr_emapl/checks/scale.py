"""What another batch does to a run, as a table to read before anything runs: `asr-emapl scale`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from asr_emapl.config import RunConfig
from asr_emapl.data.manifest import read_manifest
from asr_emapl.errors import UserError
from asr_emapl.scaling import ScalingPlan, half_life, momentum
from asr_emapl.training.corpora import manifests_present

# The rule is of first order in kappa (1 - rho); from here on the table comes with a warning.
FIRST_ORDER_LIMIT = 0.1
# Half-life in updates below which published EMA-teacher runs collapsed (Kaizen, on other data and models).
SHORT_HALF_LIFE_STEPS = 1000
# A beta below this averages over hardly more than the step itself.
SMALL_BETA = 0.5
SHORT_WARMUP_STEPS = 10
# Relative error of floating point that is not allowed to tip a limit over.
ROUNDING = 1e-9

_LINEAR = {
    "lr": "kappa lr",
    "momentum": "unchanged",
    "weight_decay": "unchanged: multiplied by lr, which carries kappa",
}
_SQUARE_ROOT = {
    "lr": "sqrt(kappa) lr",
    "betas": "beta ** kappa",
    "eps": "eps / sqrt(kappa)",
    "weight_decay": "unchanged: L2, a part of the gradient",
}
_IN_WORDS = {
    "sgd": _LINEAR,
    "adam": _SQUARE_ROOT,
    "adamw": _SQUARE_ROOT | {"weight_decay": "sqrt(kappa) wd, so that lr wd grows by kappa"},
    "nadam": _SQUARE_ROOT | {"momentum_decay": "kappa momentum_decay: it counts steps"},
    "radam": _SQUARE_ROOT,
    "adagrad": {
        "lr": "unchanged: the sum of squares shrinks by kappa ** 2 in its place",
        "eps": "eps / kappa",
        "initial_accumulator_value": "a / kappa ** 2",
        "weight_decay": "unchanged: L2, a part of the gradient",
    },
}
_NAMES = {
    "weight_decay": "weight decay",
    "momentum_decay": "momentum decay",
    "initial_accumulator_value": "initial accumulator value",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: a quantity at the reference batch, at the other one, and the rule in words."""

    name: str
    reference: str
    scaled: str
    rule: str


@dataclass(frozen=True)
class _Batches:
    """Mean audio of a step at the two batches in seconds, and the teacher's half-life in the same unit."""

    scaling: ScalingPlan
    half_life: float

    @property
    def reference(self) -> float:
        return self.scaling.reference_audio

    @property
    def scaled(self) -> float:
        return self.scaling.step_audio(0.0)

    @property
    def kappa(self) -> float:
        return self.scaling.kappa()

    def padded(self, audio: float) -> float:
        """About the batch, in padded seconds, at which a step has so much audio."""
        return audio * self.scaling.batches.first / self.scaled

    def steps(self, hours: float) -> tuple[float, float]:
        """Optimizer steps in so many hours of audio, at either batch."""
        return hours * 3600.0 / self.reference, hours * 3600.0 / self.scaled


def dry_run(
    config: RunConfig, batch_seconds: float, scaling: ScalingPlan | None = None, epoch_hours: float = 0.0
) -> tuple[list[Row], list[str]]:
    """What changes, and what does not, when a run's batch becomes `batch_seconds`.

    Args:
        config: of the run; its own `batch.seconds` plays no part, the reference is `batch.reference_seconds`.
        batch_seconds: audio of one optimizer step over all ranks, padding included.
        scaling: that knows the unpadded audio of a step at this batch and at the reference; None: nominal.
        epoch_hours: audio in all training manifests; 0: unknown, and no epochs in the table.

    Returns:
        The table, and warnings where the scaled run leaves the range in which the rules are known to hold.

    Raises:
        UserError: a batch that is not positive and finite, a config whose teacher or optimizer is not valid,
            or a rule that has no answer at this batch.
    """
    batches = _batches(config, batch_seconds, scaling)
    group, clip_norm = config.optimizer.scaled(batches.kappa)
    rows = _batch_rows(batches)
    if epoch_hours > 0.0:
        rows.append(_epoch_row(batches, epoch_hours))
    rows += _optimizer_rows(config, group, clip_norm)
    rows += _step_rows(config, batches)
    warnings = [
        _beyond_first_order(config, batches),
        _short_half_life(config, batches),
        *_small_betas(config, batches, group),
        _short_warmup(config, batches),
    ]
    return rows, [warning for warning in warnings if warning]


def epoch_hours(config: RunConfig) -> float:
    """Hours of audio in the manifests that the run learns from; 0 if one of them is not there yet.

    Raises:
        UserError: a manifest that is there cannot be read.
    """
    return sum(u.duration for path in manifests_present(config) for u in read_manifest(path)) / 3600.0


def at_batch(config: RunConfig, batch_seconds: float) -> RunConfig:
    """The config of a run that has this batch from beginning to end.

    Raises:
        UserError: a batch that is not positive and finite.
    """
    if not (math.isfinite(batch_seconds) and batch_seconds > 0.0):
        raise UserError(f"the batch must be a positive number of seconds, not {batch_seconds:g}")
    return replace(config, batch=replace(config.batch, seconds=float(batch_seconds), progressive=[]))


def _batches(config: RunConfig, batch_seconds: float, scaling: ScalingPlan | None) -> _Batches:
    nominal = at_batch(config, batch_seconds).nominal_scaling(world_size=1)
    if scaling is not None:
        try:
            scaling = replace(scaling, batches=nominal.batches)
        except ValueError as error:
            raise UserError(f"batch: {error}") from error
    scaling = scaling or nominal
    reference = scaling.reference_audio
    try:
        half_life_s = config.teacher.half_life_seconds(reference)
        # Asked for the sake of its judgement: a half-life that is not positive has no momentum.
        momentum(half_life_s, reference)
    except ValueError as error:
        raise UserError(f"teacher: {error}") from error
    return _Batches(scaling, half_life_s)


def _batch_rows(batches: _Batches) -> list[Row]:
    hours = _number(batches.half_life / 3600.0)
    rho, scaled_rho = (momentum(batches.half_life, s) for s in (batches.reference, batches.scaled))
    steps, scaled_steps = batches.steps(batches.half_life / 3600.0)
    scaling = batches.scaling
    audio = Row("audio of a step (s)", _number(batches.reference), _number(batches.scaled), "mean, unpadded")
    return [
        Row("batch (padded s)", _number(scaling.reference), _number(scaling.batches.first), "given"),
        *([audio] if scaling.measured else []),
        Row(
            "kappa",
            "1",
            _number(batches.kappa),
            "audio / reference audio" if scaling.measured else "nominal: batch / reference batch, padded",
        ),
        Row("teacher rho per step", _momentum(rho), _momentum(scaled_rho), "rho ** kappa"),
        Row("teacher half-life (h of audio)", hours, hours, "unchanged: counted in audio"),
        Row("teacher half-life (steps)", _count(steps), _count(scaled_steps), "same audio: / kappa"),
    ]


def _epoch_row(batches: _Batches, epoch_hours: float) -> Row:
    epochs = _number(batches.half_life / 3600.0 / epoch_hours)
    return Row(
        "teacher half-life (epochs)", epochs, epochs, f"unchanged: passes over {_number(epoch_hours)} h"
    )


def _optimizer_rows(config: RunConfig, group: dict[str, Any], clip_norm: float) -> list[Row]:
    optimizer = config.optimizer
    words = dict(_IN_WORDS[optimizer.name])
    if optimizer.beta_form == "linear" and "betas" in words:
        words["betas"] = "1 - kappa (1 - beta)"
    clip_words = "C / sqrt(kappa)" if optimizer.clip_norm > 0.0 else "no clipping"
    if optimizer.noise_share < 1.0:
        # Which of them: those that scale with more than a power of kappa alone, that is with the noise.
        told = f"by the gain at a noise share of {optimizer.noise_share:g} (scaling.noise)"
        noisy = {"lr", "eps", "initial_accumulator_value"} if optimizer.name != "sgd" else set()
        noisy |= {"weight_decay"} if optimizer.name == "adamw" else set()
        words |= dict.fromkeys(noisy & words.keys(), told)
        clip_words = told if optimizer.clip_norm > 0.0 else clip_words
    if optimizer.rule == "none":
        words = dict.fromkeys(words, "unchanged: optimizer.rule is none")
        clip_words = "unchanged: optimizer.rule is none"
    reference = optimizer.reference_group()
    rows = [Row(_NAMES.get(k, k), _value(k, reference[k]), _value(k, group[k]), words[k]) for k in words]
    rows.append(Row("clip norm", _number(optimizer.clip_norm), _number(clip_norm), clip_words))
    return rows


def _step_rows(config: RunConfig, batches: _Batches) -> list[Row]:
    periods = {"steps in the whole run": config.hours, "warm-up steps": config.schedule.warmup_hours}
    if config.pseudo_labels.strategy != "none":
        periods["steps before pseudo-labels"] = config.pseudo_labels.start_hours
    rows = []
    for name, hours in periods.items():
        steps, scaled_steps = batches.steps(hours)
        rows.append(
            Row(name, _count(steps), _count(scaled_steps), f"same {_number(hours)} h of audio: / kappa")
        )
    return rows


# Warnings: each with its number, and what to change; values that they advise are rounded to the safe side.


def _beyond_first_order(config: RunConfig, batches: _Batches) -> str | None:
    rho, kappa = momentum(batches.half_life, batches.reference), batches.kappa
    # At the reference itself nothing is scaled, whatever rho is.
    if kappa == 1.0 or kappa * (1.0 - rho) <= FIRST_ORDER_LIMIT * (1.0 + ROUNDING):
        return None
    # Lag behind a steadily moving student, in base steps: kappa rho^kappa / (1 - rho^kappa); post order.
    scaled_rho = momentum(batches.half_life, batches.scaled)
    lag, scaled_lag = rho / (1.0 - rho), kappa * scaled_rho / (1.0 - scaled_rho)
    change = scaled_lag / lag - 1.0 if lag > 0.0 else 0.0
    enough = half_life(1.0 - FIRST_ORDER_LIMIT / max(kappa, 1.0), batches.reference)
    remedy = _longer_half_life(config, batches, enough)
    largest = FIRST_ORDER_LIMIT / (1.0 - rho) * batches.reference
    if largest > batches.reference:
        remedy = f"stay at or below {_below(batches.padded(largest))} s, or {remedy}"
    return (
        f"kappa (1 - rho) is {_number(kappa * (1.0 - rho))}, above {FIRST_ORDER_LIMIT:g}: rho ** kappa holds "
        f"to first order only, and the teacher's lag behind the student is {abs(change):.1%} "
        f"{'shorter' if change < 0.0 else 'longer'} than at the reference batch; {remedy}"
    )


def _short_half_life(config: RunConfig, batches: _Batches) -> str | None:
    # True texts do not come from the teacher: no teacher is led astray by a student that learns them.
    if config.pseudo_labels.strategy in ("none", "oracle"):
        return None
    reference_steps, steps = batches.steps(batches.half_life / 3600.0)
    if steps >= SHORT_HALF_LIFE_STEPS * (1.0 - ROUNDING):
        return None
    remedy = _longer_half_life(config, batches, SHORT_HALF_LIFE_STEPS * batches.scaled)
    if reference_steps >= SHORT_HALF_LIFE_STEPS:
        largest = batches.padded(batches.half_life / SHORT_HALF_LIFE_STEPS)
        remedy = f"stay at or below {_below(largest)} s, or {remedy}"
    return (
        f"the teacher's half-life is {_count(steps)} updates ({_count(reference_steps)} at the reference "
        f"batch), fewer than {SHORT_HALF_LIFE_STEPS:,}: Kaizen (Manohar et al. 2021) reports collapse below "
        "about 1,000 and stable runs from about 2,000, with its own data and models, which need not hold for "
        f"yours; should pseudo-labels turn empty, {remedy}"
    )


def _small_betas(config: RunConfig, batches: _Batches, group: dict[str, Any]) -> list[str]:
    optimizer = config.optimizer
    warnings = []
    for i, (beta, scaled) in enumerate(zip(optimizer.betas, group.get("betas", ()), strict=False)):
        if scaled >= SMALL_BETA * (1.0 - ROUNDING) or beta < SMALL_BETA:
            continue
        # In power form a beta is a momentum like any other: 1/2 is left of it after its half-life.
        seconds = batches.padded(batches.reference)
        linear = optimizer.beta_form == "linear"
        largest = SMALL_BETA / (1.0 - beta) * seconds if linear else half_life(beta, seconds)
        warnings.append(
            f"betas[{i}] falls from {_momentum(beta)} to {_momentum(scaled)}, below {SMALL_BETA:g}: it then "
            "averages over hardly more than one step, far from where the square-root rule was derived; "
            f"stay at or below {_below(largest)} s, or tune a larger beta at the reference batch"
        )
    return warnings


def _short_warmup(config: RunConfig, batches: _Batches) -> str | None:
    hours = config.schedule.warmup_hours
    _, steps = batches.steps(hours)
    if hours <= 0.0 or steps >= SHORT_WARMUP_STEPS * (1.0 - ROUNDING):
        return None
    enough = SHORT_WARMUP_STEPS * batches.scaled / 3600.0
    return (
        f"warm-up is {_count(steps)} steps at this batch, fewer than {SHORT_WARMUP_STEPS}: the learning rate "
        f"jumps instead of rising; lengthen schedule.warmup_hours to {_above(enough)}, or set it to 0"
    )


def _longer_half_life(config: RunConfig, batches: _Batches, seconds: float) -> str:
    """Advice in terms of the key that the config states the half-life with."""
    if config.teacher.half_life_hours is not None:
        return f"lengthen teacher.half_life_hours to {_above(seconds / 3600.0)}"
    # The limit keeps an absurd batch from asking for a teacher that never moves.
    share = max(1e-15, 1.0 - momentum(seconds, batches.reference))
    return f"raise teacher.rho to {_momentum(1.0 - float(_below(share)))}"


# Numbers as a person reads them.


def _number(value: float) -> str:
    """Four significant digits; five and more before the point stay an integer (37120, not 3.712e+04)."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _below(value: float) -> str:
    """`_number` rounded down, for a limit to stay under."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return _number(math.floor(value / unit * (1.0 + ROUNDING)) * unit)


def _above(value: float) -> str:
    """`_number` rounded up, for a limit to reach."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return _number(math.ceil(value / unit * (1.0 - ROUNDING)) * unit)


def _count(steps: float) -> str:
    """Whole steps with thousands separated; fractions only where a few steps make a difference."""
    return f"{steps:,.0f}" if steps >= 100.0 else f"{steps:.3g}"


def _momentum(rho: float) -> str:
    """As many digits as leave four significant ones in 1 - rho, where a momentum's meaning lies."""
    if not 0.5 <= rho < 1.0:
        return f"{rho:.4g}"
    decimals = min(17, 3 + math.ceil(-math.log10(1.0 - rho)))
    return f"{rho:.{decimals}f}".rstrip("0")


def _value(key: str, value: Any) -> str:
    if key == "betas":
        return ", ".join(_momentum(beta) for beta in value)
    return _momentum(value) if key == "momentum" else _number(value)
