"""The kept label of each utterance, in arrays: 24 bytes per utterance of the corpus and 4 to 8 per token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.labels import Label

_NONE = -1


class LabelTable:
    """Labels by row.

    Args:
        size: number of utterances in the corpus.
    """

    TENSORS = ("rows", "lengths", "scores", "tokens")
    """Entries of the state, which are tensors."""

    def __init__(self, size: int) -> None:
        self._start = np.zeros(size, dtype=np.int64)
        self._length = np.full(size, _NONE, dtype=np.int32)
        # Confidence, agreement and share of blanks, which is NaN if it is unknown.
        self._scores = np.zeros((3, size), dtype=np.float32)
        self._tokens = np.zeros(1024, dtype=np.int32)
        self._used = 0

    def __len__(self) -> int:
        """Number of utterances that have a label."""
        return int((self._length != _NONE).sum())

    @property
    def rows(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Utterances that have a label, which may be empty, in ascending order."""
        return np.flatnonzero(self._length != _NONE)

    def __contains__(self, row: int) -> bool:
        """Whether the utterance has a label, which may be empty."""
        return bool(self._length[row] != _NONE)

    def update(self, labels: Mapping[int, Label]) -> None:
        """Replace the labels of utterances, given by row."""
        for row, label in labels.items():
            count = len(label.tokens)
            if self._used + count > len(self._tokens):
                self._compact(count)
            self._tokens[self._used : self._used + count] = label.tokens
            self._start[row], self._length[row] = self._used, count
            blank_share = math.nan if label.blank_share is None else label.blank_share
            self._scores[:, row] = label.confidence, label.agreement, blank_share
            self._used += count

    def get(self, row: int) -> Label:
        """The label of an utterance; an empty one with confidence 0 if it has none."""
        if row not in self:
            return Label([], 0.0)
        start, length = int(self._start[row]), int(self._length[row])
        confidence, agreement, blank_share = self._scores[:, row].tolist()
        tokens = self._tokens[start : start + length].tolist()
        return Label(tokens, confidence, agreement, None if math.isnan(blank_share) else blank_share)

    def state_dict(self) -> dict[str, Any]:
        """Rows that have a label, with its length, scores and tokens, as tensors."""
        rows = self.rows
        return {
            "rows": torch.from_numpy(rows),
            "lengths": torch.from_numpy(self._length[rows]),
            "scores": torch.from_numpy(self._scores[:, rows]),
            "tokens": torch.from_numpy(self._gathered(rows)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`.

        Raises:
            UserError: the state is not that of a table of this size.
        """
        rows, lengths = state["rows"].numpy(), state["lengths"].numpy()
        is_valid = (
            rows.ndim == lengths.ndim == 1
            and len(rows) == len(lengths)
            and state["scores"].shape == (len(self._scores), len(rows))
            and ((rows >= 0) & (rows < len(self._length))).all()
            and (lengths >= 0).all()
            and int(lengths.sum()) == state["tokens"].numel()
        )
        if not is_valid:
            raise UserError(
                "the labels in the checkpoint are not of this unlabelled corpus; start another run"
            )
        self._length[:] = _NONE
        self._length[rows], self._scores[:, rows] = lengths, state["scores"].numpy()
        self._start[rows] = np.cumsum(lengths, dtype=np.int64) - lengths
        self._tokens = state["tokens"].numpy().astype(np.int32)
        self._used = len(self._tokens)

    def _compact(self, more: int) -> None:
        """Drop replaced labels, and make room for at least as many tokens again."""
        rows = self.rows
        tokens = self._gathered(rows)
        self._start[rows] = np.cumsum(self._length[rows], dtype=np.int64) - self._length[rows]
        self._used = len(tokens)
        self._tokens = np.zeros(2 * (len(tokens) + more) + 1024, dtype=np.int32)
        self._tokens[: len(tokens)] = tokens

    def _gathered(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int32]]:
        lengths = self._length[rows]
        first = np.repeat(self._start[rows] - (np.cumsum(lengths) - lengths), lengths)
        return self._tokens[first + np.arange(int(lengths.sum()))]
