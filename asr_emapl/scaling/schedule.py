"""Learning-rate schedule over hours of audio: linear warm-up, plateau, decay."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Factor in [0, 1] on the scaled learning rate. Times are in hours of audio consumed.

    Args:
        end_hours: length of the run.
        warmup_hours: length of the linear warm-up from 0.
        decay_from_hours: start of the decay, which lasts to the end of the run; None: no decay.
        final: factor at the end of the run.
        shape: shape of the decay, "cosine" or "linear".

    Raises:
        ValueError: the shape is unknown, or `final` is outside [0, 1].
    """

    end_hours: float
    warmup_hours: float = 0.0
    decay_from_hours: float | None = None
    final: float = 0.0
    shape: str = "cosine"

    def __post_init__(self) -> None:
        if self.shape not in ("cosine", "linear"):
            raise ValueError(f"shape {self.shape!r} is neither 'cosine' nor 'linear'")
        if not 0.0 <= self.final <= 1.0:
            raise ValueError(f"final {self.final} is outside [0, 1]")

    def factor(self, hours: float) -> float:
        """The factor after `hours` of audio."""
        if hours < self.warmup_hours:
            return hours / self.warmup_hours
        if self.decay_from_hours is None or hours <= self.decay_from_hours:
            return 1.0
        span = self.end_hours - self.decay_from_hours
        progress = min(1.0, (hours - self.decay_from_hours) / span) if span > 0.0 else 1.0
        left = 0.5 * (1.0 + math.cos(math.pi * progress)) if self.shape == "cosine" else 1.0 - progress
        return self.final + (1.0 - self.final) * left

    def falls_to(self, factor: float) -> float:
        """Hours of audio from which on the decay has reached `factor`; infinite if it ends above.

        Raises:
            ValueError: the factor is outside (0, 1).
        """
        if not 0.0 < factor < 1.0:
            raise ValueError(f"factor {factor} is outside (0, 1)")
        if self.decay_from_hours is None or factor <= self.final or self.decay_from_hours >= self.end_hours:
            return math.inf
        left = (factor - self.final) / (1.0 - self.final)
        progress = math.acos(2.0 * left - 1.0) / math.pi if self.shape == "cosine" else 1.0 - left
        return self.decay_from_hours + progress * (self.end_hours - self.decay_from_hours)
