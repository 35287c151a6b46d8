"""How labels change: compared with the previous and the first label of the same utterance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from asr_emapl.pseudo_labels.filters import similarity
from asr_emapl.pseudo_labels.label_table import LabelTable
from asr_emapl.pseudo_labels.labels import Label


class LabelChanges:
    """The labels of some utterances, for comparison with later ones.

    Args:
        rows: the utterances.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self._place = {row: place for place, row in enumerate(rows)}
        self._previous = LabelTable(len(rows))
        self._first: dict[int, list[int]] = {}  # tokens and words of the first label, by row

    def compare(self, labels: Iterable[tuple[int, list[int], int]]) -> dict[str, float]:
        """Compare labels, and keep them.

        Args:
            labels: row, tokens and number of words of each label, in the order in which they were made.

        Returns:
            revisited: number of labels with an earlier one; changed: mean share of their tokens that changed
            since the previous label; kept_tokens, kept_words: their tokens and words as a share of those of
            the first labels. Empty if no label has an earlier one.
        """
        changes, now, first = [], np.zeros(2), np.zeros(2)
        for row, tokens, words in labels:
            size, place = [len(tokens), words], self._place[row]
            if place in self._previous:
                changes.append(1.0 - similarity(self._previous.get(place).tokens, tokens))
                now, first = now + size, first + self._first[row]
            self._first.setdefault(row, size)
            self._previous.update({place: Label(tokens)})
        if not changes:
            return {}
        found = {"revisited": len(changes), "changed": sum(changes) / len(changes)}
        if first.all():
            found |= dict(zip(("kept_tokens", "kept_words"), (now / first).tolist(), strict=True))
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"previous": self._previous.state_dict(), "first": dict(self._first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._previous.load_state_dict(state["previous"])
        self._first = {row: list(sizes) for row, sizes in state["first"].items()}
