"""Plan when unlabelled utterances are labelled, if labels are kept: pure functions of the data cursor.

A plan inserts batches that are only labelled (`GlobalBatch.label_only`) before the batches for training. No
optimizer step follows them, and they do not count as audio consumed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from asr_emapl.audio.augment import draw_seed
from asr_emapl.data.permutation import Indices


@dataclass(frozen=True)
class CacheSlot:
    """A batch in the cache.

    Attributes:
        indices: its utterances.
        groups: number of utterances in each group of similar length.
        samples: their unpadded audio.
        batch: padded samples per batch when this batch was planned.
    """

    indices: tuple[int, ...]
    groups: tuple[int, ...]
    samples: int
    batch: int


@dataclass(frozen=True)
class LabelCursor:
    """The position of a `LabelPlan`.

    Attributes:
        slots: the batches in the cache.
        fresh: a batch that was labelled and enters the cache with the next step, or none.
        drawn: number of batches drawn from the cache.
        read, trained: samples of audio that were labelled for the cache, and that were trained on from it.
        round: number of rounds of labelling that were completed.
        row: position in the current round.
    """

    slots: tuple[CacheSlot, ...] = ()
    fresh: tuple[CacheSlot, ...] = ()
    drawn: int = 0
    read: int = 0
    trained: int = 0
    round: int = 0
    row: int = 0

    @staticmethod
    def from_state(state: dict[str, Any]) -> LabelCursor:
        """Build from the result of `dataclasses.asdict`."""

        def slot(values: dict[str, Any]) -> CacheSlot:
            parts = tuple(values["indices"]), tuple(values["groups"])
            return CacheSlot(*parts, values["samples"], values["batch"])

        slots, fresh = (tuple(map(slot, state[name])) for name in ("slots", "fresh"))
        return LabelCursor(**state | {"slots": slots, "fresh": fresh})

    def without_labels(self) -> LabelCursor:
        """The position at which no labels are kept: the cache is empty and all rounds are due."""
        return replace(self, slots=(), fresh=(), round=0, row=0)


@dataclass(frozen=True)
class CachePlan:
    """A cache of labelled batches (slimIPL, Likhomanenko et al. 2021, algorithm 1).

    The cache is filled first. Each step then trains on a batch drawn at random. With probability `replace`,
    the batch is replaced by a new one, which is labelled before the step. The age of a label when it leaves
    the cache is on average `samples / replace` of audio. The size is in audio, so it does not depend on the
    batch.

    Args:
        samples: audio in the cache.
        replace: probability of replacing a batch after training on it.
    """

    samples: int
    replace: float
    batch_samples: int
    seed: int

    def usable(self, cursor: LabelCursor) -> LabelCursor:
        """The cursor, with an empty cache after a change of the batch."""
        if all(slot.batch == self.batch_samples for slot in cursor.slots):
            return cursor
        return cursor.without_labels()

    def wants_fresh(self, cursor: LabelCursor) -> bool:
        """Whether the next batch is only labelled."""
        if sum(slot.samples for slot in cursor.slots) < self.samples:
            return True
        return not cursor.fresh and self._is_replaced(cursor.drawn)

    def left(self, cursor: LabelCursor, consumed: int) -> int:
        """Samples that are labelled to fill the cache before the next step; 0 if it is full."""
        return max(0, self.samples - sum(slot.samples for slot in self.usable(cursor).slots))

    def add(self, cursor: LabelCursor, slot: CacheSlot) -> LabelCursor:
        """The cursor after a fresh batch was labelled."""
        read = cursor.read + slot.samples
        if sum(held.samples for held in cursor.slots) < self.samples:
            return replace(cursor, slots=(*cursor.slots, slot), read=read)
        return replace(cursor, fresh=(slot,), read=read)

    def draw(self, cursor: LabelCursor) -> tuple[CacheSlot, LabelCursor]:
        """The batch to train on, and the cursor after it."""
        place = draw_seed(self.seed, "cache", cursor.drawn) % len(cursor.slots)
        slot, slots = cursor.slots[place], cursor.slots
        if cursor.fresh:
            slots = (*slots[:place], *cursor.fresh, *slots[place + 1 :])
        trained = cursor.trained + slot.samples
        return slot, replace(cursor, slots=slots, fresh=(), drawn=cursor.drawn + 1, trained=trained)

    def _is_replaced(self, drawn: int) -> bool:
        return draw_seed(self.seed, "replace", drawn) < self.replace * 2.0**63


class RoundsPlan:
    """Labelling of the whole corpus at given amounts of audio (IPL, Xu et al. 2020; noisy student).

    Args:
        lengths: samples of each unlabelled utterance.
        starts: audio consumed, in samples, at which the rounds are due, in ascending order. The first round
            labels all utterances.
        share: share of the utterances, drawn at random, that each later round labels again.
        batch_samples: padded samples of a batch that is labelled.
    """

    def __init__(
        self, lengths: Indices, starts: Sequence[int], share: float, batch_samples: int, seed: int
    ) -> None:
        self.lengths, self.starts, self.share = lengths, list(starts), share
        self.batch_samples, self.seed = batch_samples, seed
        self._order = lru_cache(maxsize=1)(self._ordered)

    def due(self, consumed: int) -> int:
        """Number of rounds that are due after `consumed` samples."""
        return bisect_right(self.starts, consumed)

    def left(self, cursor: LabelCursor, consumed: int) -> int:
        """Samples that are labelled before the next step; 0 if no round is due after `consumed` samples."""
        due = self.due(consumed)
        return int(self.lengths[self._order(due)[cursor.row :]].sum()) if cursor.round < due else 0

    def next(self, cursor: LabelCursor, due: int) -> tuple[Indices, LabelCursor]:
        """The utterances to label at `cursor` in round number `due`, and the cursor after them."""
        rows = self._order(due)
        start = min(cursor.row, len(rows) - 1)
        count = max(1, self.batch_samples // int(self.lengths[rows[start]]))
        batch = rows[start : start + count]
        if start + count >= len(rows):
            return batch, replace(cursor, round=due, row=0)
        return batch, replace(cursor, row=start + count)

    def _ordered(self, due: int) -> Indices:
        """Rows of the utterances of a round, longest first."""
        rows = np.arange(len(self.lengths))
        if due > 1 and self.share < 1.0:
            drawn = np.random.default_rng([self.seed % 2**32, due]).random(len(rows)) < self.share
            rows = rows[drawn] if drawn.any() else rows[:1]
        return rows[np.argsort(-self.lengths[rows], kind="stable")]


LabelPlan = CachePlan | RoundsPlan
