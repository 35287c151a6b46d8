"""The matched-pairs sentence-segment word error test (Gillick and Cox 1989), as in NIST's sc_stats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asr_emapl.scoring.alignment import Alignment

_BUFFER_WORDS = 2
"""Number of consecutive correct words, in both systems, that separates two segments (as in sc_stats)."""


@dataclass(frozen=True)
class MatchedPairs:
    """The result of the test.

    Attributes:
        segments: parts of the references in which at least one system has an error.
        mean, deviation: mean and standard deviation of the error difference per segment, first minus second.
        z: mean / (deviation / sqrt(segments)), approximately normal if the systems are equally good; None if
            the deviation is 0 or there are fewer than two segments.
        p: the two-sided p-value of z, unreliable below 50 segments; None if z is None.
    """

    segments: int
    mean: float
    deviation: float
    z: float | None
    p: float | None


def matched_pairs(differences: Sequence[int]) -> MatchedPairs:
    """Test whether the error differences of two systems, one per segment, have zero mean.

    The test treats segments as independent. It therefore reports too many false differences if the systems
    favour different speakers, especially with few speakers.
    """
    n = len(differences)
    mean = sum(differences) / n if n else 0.0
    deviation = statistics.stdev(differences) if n > 1 else 0.0
    if deviation == 0.0:
        return MatchedPairs(n, mean, deviation, None, None)
    z = mean / (deviation / math.sqrt(n))
    return MatchedPairs(n, mean, deviation, z, math.erfc(abs(z) / math.sqrt(2.0)))


def segment_differences(first: Alignment, second: Alignment) -> list[int]:
    """Return the first system's errors minus the second's, for each segment of an utterance that has errors.

    A segment ends with the utterance, or where both systems get two consecutive reference words right.

    Raises:
        ValueError: the references differ.
    """
    if first.reference != second.reference:
        raise ValueError(f"alignments {first.id!r} and {second.id!r} have different references")
    errors = sorted([(*at, 1) for at in _errors(first)] + [(*at, -1) for at in _errors(second)])
    differences: list[int] = []
    reached = -math.inf
    for begin, end, sign in errors:
        if begin - reached >= _BUFFER_WORDS:
            differences.append(0)
        differences[-1] += sign
        reached = max(reached, end)
    return differences


def _errors(alignment: Alignment) -> Iterator[tuple[int, int]]:
    """Yield start and end of each error as reference word positions; they are equal for an insertion."""
    position = 0
    for op in alignment.ops:
        width = 0 if op.kind == "insertion" else 1
        if op.kind != "correct":
            yield position, position + width
        position += width
