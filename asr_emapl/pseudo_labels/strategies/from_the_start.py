"""`from_the_start`: pseudo-labels almost without supervised training before (Berrebbi et al. 2023).

Labels are sampled from the model's distribution, so that an untrained model does not confirm its own errors
(`pseudo_labels.temperature`), and utterances whose label still changes much from one pass to the next are not
trained on (`pseudo_labels.max_change`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asr_emapl.pseudo_labels.label_table import LabelTable
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import Label
from asr_emapl.pseudo_labels.strategies.ema import FreshLabels


class StableLabels(FreshLabels):
    """Fresh labels, of which the previous one is known.

    Args:
        size: utterances of the unlabelled corpus.
    """

    def __init__(self, labeller: Labeller, size: int) -> None:
        super().__init__(labeller)
        self.table = LabelTable(size)

    def previous(self, row: int) -> list[int] | None:
        """See `Strategy.previous`."""
        return self.table.get(row).tokens if row in self.table else None

    def keep(self, labels: Mapping[int, Label]) -> None:
        """See `Strategy.keep`."""
        self.table.update(labels)

    def state_dict(self) -> dict[str, Any]:
        """See `Strategy.state_dict`."""
        return self.table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Strategy.load_state_dict`."""
        self.table.load_state_dict(state)
