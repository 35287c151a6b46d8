"""The hypotheses of a beam search after a frame, as arrays.

Axes: H hypotheses, C candidates, V labels (blank included).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from asr_emapl.decoding.automaton import ROOT, Floats, Integers
from asr_emapl.text.tokenizer import BLANK


@dataclass(frozen=True)
class Hypotheses:
    """Paths through the frames so far, one for each node, context, and last label.

    Attributes:
        scores: [H], higher is better.
        nodes: of the automaton, [H].
        contexts: of the language model, [H].
        labels: of the last frame, [H].
        parents: row in the hypotheses of the frame before, [H].
    """

    scores: Floats
    nodes: Integers
    contexts: Integers
    labels: Integers
    parents: Integers

    @staticmethod
    def first() -> Hypotheses:
        """The only hypothesis before the first frame; nothing was written, as after a blank."""
        return Hypotheses(np.zeros(1), np.array([ROOT]), np.array([0]), np.array([BLANK]), np.array([0]))

    def __len__(self) -> int:
        return len(self.scores)

    def taken(self, rows: np.ndarray[Any, Any]) -> Hypotheses:
        """Only the rows, in their order."""
        return Hypotheses(
            self.scores[rows], self.nodes[rows], self.contexts[rows], self.labels[rows], self.parents[rows]
        )

    def moved(self, rows: Integers, labels: Integers, frame: Floats) -> Hypotheses:
        """Candidates [C] one frame later: rows [C] of these with labels [C]; node and context stay.

        Args:
            frame: log-probabilities of the frame, [V].
        """
        scores = self.scores[rows] + frame[labels]
        return Hypotheses(scores, self.nodes[rows], self.contexts[rows], labels, rows)

    def merged(self, nodes: int, labels: int) -> Hypotheses:
        """The best of those with the same node, context, and last label; without impossible ones.

        Args:
            nodes: number of the automaton's nodes.
            labels: number of labels.
        """
        keys = (self.contexts * nodes + self.nodes) * labels + self.labels
        order = np.argsort(-self.scores, kind="stable")
        order = order[self.scores[order] > -np.inf]
        return self.taken(order[np.unique(keys[order], return_index=True)[1]])

    def best(self, count: int) -> Hypotheses:
        """The `count` with the highest scores."""
        if len(self) <= count:
            return self
        return self.taken(np.argpartition(-self.scores, count)[:count])


def joined(*parts: Hypotheses) -> Hypotheses:
    """The rows of all."""
    return Hypotheses(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.nodes for part in parts]),
        np.concatenate([part.contexts for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.parents for part in parts]),
    )
