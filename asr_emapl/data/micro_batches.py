"""Divide a global batch into micro-batches that fit the memory of a device, equally among ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.batch_plan import fill
from asr_emapl.data.permutation import Indices

# Bisection steps for the size of equal micro-batches: the error is below a thousandth of the largest.
_TRIALS = 10


def micro_batches(
    lengths: Sequence[int] | Indices,
    max_samples: int,
    *,
    groups: Sequence[int] = (),
    world_size: int = 1,
    rank: int = 0,
) -> list[Indices]:
    """Positions of each micro-batch of one rank in a global batch, longest utterance first.

    The groups are the micro-batches if they fit the memory and can be divided evenly among ranks. Otherwise,
    utterances are sorted by length and split into micro-batches of about equal padded audio: the same number
    on each rank, if there are enough utterances, and at least one per group, because several groups in one
    micro-batch would be padded to the longest utterance. Micro-batches are assigned to ranks in alternating
    order (0 1 2 2 1 0 0 1 ...), from the longest utterances to the shortest. The first rank depends on the
    audio of the batch, so that the longest utterances are not always on the same rank.

    Args:
        lengths: lengths of the utterances in samples, in any order.
        max_samples: maximum padded samples of a micro-batch.
        groups: number of utterances in each group of similar length; empty: one group.

    Raises:
        ValueError: an utterance is longer than `max_samples`.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if len(lengths) == 0:
        return []
    if int(lengths.max()) > max_samples:
        raise ValueError(
            f"an utterance of {lengths.max() / SAMPLE_RATE_HZ:.1f} s exceeds device.max_seconds "
            f"({max_samples / SAMPLE_RATE_HZ:.1f} s): raise it, or lower data.max_seconds"
        )
    parts = _whole_groups(lengths, max_samples, groups, world_size) or _equal_parts(
        lengths, max_samples, len(groups), world_size
    )
    begins = int(lengths.sum()) % world_size
    return [
        part
        for turn, part in enumerate(parts)
        if (_forwards_and_backwards(turn, world_size) + begins) % world_size == rank
    ]


def passes_of_equal_size(count: int, size: int, *, world_size: int = 1, rank: int = 0) -> list[Indices]:
    """Positions of each micro-batch of one rank, if all have about `size` utterances of a global batch.

    The micro-batches do not depend on the number of ranks. They are consecutive parts of the batch, which are
    assigned to the ranks in turn.
    """
    parts = np.array_split(np.arange(count), max(1, round(count / size)))
    return [part for part in parts[rank::world_size] if len(part)]


def _whole_groups(
    lengths: Indices, max_samples: int, groups: Sequence[int], world_size: int
) -> list[Indices]:
    """The groups, longest utterances first; empty if they do not fit or cannot be divided evenly."""
    if not groups or len(groups) % world_size:
        return []
    parts = np.split(np.arange(len(lengths)), np.cumsum(groups)[:-1])
    parts = [part[np.argsort(-lengths[part], kind="stable")] for part in parts]
    if any(int(lengths[part[0]]) * len(part) > max_samples for part in parts):
        return []
    return sorted(parts, key=lambda part: -int(lengths[part[0]]))


def _equal_parts(lengths: Indices, max_samples: int, at_least: int, world_size: int) -> list[Indices]:
    """Consecutive parts of the utterances sorted by length, as many as memory, groups and ranks require."""
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order].tolist()
    count = max(at_least, len(fill(ordered, max_samples)))
    ends = _equal_ends(ordered, -(-count // world_size) * world_size, max_samples)
    return np.split(order, ends[:-1])


def _forwards_and_backwards(turn: int, world_size: int) -> int:
    place = turn % (2 * world_size)
    return place if place < world_size else 2 * world_size - 1 - place


def _equal_ends(ordered: list[int], count: int, limit: int) -> list[int]:
    """The ends of at most `count` parts, such that the largest has as few padded samples as possible."""
    if count >= len(ordered):
        return list(range(1, len(ordered) + 1))
    ends, enough, too_small = fill(ordered, limit), limit, max(ordered[0], sum(ordered) // count) - 1
    for _ in range(_TRIALS):
        trial = (too_small + enough + 1) // 2
        tried = fill(ordered, trial)
        if len(tried) <= count:
            ends, enough = tried, trial
        else:
            too_small = trial
    return ends
