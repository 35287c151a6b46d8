"""The order of steps over several corpora, labelled and not: by their shares in the audio consumed.

Each step is of one kind (as in slimIPL) and of one corpus; it is the turn of whichever is behind its share,
so the order is a function of the audio consumed alone and a resume needs a `DataCursor` and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from asr_emapl.data.batch_plan import BatchPlan, Chunk
from asr_emapl.data.permutation import Indices


@dataclass(frozen=True)
class CorpusCursor:
    """Where a corpus's reader stands.

    Attributes:
        epoch, chunk: the pass, and the part of it.
        samples: audio of that chunk consumed at the present batch.
        total: of all passes.
        base: of it, what was consumed before the corpora had their present weights.
        batch: padded samples of the batch that `samples` was consumed at.
        earlier: what was consumed of the chunk at other batches before, as (batch, samples).
    """

    epoch: int = 0
    chunk: int = 0
    samples: int = 0
    total: int = 0
    base: int = 0
    batch: int | None = None
    earlier: tuple[tuple[int, int], ...] = ()

    def at_batch(self, batch: int) -> CorpusCursor:
        """The same place for a plan of another batch: the rest of the chunk is what comes next."""
        if batch == self.batch:
            return self
        if self.batch is None or self.samples == 0:
            return replace(self, batch=batch)
        return replace(self, samples=0, batch=batch, earlier=(*self.earlier, (self.batch, self.samples)))

    def next_pass(self) -> CorpusCursor:
        """Where the next pass over the corpus begins."""
        return replace(self, epoch=self.epoch + 1, chunk=0, samples=0, earlier=())

    @staticmethod
    def from_state(state: dict[str, Any]) -> CorpusCursor:
        """From plain numbers, as `dataclasses.asdict` gives them."""
        return CorpusCursor(**state | {"earlier": tuple((b, s) for b, s in state["earlier"])})


@dataclass(frozen=True)
class MixtureCursor:
    """Where the readers of all corpora of one kind stand, and the weights that were in force."""

    corpora: tuple[CorpusCursor, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def total(self) -> int:
        """Samples of audio consumed."""
        return sum(p.total for p in self.corpora)


@dataclass(frozen=True)
class DataCursor:
    """Where the mix of both kinds stands, after a number of steps. All that a resume needs."""

    labelled: MixtureCursor = MixtureCursor()
    unlabelled: MixtureCursor = MixtureCursor()
    # Audio of either kind consumed before pseudo-labels began; the ratio counts from there.
    labelled_before: int = 0
    unlabelled_before: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)

    @staticmethod
    def from_state(state: dict[str, Any]) -> DataCursor:
        """The inverse of `state_dict`."""

        def blend(values: dict[str, Any]) -> MixtureCursor:
            return MixtureCursor(
                tuple(CorpusCursor.from_state(p) for p in values["corpora"]), tuple(values["weights"])
            )

        before = int(state["labelled_before"]), int(state["unlabelled_before"])
        return DataCursor(blend(state["labelled"]), blend(state["unlabelled"]), *before)


@dataclass(frozen=True)
class GlobalBatch:
    """One optimizer step's utterances over all ranks.

    `groups` are the numbers of utterances of about the same length, one group after the other; `epoch` is the
    pass over their own corpus, `samples` their unpadded audio.
    """

    labelled: bool
    indices: Indices
    groups: tuple[int, ...]
    epoch: int
    samples: int
    after: DataCursor


class Mixture:
    """Several corpora of one kind, each with passes of its own, by their weights in audio.

    Args:
        plans: over each corpus.
        weights: of any sum; None: equal.

    Raises:
        ValueError: not one positive weight a plan.
    """

    def __init__(self, plans: Sequence[BatchPlan], weights: Sequence[float] | None = None) -> None:
        self.plans = plans
        self.weights = tuple(float(w) for w in ([1.0] * len(plans) if weights is None else weights))
        if len(self.weights) != len(plans) or not all(w > 0.0 for w in self.weights):
            raise ValueError(f"{len(plans)} corpora need as many positive weights, not {list(self.weights)}")
        # Indices count through the corpora one after the other.
        self._first = np.cumsum([0, *(len(plan.samples) for plan in plans)])
        # Two chunks at most of each are in use at a time; each is a few arrays.
        self._chapter = lru_cache(maxsize=2 * len(plans))(self._read)

    def next(self, at: MixtureCursor) -> tuple[Indices, tuple[int, ...], int, MixtureCursor]:
        """The batch that follows `at`, its groups, the pass it belongs to, and the position after it."""
        at = self._adopt(at)
        behind = [(p.total - p.base) / w for p, w in zip(at.corpora, self.weights, strict=True)]
        which = behind.index(min(behind))
        indices, groups, after = self._advance(which, at.corpora[which])
        corpora = (*at.corpora[:which], after, *at.corpora[which + 1 :])
        return indices + self._first[which], groups, after.epoch, MixtureCursor(corpora, self.weights)

    def _adopt(self, at: MixtureCursor) -> MixtureCursor:
        """Positions for other corpora or weights than they were made with: nothing is made up for.

        Corpora are identified by their position: those at the end of the list may be added or removed.
        """
        if at.weights == self.weights:
            return at
        known = at.corpora[: len(self.plans)]
        new = [CorpusCursor()] * (len(self.plans) - len(known))
        return MixtureCursor((*(replace(p, base=p.total) for p in known), *new), self.weights)

    def _advance(self, which: int, at: CorpusCursor) -> tuple[Indices, tuple[int, ...], CorpusCursor]:
        if at.chunk >= self.plans[which].chunks:
            # The position was made with a larger corpus or a smaller pool.
            at = at.next_pass()
        at = at.at_batch(self.plans[which].batch_samples)
        chunk = self._chapter(which, at.epoch, at.chunk, at.earlier)
        index = chunk.index_at(at.samples)
        if index == len(chunk.batches):
            epoch, number = divmod(at.chunk + 1, self.plans[which].chunks)
            at = replace(at, epoch=at.epoch + epoch, chunk=number, samples=0, earlier=())
            chunk, index = self._chapter(which, at.epoch, at.chunk, ()), 0
        before = int(chunk.consumed[index - 1]) if index else 0
        after = int(chunk.consumed[index])
        moved = replace(at, samples=after, total=at.total + after - before)
        return chunk.batches[index], chunk.groups[index], moved

    def _read(self, which: int, epoch: int, chunk: int, earlier: tuple[tuple[int, int], ...]) -> Chunk:
        return self.plans[which].chunk(epoch, chunk, earlier)


class DataPlan:
    """Labelled and unlabelled global batches in turn, by their ratio in audio.

    Args:
        labelled, unlabelled: plans over the two kinds; no unlabelled one: a supervised run.
        unlabelled_per_labelled: ratio in audio, once pseudo-labels have begun.
        start_samples: audio consumed before they begin.
    """

    def __init__(
        self,
        labelled: Mixture,
        unlabelled: Mixture | None = None,
        unlabelled_per_labelled: float = 1.0,
        start_samples: int = 0,
    ) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled
        self.ratio = unlabelled_per_labelled
        self.start_samples = start_samples

    @property
    def has_unlabelled(self) -> bool:
        """Whether there are pseudo-labels to come."""
        return self.unlabelled is not None

    def next(self, at: DataCursor) -> GlobalBatch:
        """The global batch that follows `at`."""
        if self.unlabelled is not None and self._wants_unlabelled(at):
            indices, groups, epoch, blend = self.unlabelled.next(at.unlabelled)
            samples = blend.total - at.unlabelled.total
            return GlobalBatch(False, indices, groups, epoch, samples, replace(at, unlabelled=blend))
        indices, groups, epoch, blend = self.labelled.next(at.labelled)
        samples = blend.total - at.labelled.total
        moved = replace(at, labelled=blend)
        if not self.has_unlabelled or blend.total + at.unlabelled.total <= self.start_samples:
            moved = replace(moved, labelled_before=blend.total, unlabelled_before=at.unlabelled.total)
        return GlobalBatch(True, indices, groups, epoch, samples, moved)

    def _wants_unlabelled(self, at: DataCursor) -> bool:
        if at.labelled.total + at.unlabelled.total < self.start_samples:
            return False
        owed = self.ratio * (at.labelled.total - at.labelled_before)
        return at.unlabelled.total - at.unlabelled_before < owed
