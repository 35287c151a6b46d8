"""Moving averages when the batch grows by kappa: the EMA Scaling Rule, and the half-life that it keeps.

kappa = batch / reference batch. An average z <- rho z + (1 - rho) x that is updated once a step forgets by
steps; for it to forget by data consumed, rho goes to rho ** kappa.
"""

from __future__ import annotations

import math


def scale_momentum(rho: float, kappa: float) -> float:
    """The EMA Scaling Rule itself: rho -> rho ** kappa (Busbridge et al. 2023, Definition of the rule).

    Raises:
        ValueError: rho outside [0, 1] or kappa not positive.
    """
    require_kappa(kappa)
    if not 0.0 <= rho <= 1.0:
        raise ValueError(f"momentum {rho} is outside [0, 1]")
    return float(rho**kappa)


def half_life(rho: float, audio_per_step: float) -> float:
    """Audio (in the unit of `audio_per_step`) after which a weight counts half in the average.

    Infinite for rho = 1, zero for rho = 0.
    """
    if not 0.0 <= rho <= 1.0:
        raise ValueError(f"momentum {rho} is outside [0, 1]")
    if rho == 0.0:
        return 0.0
    return math.inf if rho == 1.0 else audio_per_step * math.log(2.0) / -math.log(rho)


def momentum(half_life: float, audio: float) -> float:
    """rho of a step that consumes `audio`: 2 ** (-audio / half_life). Same unit for both.

    This *is* the rule: momentum(h, kappa * audio) == momentum(h, audio) ** kappa.

    Raises:
        ValueError: half_life not positive, or audio negative.
    """
    if not half_life > 0.0:
        raise ValueError(f"a half-life must be positive, not {half_life}")
    if audio < 0.0:
        raise ValueError(f"a step cannot consume {audio} of audio")
    return 2.0 ** (-audio / half_life)


def scale_batch_norm_momentum(m: float | None, kappa: float) -> float | None:
    """`momentum` of torch's BatchNorm layers: m -> 1 - (1 - m) ** kappa. Derived.

    The running statistics are an average over batches in which the *new* one has the weight m, so 1 - m is
    the rho of the EMA Scaling Rule. Limits: the statistics of a batch themselves depend on how much is
    normalised together, which has to stay what it was (per device, or ghost batches). With gradient
    accumulation each micro-batch is an update of its own: there kappa is the ratio of the micro-batches.

    Args:
        m: weight of the new batch, in [0, 1]; None, torch's cumulative average, has no memory to scale.
        kappa: batch / reference batch, of what is normalised in one forward pass.

    Raises:
        ValueError: m outside [0, 1] or kappa not positive.
    """
    require_kappa(kappa)
    if m is None:
        return None
    if not 0.0 <= m <= 1.0:
        raise ValueError(f"batch-norm momentum {m} is outside [0, 1]")
    # 1 - (1 - m) ** kappa as it stands would lose the digits of a small m.
    return 1.0 if m == 1.0 else -math.expm1(kappa * math.log1p(-m))


def require_kappa(kappa: float) -> None:
    """Raises ValueError unless kappa is positive and finite."""
    if not (kappa > 0.0 and math.isfinite(kappa)):
        raise ValueError(f"kappa must be positive and finite, not {kappa}")
