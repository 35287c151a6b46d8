"""Cut recordings into utterances, at pauses if possible, otherwise where a cut has the lowest cost.

Speech frames are found by hysteresis thresholding of a detector's probabilities. A pause longer than
`pause_seconds` ends an utterance. Utterances longer than the target are cut so as to minimise the total cost:
the cost of each cut plus a penalty for each utterance's deviation from the target length. Dynamic
programming finds the cuts: the optimal partitioning of Jackson et al. 2005 (doi 10.1109/LSP.2001.838216),
with the search bounded by the maximum utterance length. The cost is lowest in a pause and highest in a loud
vowel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from asr_emapl.audio.voice_activity import FRAME_SECONDS, Activity, Floats
from asr_emapl.errors import UserError

# Silero's defaults: threshold for a speech frame, and lower threshold for its neighbours.
_THRESHOLD, _LOWER_THRESHOLD = 0.5, 0.35
# Cost of a cut in loud speech, equal to that of an utterance of three times the target, (3 - 1) ** 2.
_CUT_COST = 4.0
# Cost of an utterance below min_seconds; higher than any other cost.
_TOO_SHORT_COST = 1e6
# Each block of this many frames (0.26 s) has one candidate for a cut, its best frame.
_CANDIDATE_FRAMES = 8
_SMOOTHING_FRAMES = 7

Span = tuple[int, int]
"""First frame, and the frame after the last."""


@dataclass(frozen=True)
class SegmentConfig:
    """Limits on utterances, in seconds.

    Raises:
        UserError: the limits are inconsistent.
    """

    # Speech segments shorter than this are discarded.
    min_seconds: float = 1.0
    max_seconds: float = 24.0
    # Longer segments are cut into utterances of about this length.
    target_seconds: float = 12.0
    # A pause that always ends an utterance.
    pause_seconds: float = 1.0
    # Silence that is kept before and after the speech.
    edge_seconds: float = 0.2

    def __post_init__(self) -> None:
        lengths = (self.min_seconds, self.target_seconds, self.max_seconds)
        if not all(0.0 < seconds < math.inf for seconds in (*lengths, self.pause_seconds)):
            raise UserError("segment: the limits must be positive numbers of seconds")
        shortest, target, longest = lengths
        if not (shortest <= target <= longest and longest >= max(1.0, 2.0 * shortest)):
            raise UserError(
                f"segment: the target ({target:g} s) must be between the minimum ({shortest:g} s) and the "
                f"maximum ({longest:g} s); the maximum must be at least 1 s and twice the minimum"
            )
        if not 0.0 <= 2.0 * self.edge_seconds <= min(self.pause_seconds, self.min_seconds):
            raise UserError(
                f"segment: edges of {self.edge_seconds:g} s must fit twice into the pause "
                f"({self.pause_seconds:g} s) and into the shortest utterance ({self.min_seconds:g} s)"
            )


@dataclass(frozen=True)
class Segments:
    """Utterances as disjoint, ordered spans of frames, and the number of speech frames outside them."""

    spans: list[Span]
    lost_frames: int


def segment(activity: Activity, config: SegmentConfig) -> Segments:
    """The utterances of a recording, within the limits of the config."""
    voiced = voiced_frames(activity.speech)
    limits = _Frames.of(config)
    kept: list[Span] = []
    for first, last in _islands(voiced, limits.pause):
        kept += [
            (start, end)
            for start, end in _cut(activity, voiced, (first, last), limits)
            if end - start >= limits.shortest
        ]
    total = sum(int(voiced[start:end].sum()) for start, end in kept)
    return Segments(kept, int(voiced.sum()) - total)


def voiced_frames(speech: Floats) -> NDArray[np.bool_]:
    """Mask of speech frames: runs above the lower threshold that reach the upper threshold."""
    starts, ends = _runs(speech >= _LOWER_THRESHOLD)
    voiced = np.zeros(len(speech), dtype=bool)
    for start, end in zip(starts, ends, strict=True):
        voiced[start:end] = speech[start:end].max() >= _THRESHOLD
    return voiced


@dataclass(frozen=True)
class _Frames:
    """`SegmentConfig` in frames, rounded so that the limits hold in seconds."""

    shortest: int
    longest: int
    target: int
    pause: int
    edge: int

    @staticmethod
    def of(config: SegmentConfig) -> _Frames:
        rounding = 1e-6  # so that 1.6 s is exactly 50 frames despite floating-point error
        longest = math.floor(config.max_seconds / FRAME_SECONDS + rounding)
        return _Frames(
            math.ceil(config.min_seconds / FRAME_SECONDS - rounding),
            longest,
            min(round(config.target_seconds / FRAME_SECONDS), longest),
            math.ceil(config.pause_seconds / FRAME_SECONDS - rounding),
            math.floor(config.edge_seconds / FRAME_SECONDS + rounding),
        )


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start and end of each run of True values."""
    steps = np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)


def _islands(voiced: NDArray[np.bool_], pause: int) -> list[Span]:
    """Spans of speech that are separated by pauses longer than `pause`."""
    starts, ends = _runs(voiced)
    if len(starts) == 0:
        return []
    apart = np.flatnonzero(starts[1:] - ends[:-1] > pause)
    first = np.concatenate([starts[:1], starts[apart + 1]])
    last = np.concatenate([ends[apart], ends[-1:]])
    return list(zip(first.tolist(), last.tolist(), strict=True))


def _cut(activity: Activity, voiced: NDArray[np.bool_], island: Span, limits: _Frames) -> list[Span]:
    """Utterances that cover the speech of an island, each with silence at its edges."""
    first, last = island
    start, end = max(0, first - limits.edge), min(len(voiced), last + limits.edge)
    if end - start <= limits.target:
        return [(start, end)]
    cost = _cut_cost(activity, island)
    places = _candidates(cost, island)
    # The utterance between two cuts begins and ends with its speech and at most `edge` frames of silence.
    frames = first + np.flatnonzero(voiced[first:last])
    starts = np.maximum(places, frames[np.searchsorted(frames, places)] - limits.edge)
    ends = np.minimum(places, frames[np.searchsorted(frames, places) - 1] + 1 + limits.edge)
    starts, ends = np.append(start, starts), np.append(ends, end)
    chosen = _cheapest(starts, ends, np.append(_CUT_COST * cost[places - first], 0.0), limits)
    return [(int(starts[i]), int(ends[j - 1])) for i, j in pairwise(chosen)]


def _cut_cost(activity: Activity, island: Span) -> Floats:
    """Cost of a cut before each frame of the island, from 0 (silence) to 1 (loud speech)."""
    first, last = island
    kernel = np.full(_SMOOTHING_FRAMES, 1.0 / _SMOOTHING_FRAMES)
    half = _SMOOTHING_FRAMES // 2
    # Pad with edge values, because zero padding would count as silence.
    speech = np.convolve(np.pad(activity.speech[first:last], half, mode="edge"), kernel, mode="valid")
    level = activity.level_db[first:last]
    quiet, loud = np.percentile(level, [5, 95])
    relative = np.clip((level - quiet) / max(loud - quiet, 1.0), 0.0, 1.0)
    cost: Floats = (0.5 * (speech + relative)).astype(np.float32)
    return cost


def _candidates(cost: Floats, island: Span) -> NDArray[np.int64]:
    """The cheapest frame of each block of `_CANDIDATE_FRAMES`, without the first frame of the island."""
    first, last = island
    count = (last - first - 1) // _CANDIDATE_FRAMES
    blocks = cost[1 : 1 + count * _CANDIDATE_FRAMES].reshape(count, _CANDIDATE_FRAMES)
    return first + 1 + np.arange(count) * _CANDIDATE_FRAMES + blocks.argmin(axis=1)


def _cheapest(
    starts: NDArray[np.int64], ends: NDArray[np.int64], cut: NDArray[np.float64], limits: _Frames
) -> list[int]:
    """The cuts between utterances, from 0 (the beginning) to len(ends) (the end).

    The utterance from cut i to cut j begins at starts[i] and ends at ends[j - 1]; cut[j - 1] is the cost of
    cut j. best[j], the minimum cost up to cut j, is the minimum over i of best[i] plus the cost of (i, j).
    """
    best = np.zeros(len(ends) + 1)
    before = np.zeros(len(ends) + 1, dtype=np.int64)
    # The distance between two cuts exceeds the utterance length by at most two trimmed pauses. Convert this
    # bound to candidates.
    reach = (limits.longest + 2 * limits.pause) // _CANDIDATE_FRAMES + 2
    for j in range(1, len(best)):
        low = max(0, j - reach)
        length = ends[j - 1] - starts[low:j]
        costs = best[low:j] + np.square(length / limits.target - 1.0)
        costs[length < limits.shortest] += _TOO_SHORT_COST
        costs[length > limits.longest] = np.inf
        i = int(costs.argmin())
        best[j], before[j] = costs[i] + cut[j - 1], low + i
    chosen = [len(ends)]
    while chosen[-1] > 0:
        chosen.append(int(before[chosen[-1]]))
    return chosen[::-1]
