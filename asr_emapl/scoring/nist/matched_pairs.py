"""The matched-pairs sentence-segment word error test (Gillick and Cox 1989), as NIST's sc_stats does it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asr_emapl.scoring.alignment import Alignment

_BUFFER_WORDS = 2
"""Reference words that both systems have right, in a row, and that part two segments: NIST's choice."""


@dataclass(frozen=True)
class MatchedPairs:
    """The outcome of the test.

    Attributes:
        segments: stretches of the references in which at least one system errs.
        mean: errors of the first system less those of the second, for a segment.
        deviation: the standard deviation of that.
        z: mean / (deviation / sqrt(segments)), about normal if the systems are equally good; None where the
            deviation is 0 or there are fewer than two segments.
        p: the probability of a z as far from 0 as this or farther, if they are; None where z is. The normal
            distribution is an approximation for many segments: doubt it below 50.
    """

    segments: int
    mean: float
    deviation: float
    z: float | None
    p: float | None


def matched_pairs(
    first: Iterable[Alignment], second: Iterable[Alignment], whole: Sequence[int] = ()
) -> MatchedPairs:
    """Test two systems' alignments with the same references, given in the same order.

    Args:
        first, second: the alignments.
        whole: errors of the first system less those of the second in further segments.

    Segments end with the utterance, or where both systems have two reference words in a row right: the errors
    of two segments can then be taken for independent of each other, whatever a recogniser's language model
    does within one. That holds only as far as one speaker's segments are no more alike than those of two:
    if one system suits some speakers and the other system others, the test claims a difference too often,
    the more so the fewer speakers there are. `Comparison.shown` therefore also asks the interval by speaker.

    Raises:
        ValueError: the references differ.
    """
    differences = [
        difference for a, b in zip(first, second, strict=True) for difference in segment_differences(a, b)
    ]
    differences += whole
    n = len(differences)
    mean = sum(differences) / n if n else 0.0
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1)) if n > 1 else 0.0
    if deviation == 0.0:
        return MatchedPairs(n, mean, deviation, None, None)
    z = mean / (deviation / math.sqrt(n))
    return MatchedPairs(n, mean, deviation, z, math.erfc(abs(z) / math.sqrt(2.0)))


def segment_differences(first: Alignment, second: Alignment) -> list[int]:
    """Errors of the first less those of the second, for each segment of one utterance with errors at all.

    Raises:
        ValueError: the references differ.
    """
    if [op.reference for op in first.ops if op.reference] != [
        op.reference for op in second.ops if op.reference
    ]:
        raise ValueError(f"{first.id!r} and {second.id!r} are alignments with different references")
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
    """Where errors begin and end, in words of the reference; insertions lie between two words."""
    place = 0
    for op in alignment.ops:
        width = 0 if op.kind == "insertion" else 1
        if op.kind != "correct":
            yield place, place + width
        place += width
