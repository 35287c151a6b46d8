"""Settings of pseudo-labels. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asr_emapl.settings import Factor, Hours, Share


@dataclass
class PseudoLabelConfig:
    """Labels for untranscribed audio. Times are in hours of audio consumed."""

    strategy: Literal["none", "ema", "oracle"] = "none"
    """none: supervised training; ema: greedy labels of the teacher; oracle: transcripts (an upper bound)."""
    start_hours: Hours = 0.0
    """Hours of supervised training before pseudo-labels are used."""
    unlabelled_per_labelled: Factor = 1.0
    """Ratio of unlabelled to labelled audio after start_hours."""
    min_confidence: Share = 0.0
    """Drop labels with a lower confidence: the mean over frames of the highest probability."""
    min_tokens_per_second: Factor = 0.0
    """Drop labels with fewer tokens per second of audio."""
    max_tokens_per_second: Factor = 100.0
    """Drop labels with more tokens per second of audio."""
    dropout: Share | None = None
    """Dropout of the student after start_hours; null: unchanged."""
    layerdrop: Share | None = None
    """LayerDrop of the student after start_hours; null: unchanged."""
