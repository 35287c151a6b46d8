"""Settings of pseudo-labels. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asr_emapl.settings import Factor, Hours, Share


@dataclass
class PseudoLabelConfig:
    """Labels for untranscribed audio. Times in hours of audio consumed."""

    strategy: Literal["none", "ema", "oracle"] = "none"
    """none: a supervised run; ema: greedy labels of the teacher; oracle: the true texts, an upper bound."""
    start_hours: Hours = 0.0
    """Hours of supervised training before pseudo-labels begin."""
    unlabelled_per_labelled: Factor = 1.0
    """Ratio of unlabelled to labelled audio once they have begun."""
    min_confidence: Share = 0.0
    """Drop labels whose mean over frames of the highest probability is below this."""
    min_tokens_per_second: Factor = 0.0
    """Drop labels with fewer tokens per second of audio."""
    max_tokens_per_second: Factor = 100.0
    """Drop labels with more tokens per second of audio."""
    dropout: Share | None = None
    """Dropout of the student once pseudo-labels have begun; null: unchanged."""
    layerdrop: Share | None = None
    """Layer drop of the student once pseudo-labels have begun; null: unchanged."""
