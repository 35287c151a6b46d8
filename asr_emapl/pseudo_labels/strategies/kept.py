"""Base class of strategies that keep labels: the table, its updates and its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asr_emapl.pseudo_labels.label_table import LabelTable
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import Label, LabelRequest, Labels, PendingLabels, Strategy


class KeptLabels(Strategy):
    """Labels of a labeller that are kept by row, and trained on until they are replaced.

    Args:
        size: number of utterances in the unlabelled corpus.
    """

    def __init__(self, labeller: Labeller, size: int) -> None:
        self.labeller, self.table = labeller, LabelTable(size)

    def labels(self, batch: LabelRequest) -> Labels | PendingLabels:
        """See `Strategy.labels`. An utterance without a label gets an empty one."""
        return Labels.of([self.table.get(row) for row in batch.rows])

    def relabel(self, batch: LabelRequest) -> Labels | PendingLabels:
        """See `Strategy.relabel`."""
        return self.labeller.begin(batch)

    def keep(self, labels: Mapping[int, Label]) -> None:
        """See `Strategy.keep`."""
        self.table.update(labels)

    def state_dict(self) -> dict[str, Any]:
        """See `Strategy.state_dict`."""
        return self.table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Strategy.load_state_dict`."""
        self.table.load_state_dict(state)
