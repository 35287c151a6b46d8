"""Label counts of a global batch, and the quality of pseudo-labels over many batches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WEAK_LABELLER_WER = 50.0
"""WER in percent above which the labels of a model seldom help."""


@dataclass(frozen=True)
class LabelCounts:
    """Label counts of one global batch.

    Attributes:
        utterances: number of utterances trained on.
        tokens: number of tokens in their labels.
        dropped: number of utterances not trained on, by reason (`filters.REASONS`).
        confidence: mean confidence of the pseudo-labels, dropped ones included; None for transcripts.
        nonempty: share of pseudo-labels that are not empty; None for transcripts.
    """

    utterances: int
    tokens: int
    dropped: Counter[str] = field(default_factory=Counter)
    confidence: float | None = None
    nonempty: float | None = None

    @property
    def seen(self) -> int:
        """Number of utterances in the batch."""
        return self.utterances + self.dropped.total()


def pseudo_label_quality(batches: Sequence[LabelCounts]) -> dict[str, float]:
    """Means over batches of pseudo-labels, by name: shares in [0, 1], tokens per utterance."""
    quality = {
        "nonempty": sum(b.nonempty or 0.0 for b in batches) / len(batches),
        "confidence": sum(b.confidence or 0.0 for b in batches) / len(batches),
    }
    dropped = sum((b.dropped for b in batches), Counter[str]())
    used, seen = sum(b.utterances for b in batches), sum(b.seen for b in batches)
    if seen:
        quality["used"] = used / seen
        quality |= {f"dropped/{reason}": count / seen for reason, count in dropped.items()}
    if used:
        quality["tokens_per_utterance"] = sum(b.tokens for b in batches) / used
    return quality


def weak_labeller(rates: Mapping[str, float], model: str) -> str | None:
    """A warning if the model that labels recognises too little on all validation splits, else None.

    Args:
        rates: WERs in percent by "model/split"; those that are not finite are ignored.
        model: "student" or "teacher".
    """
    known = {name: r for name, r in rates.items() if name.startswith(f"{model}/") and math.isfinite(r)}
    best = min(known, key=known.__getitem__, default=None)
    if best is None or known[best] <= WEAK_LABELLER_WER:
        return None
    return (
        f"pseudo-labels come from a model with {known[best]:.0f} % WER ({best}); above about "
        f"{WEAK_LABELLER_WER:.0f} %, they seldom help: train longer before pseudo-labels are used "
        "(pseudo_labels.start_hours), or start from a trained model (init.checkpoint) or a pre-trained "
        "encoder (docs/how-to/frozen-encoder.md)"
    )
