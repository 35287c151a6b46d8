"""Which utterances make up which optimizer step: pure functions of durations, seed and place in the data.

Everything is counted in integer samples. A global batch is what kappa sees; ranks and micro-batches only
divide it (`asr_emapl.data.share`), so world size and memory never change which utterances are learned from
together, or when.

A pass over a corpus (epoch) is divided into chapters, random parts of the corpus of some thousand utterances.
A chapter is sorted by length and cut into batches without a look at the rest, so that to begin, or to resume
anywhere, takes no longer for ten million utterances than for ten thousand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from asr_emapl.data.shuffle import Indices, Shuffle

# Sizes that are tried to make the batches of a chapter equal; each halves what the last one still lacks.
_TRIALS = 5
# Where so many times `multiple` utterances fit, less than a twentieth of a batch is given up for even shares.
_PLENTY = 10


@dataclass
class BatchConfig:
    """The batch of one optimizer step, over all ranks. Batch, memory and hardware are three settings."""

    # Padded seconds of audio a step; "auto": world size x device.max_seconds.
    seconds: float | int | str = 60.0
    # Padded seconds of the batch that the hyper-parameters were tuned at. kappa is the mean unpadded audio of
    # a step at `seconds` over that of a step at `reference_seconds`.
    reference_seconds: float = 60.0
    # Other batches later on, as [from_hours, seconds] pairs (Progressive Scaling).
    progressive: list[list[float]] = field(default_factory=list)
    # Lengths are sorted after a random factor within 1 +- jitter: more padding, more varied company.
    jitter: float = 0.002
    # Utterances sorted together (about): more of them, less padding; what is not sorted together is shuffled.
    pool: int = 32768
    # Utterances of a large batch are a multiple of this, so that as many ranks, or a divisor of them, have
    # equal shares. Of no effect where fewer than ten times as many fit.
    multiple: int = 8
    # So many first passes over a corpus go from its shortest utterances to its longest.
    curriculum_epochs: int = 0

    def plan(self, samples: Indices, batch_samples: int, seed: int = 0) -> BatchPlan:
        """Of a corpus, at some batch; see `BatchPlan`."""
        return BatchPlan(
            samples, batch_samples, seed, self.jitter, self.pool, self.multiple, self.curriculum_epochs
        )


@dataclass(frozen=True)
class BatchPlan:
    """The global batches of any part of any pass over a corpus.

    Args:
        samples: length of each utterance, in samples.
        batch_samples: padded samples of a batch at most (longest x count).
        seed: of the shuffles.
        jitter, pool, multiple, curriculum_epochs: see `BatchConfig`.

    Raises:
        ValueError: no utterance, or one that exceeds the batch.
    """

    samples: Indices
    batch_samples: int
    seed: int = 0
    jitter: float = 0.002
    pool: int = 32768
    multiple: int = 1
    curriculum_epochs: int = 0

    def __post_init__(self) -> None:
        if len(self.samples) == 0:
            raise ValueError("a batch plan needs at least one utterance")
        if int(self.samples.max()) > self.batch_samples:
            raise ValueError(
                f"the longest utterance ({self.samples.max()} samples) exceeds the batch "
                f"({self.batch_samples}); "
                "leave out what is too long first"
            )

    @property
    def chapters(self) -> int:
        """Of each pass; they depend on the corpus and the pool alone, so another batch finds its place."""
        return max(1, round(len(self.samples) / self.pool))

    def chapter(self, epoch: int, number: int) -> Chapter:
        """The batches of chapter `number` of pass `epoch`, in order; each of its utterances once."""
        rng = np.random.default_rng((self.seed, epoch, number))
        by_length = epoch < self.curriculum_epochs
        members = self._members(epoch, number, by_length)
        keys = self.samples[members] * rng.uniform(1.0 - self.jitter, 1.0 + self.jitter, len(members))
        batches = self._cut(members[np.argsort(-keys, kind="stable")])
        order = range(len(batches))[::-1] if by_length else rng.permutation(len(batches))
        ordered = [batches[i] for i in order]
        return Chapter(ordered, np.cumsum([int(self.samples[b].sum()) for b in ordered], dtype=np.int64))

    def epoch(self, epoch: int) -> list[Indices]:
        """All batches of a pass, in order."""
        return [batch for number in range(self.chapters) for batch in self.chapter(epoch, number).batches]

    def _members(self, epoch: int, number: int, by_length: bool) -> Indices:
        start, stop = (i * len(self.samples) // self.chapters for i in (number, number + 1))
        if by_length:
            return self._shortest_first[start:stop]
        return Shuffle(len(self.samples), self.seed, epoch)(np.arange(start, stop, dtype=np.int64))

    @cached_property
    def _shortest_first(self) -> Indices:
        return np.argsort(self.samples, kind="stable")

    def _cut(self, chapter: Indices) -> list[Indices]:
        """Batches of a chapter sorted long to short: as few as possible, and about equally large.

        Filled to the brim they would leave a last one with the rest, a step of another size.
        """
        lengths = self.samples[chapter].tolist()
        ends = self._fill(lengths, self.batch_samples)
        padded = [max(lengths[a:b]) * (b - a) for a, b in zip([0, *ends], ends, strict=False)]
        too_small, enough = max(lengths) - 1, self.batch_samples
        # About what equal batches take; it may turn out a little too small.
        trial = max(sum(padded) // len(ends), max(lengths))
        for _ in range(_TRIALS):
            tried = self._fill(lengths, trial)
            if len(tried) == len(ends):
                ends, enough = tried, trial
            else:
                too_small = trial
            trial = (too_small + enough + 1) // 2
        return np.split(chapter, ends[:-1])

    def _fill(self, lengths: list[int], limit: int) -> list[int]:
        """Where batches end that are filled one after the other, to `limit` padded samples each."""
        ends = [0]
        while ends[-1] < len(lengths):
            start = ends[-1]
            count = fitting(lengths, start, limit)
            if count >= _PLENTY * self.multiple and start + count < len(lengths):
                count -= count % self.multiple
            ends.append(start + count)
        return ends[1:]


@dataclass(frozen=True)
class Chapter:
    """Some batches, with the audio consumed after each (unpadded samples, counted from the first)."""

    batches: list[Indices]
    consumed: NDArray[np.int64]

    def index_at(self, samples: int) -> int:
        """The batch that comes next once `samples` of this chapter have been consumed."""
        return int(np.searchsorted(self.consumed, samples, side="right"))


def fitting(lengths: list[int], start: int, limit: int) -> int:
    """How many utterances from `start` on fit `limit` when padded to the longest; at least one."""
    # No more than if the first were the longest.
    count = min(len(lengths) - start, max(1, limit // max(1, lengths[start])))
    while count > 1 and max(lengths[start : start + count]) * count > limit:
        count -= 1
    return count
