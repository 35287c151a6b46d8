"""The learning rate over hours of audio: linear warm-up, plateau, decay. A pure function of the clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class ScheduleConfig:
    """Times in hours of audio consumed; the same at every batch size, which is the point."""

    warmup_hours: float = field(default=0.0, metadata={"least": 0.0, "most": 1e9})
    # Where decay begins; null: never.
    decay_from_hours: float | None = field(default=None, metadata={"least": 0.0, "most": 1e9})
    # The share of the peak rate that is left at the end of the run.
    final: float = field(default=0.0, metadata={"least": 0.0, "most": 1.0})
    shape: str = "cosine"


@dataclass(frozen=True)
class Schedule:
    """Factor in [0, 1] on the scaled learning rate.

    Raises:
        ValueError: an unknown shape, or a final share outside [0, 1].
    """

    config: ScheduleConfig
    end_hours: float

    def __post_init__(self) -> None:
        if self.config.shape not in ("cosine", "linear"):
            raise ValueError(f"schedule.shape {self.config.shape!r} is neither 'cosine' nor 'linear'")
        if not 0.0 <= self.config.final <= 1.0:
            raise ValueError(f"schedule.final {self.config.final} lies outside [0, 1]")

    def factor(self, hours: float) -> float:
        """The factor after `hours` of audio."""
        config = self.config
        if hours < config.warmup_hours:
            return hours / config.warmup_hours
        if config.decay_from_hours is None or hours <= config.decay_from_hours:
            return 1.0
        span = self.end_hours - config.decay_from_hours
        progress = min(1.0, (hours - config.decay_from_hours) / span) if span > 0.0 else 1.0
        left = 0.5 * (1.0 + math.cos(math.pi * progress)) if config.shape == "cosine" else 1.0 - progress
        return config.final + (1.0 - config.final) * left
