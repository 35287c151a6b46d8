"""Settings of pseudo-labels. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class PseudoLabelConfig:
    """Labels for untranscribed audio. Times in hours of audio consumed."""

    # none: a supervised run; ema: the teacher's greedy labels; oracle: the true texts, the upper bound.
    strategy: str = "none"
    start_hours: float = field(default=0.0, metadata={"least": 0.0, "most": 1e9})
    # Ratio in audio once they have begun.
    unlabelled_per_labelled: float = field(default=1.0, metadata={"least": 0.0, "most": 1e6})
    # Mean over frames of the teacher's highest probability, below which labels are dropped.
    min_confidence: float = field(default=0.0, metadata={"least": 0.0, "most": 1.0})
    # Tokens a second of audio outside of which labels are dropped.
    min_tokens_per_second: float = field(default=0.0, metadata={"least": 0.0, "most": 1e6})
    max_tokens_per_second: float = field(default=100.0, metadata={"least": 0.0, "most": 1e6})
    # The student's dropout from there on; None: unchanged.
    dropout: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})
    layerdrop: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})
