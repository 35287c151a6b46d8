"""Which utterances make up which optimizer step: pure functions of durations, seed and epoch.

Everything is counted in integer samples. A global batch is what kappa sees; ranks and micro-batches only
divide it, so world size and memory never change which utterances are learned from together, or when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from asr_emapl.audio import SAMPLE_RATE_HZ

Indices = NDArray[np.int64]


@dataclass
class BatchConfig:
    """The batch of one optimizer step, over all ranks. Batch, memory and hardware are three settings."""

    # Padded seconds of audio a step; "auto": world size x device.max_seconds.
    seconds: float | int | str = 60.0
    # The batch that the hyper-parameters were tuned at; kappa = seconds / reference_seconds.
    reference_seconds: float = 60.0
    # Other batches later on, as [from_hours, seconds] pairs (Progressive Scaling).
    progressive: list[list[float]] = field(default_factory=list)
    # Lengths are sorted after a random factor within 1 +- jitter: more padding, more varied company.
    jitter: float = 0.005
    # Utterances sorted together; a pool is what the shuffle keeps apart.
    pool: int = 8192


@dataclass(frozen=True)
class BatchPlan:
    """The global batches of any epoch.

    Args:
        samples: length of each utterance, in samples.
        batch_samples: padded samples of a batch at most (longest x count).
        seed: of the shuffles.
        jitter, pool: see `BatchConfig`.
    """

    samples: Indices
    batch_samples: int
    seed: int = 0
    jitter: float = 0.005
    pool: int = 8192

    def __post_init__(self) -> None:
        if len(self.samples) == 0:
            raise ValueError("a batch plan needs at least one utterance")
        if int(self.samples.max()) > self.batch_samples:
            raise ValueError(
                f"the longest utterance ({self.samples.max()} samples) exceeds the batch "
                f"({self.batch_samples}); "
                "leave out what is too long first"
            )

    def epoch(self, epoch: int) -> EpochPlan:
        """All batches of pass number `epoch`, in order; each utterance once."""
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.samples))
        keys = self.samples * rng.uniform(1.0 - self.jitter, 1.0 + self.jitter, len(self.samples))
        batches: list[Indices] = []
        rest = order[:0]
        for start in range(0, len(order), self.pool):
            # What did not fill a batch joins the next pool, so that only an epoch's last batch is short.
            pool = np.concatenate([rest, order[start : start + self.pool]])
            pool = pool[np.argsort(-keys[pool], kind="stable")]
            full, rest = self._cut(pool)
            batches += full
        if len(rest):
            batches.append(rest)
        shuffled = [batches[i] for i in rng.permutation(len(batches))]
        return EpochPlan(shuffled, np.cumsum([int(self.samples[b].sum()) for b in shuffled], dtype=np.int64))

    def _cut(self, pool: Indices) -> tuple[list[Indices], Indices]:
        """Fill batches from the front of a pool sorted long to short; the unfilled last one is the rest."""
        lengths = self.samples[pool]
        batches, start = [], 0
        while start < len(pool):
            count = _fitting(lengths[start:], self.batch_samples)
            if start + count == len(pool):
                break
            batches.append(pool[start : start + count])
            start += count
        return batches, pool[start:]


@dataclass(frozen=True)
class EpochPlan:
    """One epoch's batches, with the audio consumed after each (unpadded samples)."""

    batches: list[Indices]
    consumed: NDArray[np.int64]

    def index_at(self, samples: int) -> int:
        """The batch that comes next once `samples` of this epoch have been consumed."""
        return int(np.searchsorted(self.consumed, samples, side="right"))


def _fitting(lengths: Indices, limit: int) -> int:
    """How many of the first utterances fit `limit` when padded to the longest; at least one."""
    window = lengths[: max(1, limit // max(1, int(lengths[0])) * 2 + 2)]
    padded = np.maximum.accumulate(window) * np.arange(1, len(window) + 1)
    return max(1, int(np.searchsorted(padded, limit, side="right")))


def share(lengths: Sequence[int] | Indices, world_size: int, rank: int) -> Indices:
    """Positions, within a global batch, of the utterances of one rank, longest first.

    They are dealt out to and fro by length (0 1 2 2 1 0 0 1 ...), so that the ranks' padded audio is
    nearly equal without any of them knowing of the others' memory.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    turns = np.arange(len(order)) % (2 * world_size)
    owner = np.where(turns < world_size, turns, 2 * world_size - 1 - turns)
    return order[owner == rank]


def micro_batches(lengths: Sequence[int] | Indices, max_samples: int) -> list[Indices]:
    """Cut utterances that are sorted long to short into groups of at most `max_samples` when padded.

    Raises:
        ValueError: one utterance alone is longer than that.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) and int(lengths.max()) > max_samples:
        raise ValueError(
            f"an utterance of {lengths.max() / SAMPLE_RATE_HZ:.1f} s does not fit device.max_seconds "
            f"({max_samples / SAMPLE_RATE_HZ:.1f} s): raise it, or lower data.max_seconds"
        )
    groups, start = [], 0
    while start < len(lengths):
        count = _fitting(lengths[start:], max_samples)
        groups.append(np.arange(start, start + count))
        start += count
    return groups


@dataclass(frozen=True)
class Position:
    """Where a corpus's reader stands: the pass, the audio of it consumed, and of all passes (samples)."""

    epoch: int = 0
    samples: int = 0
    total: int = 0


@dataclass(frozen=True)
class MixPosition:
    """Where the mix of both corpora stands, after a number of steps. All that a resume needs."""

    labelled: Position = Position()
    unlabelled: Position = Position()
    # Audio of either kind consumed before pseudo-labels began; the ratio counts from there.
    labelled_before: int = 0
    unlabelled_before: int = 0

    def state_dict(self) -> dict[str, list[int]]:
        """Plain integers."""
        return {
            "labelled": [self.labelled.epoch, self.labelled.samples, self.labelled.total],
            "unlabelled": [self.unlabelled.epoch, self.unlabelled.samples, self.unlabelled.total],
            "before": [self.labelled_before, self.unlabelled_before],
        }

    @staticmethod
    def from_state(state: dict[str, list[int]]) -> MixPosition:
        """The inverse of `state_dict`."""
        return MixPosition(Position(*state["labelled"]), Position(*state["unlabelled"]), *state["before"])


@dataclass(frozen=True)
class GlobalBatch:
    """One optimizer step's utterances over all ranks."""

    labelled: bool
    indices: Indices
    epoch: int
    samples: int
    after: MixPosition


class MixPlan:
    """Labelled and unlabelled global batches in turn, by their ratio in audio.

    Each step is of one kind (as in slimIPL); the kind is the one that is behind its share, so the order is a
    function of the audio consumed alone and a resume only needs a `MixPosition`.

    Args:
        labelled, unlabelled: plans over the two corpora; no unlabelled one: a supervised run.
        unlabelled_per_labelled: ratio in audio, once pseudo-labels have begun.
        start_samples: audio consumed before they begin.
    """

    def __init__(
        self,
        labelled: BatchPlan,
        unlabelled: BatchPlan | None = None,
        unlabelled_per_labelled: float = 1.0,
        start_samples: int = 0,
    ) -> None:
        self.ratio = unlabelled_per_labelled
        self.start_samples = start_samples
        self.has_unlabelled = unlabelled is not None
        # Two epochs at most are in use at a time; each is a few arrays.
        self._labelled_epoch = lru_cache(maxsize=2)(labelled.epoch)
        self._unlabelled_epoch = lru_cache(maxsize=2)(unlabelled.epoch) if unlabelled else None

    def next(self, at: MixPosition) -> GlobalBatch:
        """The global batch that follows `at`."""
        if self._wants_unlabelled(at):
            assert self._unlabelled_epoch is not None
            indices, epoch, after = _advance(self._unlabelled_epoch, at.unlabelled)
            samples = after.total - at.unlabelled.total
            return GlobalBatch(False, indices, epoch, samples, replace(at, unlabelled=after))
        indices, epoch, after = _advance(self._labelled_epoch, at.labelled)
        samples = after.total - at.labelled.total
        moved = replace(at, labelled=after)
        if not self.has_unlabelled or after.total + at.unlabelled.total <= self.start_samples:
            moved = replace(moved, labelled_before=after.total, unlabelled_before=at.unlabelled.total)
        return GlobalBatch(True, indices, epoch, samples, moved)

    def _wants_unlabelled(self, at: MixPosition) -> bool:
        if not self.has_unlabelled or at.labelled.total + at.unlabelled.total < self.start_samples:
            return False
        owed = self.ratio * (at.labelled.total - at.labelled_before)
        return at.unlabelled.total - at.unlabelled_before < owed


def _advance(epoch_of: Callable[[int], EpochPlan], at: Position) -> tuple[Indices, int, Position]:
    plan = epoch_of(at.epoch)
    index = plan.index_at(at.samples)
    if index == len(plan.batches):
        at = Position(at.epoch + 1, 0, at.total)
        plan, index = epoch_of(at.epoch), 0
    used = int(plan.consumed[index] - (plan.consumed[index - 1] if index else 0))
    after = Position(at.epoch, int(plan.consumed[index]), at.total + used)
    return plan.batches[index], at.epoch, after
