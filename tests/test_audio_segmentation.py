"""Utterances are disjoint, ordered, within limits and cover the speech; cuts are where it is quiet."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr_emapl.audio.segmentation import SegmentConfig, segment, voiced_frames
from asr_emapl.audio.voice_activity import FRAME_SECONDS, Activity
from asr_emapl.errors import UserError

CONFIG = SegmentConfig(
    min_seconds=0.64, target_seconds=3.2, max_seconds=6.4, pause_seconds=0.96, edge_seconds=0.16
)


def frames(seconds: float) -> int:
    return round(seconds / FRAME_SECONDS)


def activity(*stretches: tuple[float, float]) -> Activity:
    """Activity from (seconds, probability of speech); the level follows the probability."""
    speech = np.concatenate([np.full(frames(seconds), p, np.float32) for seconds, p in stretches])
    return Activity(speech, (-60.0 + 40.0 * speech).astype(np.float32))


def seconds(spans: list[tuple[int, int]]) -> list[tuple[float, float]]:
    return [(start * FRAME_SECONDS, end * FRAME_SECONDS) for start, end in spans]


LEVELS = st.sampled_from([0.0, 0.1, 0.4, 0.6, 1.0])
RECORDINGS = st.lists(st.tuples(st.integers(1, 200), LEVELS), max_size=25)


@st.composite
def limits(draw: st.DrawFn) -> SegmentConfig:
    shortest = draw(st.floats(0.1, 3.0))
    longest = draw(st.floats(max(1.0, 2.0 * shortest), 12.0))
    target, pause = draw(st.floats(shortest, longest)), draw(st.floats(0.1, 2.0))
    edge = draw(st.floats(0.0, min(pause, shortest) / 2.0))
    return SegmentConfig(shortest, longest, target, pause, edge)


@settings(max_examples=200)
@given(recording=RECORDINGS, config=limits(), seed=st.integers(0, 99))
# The target lies at a maximum that is not a whole number of frames.
@example(recording=[(19, 0.0), (200, 0.6)], config=SegmentConfig(2.0, 7.0, 7.0, 2.0, 1.0), seed=0)
def test_spans_are_disjoint_ordered_within_limits_and_lost_frames_are_counted(recording, config, seed):
    speech = np.concatenate([np.zeros(0), *(np.full(n, p) for n, p in recording)]).astype(np.float32)
    level = np.random.default_rng(seed).uniform(-80.0, 0.0, len(speech)).astype(np.float32)
    cut = segment(Activity(speech, level), config)
    ends = [0]
    for start, end in cut.spans:
        assert ends[-1] <= start < end <= len(speech)
        assert config.min_seconds - 1e-6 <= (end - start) * FRAME_SECONDS <= config.max_seconds + 1e-6
        ends.append(end)
    voiced = voiced_frames(speech)
    inside = np.zeros(len(speech), dtype=bool)
    for start, end in cut.spans:
        inside[start:end] = True
        # No utterance has a pause that should end it, or begins or ends with more silence than the edge.
        runs = np.flatnonzero(voiced[start:end])
        assert np.diff(runs).max(initial=0) <= config.pause_seconds / FRAME_SECONDS + 2
        assert max(runs[0], end - start - 1 - runs[-1]) <= config.edge_seconds / FRAME_SECONDS + 1e-6
    assert cut.lost_frames == (voiced & ~inside).sum()


@settings(max_examples=100)
@given(
    words=st.lists(st.tuples(st.floats(0.7, 20.0), st.floats(0.1, 3.0)), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_speech_longer_than_the_minimum_is_covered(words, seed):
    """For any pauses, no piece is too short and dropped."""
    stretches = [part for speech, pause in words for part in ((speech, 1.0), (pause, 0.0))]
    given_ = activity((1.0, 0.0), *stretches)
    noise = np.random.default_rng(seed).normal(0.0, 3.0, len(given_.speech)).astype(np.float32)
    assert segment(Activity(given_.speech, given_.level_db + noise), CONFIG).lost_frames == 0


def test_only_a_long_pause_separates():
    cut = segment(activity((0.64, 0), (1.28, 1), (0.64, 0), (0.96, 1), (1.6, 0), (1.6, 1), (0.64, 0)), CONFIG)
    assert seconds(cut.spans) == [
        (pytest.approx(0.48), pytest.approx(3.68)),
        (pytest.approx(4.96), pytest.approx(6.88)),
    ]


def test_recording_begins_and_ends_with_speech():
    assert segment(activity((1.6, 1)), CONFIG).spans == [(0, 50)]


def test_too_short_speech_is_left_out_and_counted():
    cut = segment(activity((1.6, 0), (0.064, 1), (1.6, 0), (1.6, 1)), CONFIG)
    assert len(cut.spans) == 1
    assert cut.lost_frames == 2


def test_empty_recordings_and_silence():
    assert segment(Activity(np.zeros(0, np.float32), np.zeros(0, np.float32)), CONFIG).spans == []
    assert segment(activity((5.0, 0.2)), CONFIG).spans == []


def test_a_single_frame_below_the_threshold_does_not_separate_speech():
    """Hysteresis: 0.4 does not begin speech, but does not end it."""
    assert voiced_frames(np.array([0.4, 0.6, 0.4, 0.4, 0.3, 0.4, 0.1], np.float32)).tolist() == [
        *[True] * 4,
        *[False] * 3,
    ]


def test_long_speech_is_cut_at_its_pauses():
    talk = activity((2.88, 1), (0.32, 0), (1.92, 1), (0.32, 0), (3.2, 1), (0.32, 0), (2.56, 1))
    cut = segment(talk, CONFIG)
    assert cut.lost_frames == 0
    assert len(cut.spans) == 4
    for (_, end), (start, _) in zip(cut.spans[:-1], cut.spans[1:], strict=True):
        assert talk.speech[end : start + 1].max() == 0.0 or talk.speech[end - 3 : start + 3].min() == 0.0


def test_without_a_pause_it_is_cut_where_it_is_quietest():
    talk = activity((9.0, 1.0))
    level = np.full(len(talk.speech), -20.0, np.float32)
    dip = frames(3.6), frames(4.1)
    level[slice(*dip)] = -50.0
    (_, end), (start, _) = segment(Activity(talk.speech, level), CONFIG).spans
    assert dip[0] <= end == start < dip[1]


def best_by_trying(talk: Activity, config: SegmentConfig) -> float:
    """A slow reference for the cost of the cuts: the minimum over all choices of frames."""
    speech, level = np.pad(talk.speech, 3, mode="edge"), talk.level_db
    quiet, loud = np.percentile(level, [5, 95])
    total = len(level)

    def place(frame: int) -> float:
        relative = min(max((level[frame] - quiet) / max(loud - quiet, 1.0), 0.0), 1.0)
        return 2.0 * (float(speech[frame : frame + 7].mean()) + relative)

    @cache
    def rest(start: int) -> float:
        costs = []
        for end in range(start + 1, total + 1):
            length = (end - start) * FRAME_SECONDS
            if length <= config.max_seconds + 1e-6:
                short = 1e6 if length < config.min_seconds - 1e-6 else 0.0
                tail = rest(end) + place(end) if end < total else 0.0
                costs.append((length / config.target_seconds - 1.0) ** 2 + short + tail)
        return min(costs)

    return rest(0)


def cost_of(spans: list[tuple[int, int]], talk: Activity, config: SegmentConfig) -> float:
    lengths = [(end - start) * FRAME_SECONDS for start, end in spans]
    level = talk.level_db
    quiet, loud = np.percentile(level, [5, 95])
    speech = np.pad(talk.speech, 3, mode="edge")
    cuts = [end for _, end in spans[:-1]]
    places = [
        2.0 * (speech[c : c + 7].mean() + np.clip((level[c] - quiet) / max(loud - quiet, 1.0), 0.0, 1.0))
        for c in cuts
    ]
    return float(sum((length / config.target_seconds - 1.0) ** 2 for length in lengths) + sum(places))


@pytest.mark.parametrize("seed", range(5))
def test_cuts_cost_hardly_more_than_the_best_of_all(seed):
    """The search considers one frame in eight, the reference all of them."""
    config = SegmentConfig(min_seconds=0.32, target_seconds=1.28, max_seconds=2.56, edge_seconds=0.0)
    rng = np.random.default_rng(seed)
    # All of it voiced, so that utterances meet where they are cut.
    speech = np.convolve(rng.uniform(0.5, 1.0, 156), np.ones(7) / 7.0, mode="valid").astype(np.float32)
    talk = Activity(speech, rng.uniform(-60.0, -20.0, len(speech)).astype(np.float32))
    cut = segment(talk, config)
    assert cut.spans[0][0] == 0
    assert cut.spans[-1][1] == len(speech)
    best = best_by_trying(talk, config)
    assert best - 1e-5 <= cost_of(cut.spans, talk, config) <= 1.15 * best


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"target_seconds": 30.0}, "target (30 s)"),
        ({"min_seconds": 15.0}, "minimum (15 s)"),
        ({"max_seconds": 0.5, "target_seconds": 0.4, "min_seconds": 0.2}, "maximum (0.5 s)"),
        ({"edge_seconds": 0.6}, "edges of 0.6 s"),
        ({"edge_seconds": float("nan")}, "edges of nan s"),
        ({"pause_seconds": 0.0}, "positive"),
        ({"max_seconds": float("inf")}, "positive"),
    ],
)
def test_contradicting_limits_are_refused(change, told):
    with pytest.raises(UserError, match="segment: ") as error:
        SegmentConfig(**change)
    assert told in str(error.value)
