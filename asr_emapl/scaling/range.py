"""Warn if a plan leaves the range in which the scaling rule is known to hold; format numbers for messages.

Limits are rounded to the safe side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from asr_emapl.scaling.averages import half_life, momentum
from asr_emapl.scaling.plan import ScalingPlan

# The rule holds to first order in kappa (1 - rho).
FIRST_ORDER_LIMIT = 0.1
# Half-lives in updates below which published EMA-teacher runs collapsed, and from which they were stable
# (Kaizen, on other data and models).
SHORT_HALF_LIFE_STEPS, STABLE_HALF_LIFE_STEPS = 1000, 2000
# Longest half-life that is advised, as a share of the run. With a longer one, the teacher lags too much.
LONGEST_ADVISED_SHARE = 0.1
# A beta below this averages over little more than one step.
SMALL_BETA = 0.5
SHORT_WARMUP_STEPS = 10
# Relative tolerance of limits, for rounding errors.
ROUNDING = 1e-9


@dataclass(frozen=True)
class ScaledBatch:
    """A plan's batch after `hours` of audio, compared with the reference batch.

    Attributes:
        kappa: kappa of the batch.
        reference_audio, audio: mean unpadded seconds of a step at the reference batch and at this one.
        half_life: half-life of the teacher, in seconds of audio.
    """

    plan: ScalingPlan
    hours: float = 0.0

    @property
    def kappa(self) -> float:
        return self.plan.steps.kappa(self.hours)

    @property
    def reference_audio(self) -> float:
        return self.plan.steps.reference_seconds

    @property
    def audio(self) -> float:
        return self.plan.steps.seconds(self.hours)

    @property
    def half_life(self) -> float:
        half_life = self.plan.half_life
        return half_life(3600.0 * self.hours) if callable(half_life) else half_life

    def padded(self, audio: float) -> float:
        """Batch in padded seconds at which a step has about `audio` unpadded seconds."""
        return audio * self.plan.steps.batches.seconds(self.hours) / self.audio

    def steps(self, hours: float) -> tuple[float, float]:
        """Number of optimizer steps in `hours` of audio, at the reference batch and at this one."""
        return hours * 3600.0 / self.reference_audio, hours * 3600.0 / self.audio


def warnings(plan: ScalingPlan, hours: float = 0.0, *, learns_from_teacher: bool) -> list[str]:
    """Warnings for the batch after `hours` of audio; empty if the rule is within its range.

    Args:
        learns_from_teacher: whether the student is trained on the teacher's labels.
    """
    batch = ScaledBatch(plan, hours)
    found = [_beyond_first_order(batch)]
    if learns_from_teacher:
        found.append(_short_half_life(batch))
    found += [*_small_betas(batch), _short_warmup(batch)]
    return [warning for warning in found if warning]


def _beyond_first_order(batch: ScaledBatch) -> str | None:
    rho, kappa = momentum(batch.half_life, batch.reference_audio), batch.kappa
    # At the reference batch, nothing is scaled.
    if kappa == 1.0 or kappa * (1.0 - rho) <= FIRST_ORDER_LIMIT * (1.0 + ROUNDING):
        return None
    # Lag behind a steadily moving student, in reference steps: kappa rho^kappa / (1 - rho^kappa), post order.
    scaled_rho = momentum(batch.half_life, batch.audio)
    lag, scaled_lag = rho / (1.0 - rho), kappa * scaled_rho / (1.0 - scaled_rho)
    change = scaled_lag / lag - 1.0 if lag > 0.0 else 0.0
    longer = half_life(1.0 - FIRST_ORDER_LIMIT / max(kappa, 1.0), batch.reference_audio)
    largest = FIRST_ORDER_LIMIT / (1.0 - rho) * batch.reference_audio
    remedy = _remedy(batch, largest if largest > batch.reference_audio else None, longer)
    return (
        f"kappa (1 - rho) is {number(kappa * (1.0 - rho))}, above {FIRST_ORDER_LIMIT:g}: rho ** kappa holds "
        f"to first order only, and the lag of the teacher behind the student is {100 * abs(change):.1f} % "
        f"{'shorter' if change < 0.0 else 'longer'} than at the reference batch; {remedy}"
    )


def _short_half_life(batch: ScaledBatch) -> str | None:
    reference_steps, steps = batch.steps(batch.half_life / 3600.0)
    # A half-life that is short at the reference batch too was tuned so, as in the recipes (30 to 180 updates,
    # which are stable on little data). The larger batch does not change it in audio.
    was_short = reference_steps < STABLE_HALF_LIFE_STEPS * (1.0 - ROUNDING)
    if was_short or steps >= SHORT_HALF_LIFE_STEPS * (1.0 - ROUNDING):
        return None
    remedy = _remedy(batch, batch.half_life / SHORT_HALF_LIFE_STEPS, SHORT_HALF_LIFE_STEPS * batch.audio)
    return (
        f"the half-life of the teacher is {count(steps)} updates ({count(reference_steps)} at the reference "
        f"batch), fewer than {SHORT_HALF_LIFE_STEPS:,}: Kaizen (Manohar et al. 2021) reports collapse below "
        "about 1,000 updates and stable runs from about 2,000, for other data and models; if pseudo-labels "
        f"become empty, {remedy}"
    )


def _small_betas(batch: ScaledBatch) -> list[str]:
    optimizer = batch.plan.optimizer
    group, _ = optimizer.at(batch.kappa)
    found = []
    for i, beta in enumerate(optimizer.group.get("betas", ())):
        scaled = group["betas"][i]
        if scaled >= SMALL_BETA * (1.0 - ROUNDING) or beta < SMALL_BETA:
            continue
        # beta ** kappa is 0.5 if a step is as long as the half-life of beta.
        seconds = batch.padded(batch.reference_audio)
        linear = optimizer.beta_form == "linear"
        largest = SMALL_BETA / (1.0 - beta) * seconds if linear else half_life(beta, seconds)
        found.append(
            f"betas[{i}] falls from {momentum_text(beta)} to {momentum_text(scaled)}, below {SMALL_BETA:g}: "
            "it averages over little more than one step, for which the square-root rule was not derived; "
            f"stay at or below {below(largest)} s, or tune a larger beta at the reference batch"
        )
    return found


def _short_warmup(batch: ScaledBatch) -> str | None:
    hours = batch.plan.schedule.warmup_hours
    _, steps = batch.steps(hours)
    if hours <= 0.0 or steps >= SHORT_WARMUP_STEPS * (1.0 - ROUNDING):
        return None
    enough = SHORT_WARMUP_STEPS * batch.audio / 3600.0
    return (
        f"warm-up is {count(steps)} steps at this batch, fewer than {SHORT_WARMUP_STEPS}: the learning rate "
        f"jumps instead of rising; lengthen schedule.warmup_hours to {above(enough)}, or set it to 0"
    )


def _remedy(batch: ScaledBatch, largest: float | None, half_life_seconds: float) -> str:
    """Advice on a teacher with too few updates.

    Args:
        largest: audio of a step that is small enough; None: no larger batch than the reference is.
        half_life_seconds: the half-life that is long enough. It is not advised if it is too long for the run,
            unless nothing else helps.
    """
    longer = _longer(batch, half_life_seconds)
    if largest is None:
        return longer
    smaller = f"stay at or below {below(batch.padded(largest))} s"
    longest = LONGEST_ADVISED_SHARE * 3600.0 * batch.plan.schedule.end_hours
    return smaller if half_life_seconds > longest else f"{smaller}, or {longer}"


def _longer(batch: ScaledBatch, seconds: float) -> str:
    """Advice to lengthen the half-life, in terms of both settings for it."""
    # The bound avoids recommending rho = 1 for an extreme batch.
    step = max(1e-15, 1.0 - momentum(seconds, batch.reference_audio))
    return (
        f"lengthen teacher.half_life_hours to {above(seconds / 3600.0)} "
        f"(teacher.rho {momentum_text(1.0 - float(below(step)))})"
    )


def number(value: float) -> str:
    """Format with four significant digits, as an integer from 10,000 on (37120, not 3.712e+04)."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def below(value: float) -> str:
    """Format an upper limit: `number`, rounded down."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return number(math.floor(value / unit * (1.0 + ROUNDING)) * unit)


def above(value: float) -> str:
    """Format a lower limit: `number`, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return number(math.ceil(value / unit * (1.0 - ROUNDING)) * unit)


def count(steps: float) -> str:
    """Format a number of steps with thousands separators; three significant digits below 100."""
    return f"{steps:,.0f}" if steps >= 100.0 else f"{steps:.3g}"


def momentum_text(rho: float) -> str:
    """Format rho with enough digits for four significant ones in 1 - rho."""
    if not 0.5 <= rho < 1.0:
        return f"{rho:.4g}"
    decimals = min(17, 3 + math.ceil(-math.log10(1.0 - rho)))
    return f"{rho:.{decimals}f}".rstrip("0")


def value_text(key: str, value: Any) -> str:
    """Format a hyper-parameter of a param group."""
    if key == "betas":
        return ", ".join(momentum_text(beta) for beta in value)
    if value is None:
        return "null"
    return momentum_text(value) if key == "momentum" else number(value)
