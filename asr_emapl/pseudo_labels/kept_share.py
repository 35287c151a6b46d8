"""Keep the most confident share of the labels: a threshold that follows the confidences. Imports no torch.

The confidences of past labels are counted in a histogram, whose counts are sums over all ranks. They are
whole numbers, so their sums are exact, and the threshold is the same on each rank and at any world size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

HALF_LIFE_LABELS = 1000
"""Number of labels after which a label counts half. The share then varies by about 1 % by chance."""
BINS = 1024
_LOWEST, _WIDTH = -4.0, 1.0 / 64.0  # of the bins, as log-odds: from 0.018 to 0.999994


class KeptShare:
    """Which labels are among the most confident ones, compared with the labels of the steps before.

    Of labels with equal confidence, all or none are kept. Before the first step, all are.

    Args:
        share: of the labels to keep, above 0.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._counts = np.zeros(BINS)
        self._lowest = 0  # the bin of the least confident labels to keep

    def keeps(self, confidence: float) -> bool:
        """Whether a label of this confidence, in [0, 1], is kept."""
        return _bin(confidence) >= self._lowest

    def counts(self, confidences: Iterable[float]) -> list[float]:
        """Numbers of labels by confidence, to be summed over ranks; NaN is not counted."""
        found = [0.0] * BINS
        for confidence in confidences:
            if not math.isnan(confidence):
                found[_bin(confidence)] += 1.0
        return found

    def update(self, counts: Sequence[float]) -> None:
        """Take the labels of a step into account: the result of `counts`, summed over ranks."""
        self._counts = self._counts * 0.5 ** (sum(counts) / HALF_LIFE_LABELS) + np.array(counts)
        self._set_threshold()

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs, equal on all ranks."""
        return {"counts": self._counts.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._counts = np.array(state["counts"], dtype=np.float64)
        self._set_threshold()

    def _set_threshold(self) -> None:
        at_least = np.cumsum(self._counts[::-1])[::-1]  # number of labels in each bin or a higher one
        enough = np.flatnonzero(at_least >= self.share * at_least[0])
        self._lowest = int(enough[-1]) if at_least[0] > 0.0 else 0


def _bin(confidence: float) -> int:
    """The bin of a confidence. Log-odds, because most confidences are near 1."""
    if confidence <= 0.0:
        return 0
    if confidence >= 1.0:
        return BINS - 1
    odds = math.log(confidence) - math.log1p(-confidence)
    return min(BINS - 1, max(0, int((odds - _LOWEST) / _WIDTH)))
