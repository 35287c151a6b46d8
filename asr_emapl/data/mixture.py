"""The order of steps over labelled and unlabelled corpora, according to their shares of the audio consumed.

Each step has one kind of audio (as in slimIPL), from one corpus: the one that is furthest behind its share.
The order then depends only on the audio consumed, and a resume needs only a `DataCursor`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from asr_emapl.data.batch_plan import BatchPlan, Chunk
from asr_emapl.data.label_plan import CachePlan, CacheSlot, LabelCursor, LabelPlan, RoundsPlan
from asr_emapl.data.permutation import Indices


@dataclass(frozen=True)
class CorpusCursor:
    """The position in one corpus.

    Attributes:
        epoch, chunk: the current pass, and the current chunk of it.
        samples: audio of the chunk consumed at the current batch.
        total: audio consumed in all passes.
        base: part of `total` that was consumed before the corpora had their current weights.
        batch: padded samples of the batch at which `samples` was consumed.
        earlier: audio of the chunk that was consumed at other batches, as (batch, samples).
    """

    epoch: int = 0
    chunk: int = 0
    samples: int = 0
    total: int = 0
    base: int = 0
    batch: int | None = None
    earlier: tuple[tuple[int, int], ...] = ()

    def at_batch(self, batch: int) -> CorpusCursor:
        """The same position in a plan with another batch, which continues with the rest of the chunk."""
        if batch == self.batch:
            return self
        if self.batch is None or self.samples == 0:
            return replace(self, batch=batch)
        return replace(self, samples=0, batch=batch, earlier=(*self.earlier, (self.batch, self.samples)))

    def next_pass(self) -> CorpusCursor:
        """The start of the next pass over the corpus."""
        return replace(self, epoch=self.epoch + 1, chunk=0, samples=0, earlier=())

    def at_chunk(self) -> CorpusCursor:
        """The start of the next chunk, or the same position if it is the start of a chunk."""
        if not self.samples and not self.earlier:
            return self
        return replace(self, chunk=self.chunk + 1, samples=0, earlier=())

    @staticmethod
    def from_state(state: dict[str, Any]) -> CorpusCursor:
        """Build a cursor from the result of `dataclasses.asdict`."""
        return CorpusCursor(**state | {"earlier": tuple((b, s) for b, s in state["earlier"])})


@dataclass(frozen=True)
class MixtureCursor:
    """The positions in all corpora of one kind, and their weights."""

    corpora: tuple[CorpusCursor, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def total(self) -> int:
        """Samples of audio consumed."""
        return sum(p.total for p in self.corpora)

    def at_chunk(self) -> MixtureCursor:
        """The position from which the choice of used utterances can change; see `CorpusCursor.at_chunk`.

        Shares count from there on, so that a corpus that had no used utterance does not catch up.
        """
        return replace(self, corpora=tuple(replace(p.at_chunk(), base=p.total) for p in self.corpora))


@dataclass(frozen=True)
class DataCursor:
    """The position in all corpora, which is sufficient for a resume."""

    labelled: MixtureCursor = MixtureCursor()
    unlabelled: MixtureCursor = MixtureCursor()
    # Audio of each kind consumed before pseudo-labels started; the ratio refers to audio after it.
    labelled_before: int = 0
    unlabelled_before: int = 0
    # Position of a plan that keeps labels.
    labels: LabelCursor = field(default_factory=LabelCursor)

    @property
    def unlabelled_consumed(self) -> int:
        """Samples of unlabelled audio trained on."""
        return self.unlabelled.total - self.labels.read + self.labels.trained

    @property
    def consumed(self) -> int:
        """Samples of audio trained on."""
        return self.labelled.total + self.unlabelled_consumed

    def state_dict(self) -> dict[str, Any]:
        """Convert to a dictionary of primitives."""
        return asdict(self)

    @staticmethod
    def from_state(state: dict[str, Any]) -> DataCursor:
        """The inverse of `state_dict`."""

        def mixture(values: dict[str, Any]) -> MixtureCursor:
            return MixtureCursor(
                tuple(CorpusCursor.from_state(p) for p in values["corpora"]), tuple(values["weights"])
            )

        return DataCursor(
            mixture(state["labelled"]),
            mixture(state["unlabelled"]),
            int(state["labelled_before"]),
            int(state["unlabelled_before"]),
            LabelCursor.from_state(state["labels"]),
        )


@dataclass(frozen=True)
class GlobalBatch:
    """The utterances of one optimizer step over all ranks.

    Attributes:
        groups: number of utterances in each group of similar length.
        epoch: the pass over their corpus.
        samples: unpadded audio.
        after: the position after the step.
        label_only: whether the utterances are labelled and not trained on.
        unused: utterances that would be in a batch if their label were trained on; see `BatchPlan.used`.
    """

    labelled: bool
    indices: Indices
    groups: tuple[int, ...]
    epoch: int
    samples: int
    after: DataCursor
    label_only: bool = False
    unused: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class MixtureBatch:
    """The batch of a step from one corpus of a mixture.

    Attributes:
        indices, groups, epoch, samples, unused: see `GlobalBatch`.
        after: the position in the mixture after the step.
    """

    indices: Indices
    groups: tuple[int, ...]
    epoch: int
    samples: int
    unused: Indices
    after: MixtureCursor

    def of_step(self, *, labelled: bool, after: DataCursor) -> GlobalBatch:
        """The step on it; `after` is the position in all corpora."""
        batch = (self.indices, self.groups, self.epoch, self.samples)
        return GlobalBatch(labelled, *batch, after, unused=self.unused)


class Mixture:
    """Several corpora of one kind, each with its own passes, mixed by weights in audio.

    Args:
        plans: one plan per corpus.
        weights: weights with any sum; None: equal weights.

    Raises:
        ValueError: the number of weights differs from the number of plans, a weight is not positive, or no
            utterance is used.
    """

    def __init__(self, plans: Sequence[BatchPlan], weights: Sequence[float] | None = None) -> None:
        self.plans = plans
        self.weights = tuple(float(w) for w in ([1.0] * len(plans) if weights is None else weights))
        if len(self.weights) != len(plans) or not all(w > 0.0 for w in self.weights):
            raise ValueError(f"{len(plans)} corpora need one positive weight each, not {list(self.weights)}")
        self._filled = [which for which, plan in enumerate(plans) if not plan.is_empty]
        if not self._filled:
            raise ValueError("no utterance is used")
        # Indices refer to the concatenation of the corpora.
        self._first = np.cumsum([0, *(len(plan.samples) for plan in plans)])
        # At most two chunks of each corpus are in use at a time.
        self._chunk = lru_cache(maxsize=2 * len(plans))(self._read)

    def next(self, at: MixtureCursor) -> MixtureBatch:
        """The batch at `at`."""
        at = self._adopt(at)
        behind = [(p.total - p.base) / w for p, w in zip(at.corpora, self.weights, strict=True)]
        which = min(self._filled, key=behind.__getitem__)
        chunk, index, after = self._advance(which, at.corpora[which])
        return MixtureBatch(
            chunk.batches[index] + self._first[which],
            chunk.groups[index],
            after.epoch,
            after.total - at.corpora[which].total,
            chunk.unused[index] + self._first[which],
            MixtureCursor((*at.corpora[:which], after, *at.corpora[which + 1 :]), self.weights),
        )

    def _adopt(self, at: MixtureCursor) -> MixtureCursor:
        """Adapt a position to new weights; audio consumed with other weights does not count for the shares.

        Corpora are identified by their index in the list; corpora can be added or removed at its end.
        """
        if at.weights == self.weights:
            return at
        known = at.corpora[: len(self.plans)]
        new = [CorpusCursor()] * (len(self.plans) - len(known))
        return MixtureCursor((*(replace(p, base=p.total) for p in known), *new), self.weights)

    def _advance(self, which: int, at: CorpusCursor) -> tuple[Chunk, int, CorpusCursor]:
        """The chunk of the next batch, its index there, and the position after it."""
        if at.chunk >= self.plans[which].chunks:
            # The position is from a larger corpus or a smaller pool.
            at = at.next_pass()
        at = at.at_batch(self.plans[which].batch_samples)
        chunk = self._chunk(which, at.epoch, at.chunk, at.earlier)
        index = chunk.index_at(at.samples)
        while index == len(chunk.batches):
            epoch, number = divmod(at.chunk + 1, self.plans[which].chunks)
            at = replace(at, epoch=at.epoch + epoch, chunk=number, samples=0, earlier=())
            chunk, index = self._chunk(which, at.epoch, at.chunk, ()), 0
        before = int(chunk.consumed[index - 1]) if index else 0
        after = int(chunk.consumed[index])
        moved = replace(at, samples=after, total=at.total + after - before)
        return chunk, index, moved

    def _read(self, which: int, epoch: int, chunk: int, earlier: tuple[tuple[int, int], ...]) -> Chunk:
        return self.plans[which].chunk(epoch, chunk, earlier)


class DataPlan:
    """Labelled and unlabelled global batches, by their ratio in audio.

    Args:
        labelled, unlabelled: the corpora. `unlabelled` is None in a supervised run, and `labelled` in a
            self-supervised one.
        unlabelled_per_labelled: ratio in audio after pseudo-labels have begun.
        start_samples: audio consumed before pseudo-labels begin.
        labels: plan of labelling, if labels are kept; None: utterances are labelled in each step.
    """

    def __init__(
        self,
        labelled: Mixture | None,
        unlabelled: Mixture | None = None,
        unlabelled_per_labelled: float = 1.0,
        start_samples: int = 0,
        labels: LabelPlan | None = None,
    ) -> None:
        self.labelled, self.unlabelled, self.labels = labelled, unlabelled, labels
        self.ratio = unlabelled_per_labelled
        self.start_samples = start_samples

    @property
    def has_unlabelled(self) -> bool:
        """Whether the plan has unlabelled batches."""
        return self.unlabelled is not None

    def next(self, at: DataCursor) -> GlobalBatch:
        """The global batch at `at`."""
        if self.unlabelled is not None and self._wants_unlabelled(at):
            if isinstance(self.labels, CachePlan):
                return self._next_of_cache(self.labels, self.unlabelled, at)
            if self.labels is not None and at.labels.round < (due := self.labels.due(at.consumed)):
                return self._next_of_round(self.labels, at, due)
            batch = self.unlabelled.next(at.unlabelled)
            return batch.of_step(labelled=False, after=replace(at, unlabelled=batch.after))
        assert self.labelled is not None
        batch = self.labelled.next(at.labelled)
        moved = replace(at, labelled=batch.after)
        if not self.has_unlabelled or moved.consumed <= self.start_samples:
            moved = replace(
                moved, labelled_before=batch.after.total, unlabelled_before=at.unlabelled_consumed
            )
        return batch.of_step(labelled=True, after=moved)

    def _next_of_round(self, labels: RoundsPlan, at: DataCursor, due: int) -> GlobalBatch:
        """A batch that is labelled. The round changes which utterances are used, so it ends the chunk."""
        rows, cursor = labels.next(at.labels, due)
        after = replace(at, labels=cursor)
        if cursor.round == due:
            after = replace(after, unlabelled=at.unlabelled.at_chunk())
        samples = int(labels.lengths[rows].sum())
        return GlobalBatch(False, rows, (len(rows),), due, samples, after, label_only=True)

    def _next_of_cache(self, cache: CachePlan, unlabelled: Mixture, at: DataCursor) -> GlobalBatch:
        cursor = cache.usable(at.labels)
        if cache.wants_fresh(cursor):
            batch = unlabelled.next(at.unlabelled)
            rows = tuple(batch.indices.tolist())
            slot = CacheSlot(rows, batch.groups, batch.samples, cache.batch_samples)
            after = replace(at, unlabelled=batch.after, labels=cache.add(cursor, slot))
            return replace(batch.of_step(labelled=False, after=after), label_only=True)
        slot, moved = cache.draw(cursor)
        after = replace(at, labels=moved)
        # The number of the draw, so that a batch is augmented differently each time.
        return GlobalBatch(False, np.array(slot.indices), slot.groups, cursor.drawn, slot.samples, after)

    def _wants_unlabelled(self, at: DataCursor) -> bool:
        if self.labelled is None:
            return True
        if at.consumed < self.start_samples:
            return False
        owed = self.ratio * (at.labelled.total - at.labelled_before)
        return at.unlabelled_consumed - at.unlabelled_before < owed
