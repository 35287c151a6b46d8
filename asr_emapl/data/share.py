"""A global batch divided: over ranks by what they have to do, and within a rank by what fits its memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.batch_plan import fitting
from asr_emapl.data.shuffle import Indices


def share(lengths: Sequence[int] | Indices, world_size: int, rank: int) -> Indices:
    """Positions, within a global batch, of the utterances of one rank, longest first.

    They are dealt out to and fro by length (0 1 2 2 1 0 0 1 ...), so that the ranks' padded audio is
    nearly equal without any of them knowing of the others' memory. Who begins differs from batch to batch, by
    its audio: else what cannot be divided would always be the same rank's.
    """
    begins = int(np.sum(lengths)) % world_size
    order = np.argsort(-np.asarray(lengths), kind="stable")
    turns = np.arange(len(order)) % (2 * world_size)
    owner = np.where(turns < world_size, turns, 2 * world_size - 1 - turns)
    return order[(owner + begins) % world_size == rank]


def micro_batches(lengths: Sequence[int] | Indices, max_samples: int) -> list[Indices]:
    """Cut utterances that are sorted long to short into groups of at most `max_samples` when padded.

    Raises:
        ValueError: one utterance alone is longer than that.
    """
    sizes = [int(n) for n in lengths]
    if sizes and max(sizes) > max_samples:
        raise ValueError(
            f"an utterance of {max(sizes) / SAMPLE_RATE_HZ:.1f} s does not fit device.max_seconds "
            f"({max_samples / SAMPLE_RATE_HZ:.1f} s): raise it, or lower data.max_seconds"
        )
    groups, start = [], 0
    while start < len(sizes):
        count = fitting(sizes, start, max_samples)
        groups.append(np.arange(start, start + count))
        start += count
    return groups
