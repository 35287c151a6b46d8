"""Moving averages at another batch size: the EMA Scaling Rule, which preserves the half-life in audio.

kappa = batch / reference batch. An average z <- rho z + (1 - rho) x is updated once per step, so its
half-life in data grows with the batch. With rho ** kappa, the half-life in data is unchanged.
"""

from __future__ import annotations

import math


def scale_momentum(rho: float, kappa: float) -> float:
    """The EMA Scaling Rule: rho -> rho ** kappa (Busbridge et al. 2023).

    Raises:
        ValueError: rho is outside [0, 1] or kappa is not positive.
    """
    require_kappa(kappa)
    if not 0.0 <= rho <= 1.0:
        raise ValueError(f"momentum {rho} is outside [0, 1]")
    return float(rho**kappa)


def half_life(rho: float, audio_per_step: float) -> float:
    """Half-life of an average with momentum rho, as audio in the unit of `audio_per_step`.

    Infinite for rho = 1, zero for rho = 0.
    """
    if not 0.0 <= rho <= 1.0:
        raise ValueError(f"momentum {rho} is outside [0, 1]")
    if rho == 0.0:
        return 0.0
    return math.inf if rho == 1.0 else audio_per_step * math.log(2.0) / -math.log(rho)


def momentum(half_life: float, audio: float) -> float:
    """Momentum rho of a step that consumes `audio`: 2 ** (-audio / half_life), both in the same unit.

    Equivalent to the EMA Scaling Rule: momentum(h, kappa * audio) == momentum(h, audio) ** kappa.

    Raises:
        ValueError: half_life is not positive, or audio is negative.
    """
    if not half_life > 0.0:
        raise ValueError(f"a half-life must be positive, not {half_life}")
    if audio < 0.0:
        raise ValueError(f"audio of a step must not be negative, got {audio}")
    return 2.0 ** (-audio / half_life)


def scale_batch_norm_momentum(m: float | None, kappa: float) -> float | None:
    """`momentum` of torch's BatchNorm layers: m -> 1 - (1 - m) ** kappa. Derived.

    The running statistics are an average over batches in which the new batch has weight m, so 1 - m is the
    rho of the EMA Scaling Rule. Limitations: the statistics of one batch depend on the number of examples
    that are normalised together, which must not change (per device, or ghost batches). With gradient
    accumulation, each micro-batch is one update, and kappa is the ratio of the micro-batches.

    Args:
        m: weight of the new batch, in [0, 1]; None (torch's cumulative average) is returned unchanged.
        kappa: size of the batch that is normalised in one forward pass, relative to the reference batch.

    Raises:
        ValueError: m is outside [0, 1] or kappa is not positive.
    """
    require_kappa(kappa)
    if m is None:
        return None
    if not 0.0 <= m <= 1.0:
        raise ValueError(f"batch-norm momentum {m} is outside [0, 1]")
    # 1 - (1 - m) ** kappa, without loss of precision for small m.
    return 1.0 if m == 1.0 else -math.expm1(kappa * math.log1p(-m))


def require_kappa(kappa: float) -> None:
    """Raise ValueError unless kappa is positive and finite."""
    if not (kappa > 0.0 and math.isfinite(kappa)):
        raise ValueError(f"kappa must be positive and finite, not {kappa}")
