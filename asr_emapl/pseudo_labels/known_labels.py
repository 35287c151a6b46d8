"""Labels that are known before batches are made, and which of them the filters drop.

Batches are made of the other utterances, so a batch is full however many labels are dropped. What depends on
the audio, on the frames of the student or on the step is decided in the step (`filters.LabelFilters`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.permutation import Indices
from asr_emapl.errors import counted
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import REASONS, LabelCandidate, reason_to_drop_label
from asr_emapl.pseudo_labels.labels import Label

STRATEGIES = ("external", "oracle", "rounds")
"""Strategies whose labels are known before batches are made."""

_REASONS = tuple(REASONS)


class KnownLabels:
    """Labels by row, with the reasons to drop them in one byte per utterance of the corpus.

    Args:
        label: the label of an utterance.
        samples: length of each utterance, [utterances].
        limits: of the filters, with `tokens_per_second` as numbers.
    """

    def __init__(self, label: Callable[[int], Label], samples: Indices, limits: PseudoLabelConfig) -> None:
        self.label, self.samples, self.limits = label, samples, limits
        # 1 + the index of the reason; 0: not dropped, or not judged.
        self._codes = np.zeros(len(samples), dtype=np.uint8)

    def judge(self, rows: Iterable[int]) -> None:
        """Apply the filters to the labels of these utterances, and forget earlier reasons."""
        self._codes[:] = 0
        confidences = np.full(len(self._codes), np.nan, dtype=np.float32)
        for row in rows:
            label, seconds = self.label(row), int(self.samples[row]) / SAMPLE_RATE_HZ
            candidate = LabelCandidate(label.tokens, 0, seconds, label.confidence, label.agreement)
            reason = reason_to_drop_label(candidate, self.limits)
            if reason is not None:
                self._codes[row] = _code(reason)
            if label.tokens:
                confidences[row] = label.confidence
        self._drop_least_confident(confidences)

    def _drop_least_confident(self, confidences: NDArray[np.float32]) -> None:
        """Drop labels that are not in `keep_share`, of all labels that are not empty."""
        known = np.sort(confidences[~np.isnan(confidences)])
        if self.limits.keep_share is None or not len(known):
            return
        lowest = known[len(known) - int(np.ceil(self.limits.keep_share * len(known)))]
        self._codes[(self._codes == 0) & (confidences < lowest)] = _code("least_confident")

    @property
    def used(self) -> NDArray[np.bool_] | None:
        """Which utterances batches are made of, bool [utterances]; None: all.

        They are also made of all if all labels are dropped. Steps without targets are then skipped, until
        `collapse.CollapseGuard` stops the run.
        """
        is_used = self._codes == 0
        return None if is_used.all() or not is_used.any() else is_used

    def dropped(self, rows: Iterable[int]) -> Mapping[int, str]:
        """The reason to drop each of these utterances, which are not in `used`, by row."""
        return {row: _REASONS[self._codes[row] - 1] for row in rows}

    def describe(self) -> str:
        """How many labels are dropped, for which reasons; empty if none is."""
        if not self._codes.any():
            return ""
        counts = Counter(self._codes[self._codes > 0].tolist())
        reasons = ", ".join(f"{count:,} {_REASONS[code - 1]}" for code, count in counts.most_common())
        hours = float(self.samples[self._codes > 0].sum()) / SAMPLE_RATE_HZ / 3600.0
        of = counted(len(self._codes), "utterance")
        return f"{counts.total():,} of {of} ({hours:.2f} h) are not trained on: {reasons}"


def _code(reason: str) -> int:
    return 1 + _REASONS.index(reason)
