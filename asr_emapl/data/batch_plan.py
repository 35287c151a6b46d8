"""Assign utterances to optimizer steps: pure functions of durations, seed and position in the data.

All lengths are in integer samples. kappa refers to global batches; ranks and micro-batches only divide them
(`asr_emapl.data.micro_batches`), so world size and memory do not change which utterances share a step.

A pass over a corpus (epoch) is divided into chunks: random parts of the corpus with some thousand utterances.
Each chunk is planned independently, so that starting or resuming takes the same time for ten million
utterances as for ten thousand. The utterances of a chunk are sorted into groups of similar length, the groups
are shuffled, and consecutive groups form a batch. A batch of kappa reference batches then consists of kappa
random groups, like kappa steps at the reference batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Len, Lt
from numpy.typing import NDArray

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.length_order import shuffled_by_length
from asr_emapl.data.permutation import FeistelPermutation, Indices
from asr_emapl.settings import Count, PositiveCount, PositiveSeconds, Share

# Bisection steps for the size of equal groups of a chunk.
_TRIALS = 5
# Groups of at least this many times `multiple` utterances are rounded to a multiple, which costs below 5 %.
_PLENTY = 10


@dataclass
class BatchConfig:
    """The batch of one optimizer step over all ranks."""

    seconds: PositiveSeconds | Literal["auto"] = 60.0
    """Padded seconds of audio per step; auto: world size x device.max_seconds."""
    reference_seconds: PositiveSeconds = 60.0
    """Padded seconds of the batch that the hyper-parameters were tuned at. kappa is the mean unpadded audio
    of a step at `seconds` over that of a step at `reference_seconds`."""
    progressive: list[Annotated[list[Annotated[float, Ge(0.0), Le(1e9)]], Len(2, 2)]] = field(
        default_factory=list
    )
    """Later batches, as [from_hours, seconds] pairs (Progressive Scaling)."""
    growth: Literal["none", "decay", "noise"] = "none"
    """decay: double the batch each time that the schedule has halved the learning rate (Seesaw), which takes
    fewer steps over the same audio. noise: double it when the measured gradient noise says that a larger
    batch loses next to nothing; requires optimizer.noise_every_steps."""
    growth_noise_share: Annotated[float, Gt(0.0), Lt(1.0)] = 0.9
    """Least share of noise in the mean square of the gradient at which growth=noise doubles the batch. At a
    share of s, a step at twice the batch makes 2 / (2 - s) times the progress: 1.82 times at 0.9."""
    max_seconds: PositiveSeconds | None = None
    """Padded seconds of the largest batch that growth leads to; required for growth."""
    group_seconds: Annotated[float, Ge(1.0), Le(1e9)] | None = None
    """Padded seconds of a group of utterances of similar length. A batch consists of random groups. Choose
    the audio that one device processes at a time; null: the reference batch."""
    shuffle_padding: Share = 0.008
    """Share of padding allowed for random groups; a larger share makes batches more random."""
    pool: Annotated[int, Ge(1), Le(2**53)] = 32768
    """Approximate number of utterances that are planned together; a larger number reduces padding."""
    multiple: PositiveCount = 8
    """Make the size of a large group a multiple of this, so that ranks get equal shares."""
    curriculum_epochs: Count = 0
    """Number of initial passes over a corpus in order of length, shortest utterances first."""

    def plan(
        self, samples: Indices, batch_samples: int, seed: int = 0, used: NDArray[np.bool_] | None = None
    ) -> BatchPlan:
        """The plan of a corpus at a batch of `batch_samples`; see `BatchPlan`."""
        group = self.reference_seconds if self.group_seconds is None else self.group_seconds
        return BatchPlan(
            samples,
            batch_samples,
            seed,
            group_samples=round(group * SAMPLE_RATE_HZ),
            shuffle_padding=self.shuffle_padding,
            pool=self.pool,
            multiple=self.multiple,
            curriculum_epochs=self.curriculum_epochs,
            used=used,
        )


@dataclass(frozen=True)
class BatchPlan:
    """The global batches of any part of any pass over a corpus.

    Args:
        samples: length of each utterance, in samples.
        batch_samples: maximum padded samples of a batch: the sum of longest x count over its groups.
        seed: seed of the shuffles.
        group_samples: approximate padded samples of a group; None: a batch is one group.
        shuffle_padding, pool, multiple, curriculum_epochs: see `BatchConfig`.
        used: bool [utterances], which utterances are put into batches; None: all. The chunks are the same for
            any `used`, so that it can change between two chunks.

    Raises:
        ValueError: there are no utterances, or one is longer than the batch.
    """

    samples: Indices
    batch_samples: int
    seed: int = 0
    group_samples: int | None = None
    shuffle_padding: float = 0.008
    pool: int = 32768
    multiple: int = 1
    curriculum_epochs: int = 0
    used: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if len(self.samples) == 0:
            raise ValueError("a batch plan needs at least one utterance")
        if int(self.samples.max()) > self.batch_samples:
            raise ValueError(
                f"the longest utterance ({self.samples.max()} samples) exceeds the batch "
                f"({self.batch_samples}); remove longer utterances first"
            )

    @cached_property
    def is_empty(self) -> bool:
        """Whether no utterance is put into batches."""
        return self.used is not None and not self.used.any()

    @property
    def chunks(self) -> int:
        """Number of chunks per pass. Depends only on corpus and pool, so a run can resume with any batch."""
        return max(1, round(len(self.samples) / self.pool))

    def chunk(self, epoch: int, number: int, earlier: tuple[tuple[int, int], ...] = ()) -> Chunk:
        """The batches of chunk `number` of pass `epoch`, in order, with each of its used utterances once.

        Args:
            earlier: audio of the chunk that was consumed at other batches, in order, as (batch_samples,
                samples). These utterances are excluded, so that each occurs once per pass even if the batch
                changes within it.
        """
        by_length = epoch < self.curriculum_epochs
        members = self._members(epoch, number, by_length)
        unused = members[:0]
        if self.used is not None:
            is_used = self.used[members]
            members, unused = members[is_used], members[~is_used]
        for stage, (batch_samples, consumed) in enumerate(earlier):
            part = self._arrange(members, unused, batch_samples, (epoch, number, stage), by_length)
            rest = slice(part.index_at(consumed), None)
            members = np.concatenate([members[:0], *part.batches[rest]])
            unused = np.concatenate([unused[:0], *part.unused[rest]])
        return self._arrange(members, unused, self.batch_samples, (epoch, number, len(earlier)), by_length)

    def epoch(self, epoch: int) -> list[Indices]:
        """All batches of a pass, in order."""
        return [batch for number in range(self.chunks) for batch in self.chunk(epoch, number).batches]

    def _members(self, epoch: int, number: int, by_length: bool) -> Indices:
        start, stop = (i * len(self.samples) // self.chunks for i in (number, number + 1))
        if by_length:
            return self._shortest_first[start:stop]
        return FeistelPermutation(len(self.samples), self.seed, epoch)(np.arange(start, stop, dtype=np.int64))

    @cached_property
    def _shortest_first(self) -> Indices:
        return np.argsort(self.samples, kind="stable")

    def _arrange(
        self,
        members: Indices,
        unused: Indices,
        batch_samples: int,
        place: tuple[int, int, int],
        by_length: bool,
    ) -> Chunk:
        """Batches of `members`, in an order seeded by `place` (pass, chunk and stage)."""
        if len(members) == 0:
            return Chunk.of([], self.samples, unused)
        rng = np.random.default_rng((self.seed, *place))
        per_batch = self._groups_per_batch(batch_samples, int(self.samples[members].max()))
        limit = batch_samples // per_batch
        ordered = members[shuffled_by_length(self.samples[members], limit, self.shuffle_padding, rng)]
        groups = self._cut(ordered, limit)
        if by_length:
            groups.reverse()
        else:
            groups = [groups[i] for i in rng.permutation(len(groups))]
        # As few batches as possible, with about the same number of groups each.
        count = -(-len(groups) // per_batch)
        ends = [(i * len(groups)) // count for i in range(count + 1)]
        return Chunk.of([groups[a:b] for a, b in pairwise(ends)], self.samples, unused)

    def _groups_per_batch(self, batch_samples: int, longest: int) -> int:
        """Number of groups closest to the requested group size; a group must fit the longest utterance."""
        if self.group_samples is None:
            return 1
        return max(1, min(round(batch_samples / max(1, self.group_samples)), batch_samples // longest))

    def _cut(self, ordered: Indices, limit: int) -> list[Indices]:
        """Split utterances ordered by length into as few groups as possible, of about equal size.

        If groups were simply filled, the last one would be much smaller than the others.
        """
        lengths = self.samples[ordered].tolist()
        ends = fill(lengths, limit, self.multiple)
        padded = [max(lengths[a:b]) * (b - a) for a, b in zip([0, *ends], ends, strict=False)]
        too_small, enough = max(lengths) - 1, limit
        # Approximate size of equal groups; it can be slightly too small.
        trial = max(sum(padded) // len(ends), max(lengths))
        for _ in range(_TRIALS):
            tried = fill(lengths, trial, self.multiple)
            if len(tried) == len(ends):
                ends, enough = tried, trial
            else:
                too_small = trial
            trial = (too_small + enough + 1) // 2
        return np.split(ordered, ends[:-1])


@dataclass(frozen=True)
class Chunk:
    """The batches of a chunk.

    Attributes:
        batches: utterances of each batch.
        groups: number of utterances in each group of each batch.
        padded: samples of each batch if each group is padded to its longest utterance.
        consumed: unpadded samples of the chunk up to the end of each batch.
        unused: utterances of the chunk that are not used, spread evenly over the batches to be counted there.
    """

    batches: list[Indices]
    groups: list[tuple[int, ...]]
    padded: list[int]
    consumed: NDArray[np.int64]
    unused: list[Indices]

    @staticmethod
    def of(batches: list[list[Indices]], samples: Indices, unused: Indices) -> Chunk:
        """Build a chunk from batches, each of which is a list of groups."""
        audio = [sum(int(samples[group].sum()) for group in batch) for batch in batches]
        return Chunk(
            [np.concatenate(batch) for batch in batches],
            [tuple(len(group) for group in batch) for batch in batches],
            [sum(int(samples[group].max()) * len(group) for group in batch) for batch in batches],
            np.cumsum(audio, dtype=np.int64),
            np.array_split(unused, len(batches)) if batches else [],
        )

    def index_at(self, samples: int) -> int:
        """Index of the next batch after `samples` of this chunk have been consumed."""
        return int(np.searchsorted(self.consumed, samples, side="right"))


def fill(lengths: list[int], limit: int, multiple: int = 1) -> list[int]:
    """Fill groups one after the other with up to `limit` padded samples each, and return their ends.

    Args:
        multiple: round the number of utterances to a multiple of this if at least ten times as many fit.
    """
    ends = [0]
    while ends[-1] < len(lengths):
        start = ends[-1]
        count = fitting(lengths, start, limit)
        if count >= _PLENTY * multiple and start + count < len(lengths):
            count -= count % multiple
        ends.append(start + count)
    return ends[1:]


def fitting(lengths: list[int], start: int, limit: int) -> int:
    """Number of utterances from `start` on that fit `limit` if padded to the longest; at least one."""
    # Upper bound of the count, because the first utterance is the longest.
    count = min(len(lengths) - start, max(1, limit // max(1, lengths[start])))
    while count > 1 and max(lengths[start : start + count]) * count > limit:
        count -= 1
    return count
