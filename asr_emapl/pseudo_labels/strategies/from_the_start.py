"""`from_the_start`: pseudo-labels almost without supervised training before (Berrebbi et al. 2023).

Labels are sampled from the model's distribution, so that an untrained model does not confirm its own errors
(`pseudo_labels.temperature`), and utterances whose label still changes much from one pass to the next are not
trained on (`pseudo_labels.max_change`).
"""

from __future__ import annotations

from asr_emapl.pseudo_labels.labels import LabelRequest, Labels, PendingLabels
from asr_emapl.pseudo_labels.strategies.kept import KeptLabels


class StableLabels(KeptLabels):
    """Labels that are made in each step, and kept for comparison with those of the next pass."""

    def labels(self, batch: LabelRequest) -> Labels | PendingLabels:
        """See `Strategy.labels`."""
        return self.labeller.begin(batch)

    def previous(self, row: int) -> list[int] | None:
        """See `Strategy.previous`."""
        return self.table.get(row).tokens if row in self.table else None
