"""The audio clock: exact counting, and multiples of an interval that pass once each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.scaling import AudioClock

RATE = 16_000
STEPS = st.lists(st.integers(0, 10**9), max_size=50)


@given(STEPS)
def test_the_clock_is_the_sum_of_its_steps_without_drift(steps):
    clock = AudioClock()
    for samples in steps:
        clock.advance(samples)
    assert clock.samples == sum(steps)
    assert clock.seconds == sum(steps) / RATE
    assert clock.hours == pytest.approx(clock.seconds / 3600.0)


def test_hours_and_seconds_follow_the_sample_rate():
    clock = AudioClock(sample_rate_hz=8_000, samples=8_000 * 5400)
    assert clock.seconds == 5400.0
    assert clock.hours == 1.5


def test_a_century_of_audio_still_counts_single_samples():
    clock = AudioClock(samples=100 * 8766 * 3600 * RATE)
    before = clock.samples
    clock.advance(1)
    assert clock.samples == before + 1


def test_audio_cannot_be_unconsumed():
    clock = AudioClock(samples=5)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        clock.advance(-1)
    assert clock.samples == 5


@given(STEPS, st.sampled_from([0.01, 0.1, 0.25, 0.7, 1.0, 3.0]))
def test_steps_that_pass_a_multiple_add_up_to_the_multiples_of_the_whole(steps, every):
    clock, passed, most = AudioClock(), 0, 0
    for samples in steps:
        before = clock.samples
        clock.advance(samples)
        now = clock.passed(every, before)
        # Against whole samples: a step passes a multiple if the quotient moves on.
        period = round(every * 3600 * RATE)
        assert now == (clock.samples // period > before // period)
        passed += now
        most += clock.samples // period - before // period
    # One answer a step, even where a step is longer than the interval.
    assert passed <= most
    assert (passed == 0) == (most == 0)


@given(st.integers(1, 10**6), st.sampled_from([1, 7, 60, 3600]))
def test_how_a_stretch_is_cut_does_not_change_what_it_passes(samples, pieces):
    every = 0.25 / 3600
    clock, passed = AudioClock(), False
    for i in range(pieces):
        before = clock.samples
        clock.advance(samples * (i + 1) // pieces - samples * i // pieces)
        passed |= clock.passed(every, before)
    assert clock.samples == samples
    assert passed == clock.passed(every, 0)


def test_the_interval_is_closed_at_now_and_open_at_since():
    hour = 3600 * RATE
    assert not AudioClock(samples=hour - 1).passed(1.0, 0)
    assert AudioClock(samples=hour).passed(1.0, hour - 1)
    assert not AudioClock(samples=hour + 1).passed(1.0, hour)
    assert not AudioClock(samples=hour).passed(1.0, hour)


def test_no_interval_never_passes():
    assert not AudioClock(samples=10**12).passed(None, 0)


@given(st.integers(0, 10**15), STEPS)
def test_a_restored_clock_goes_on_as_if_it_had_not_stopped(start, steps):
    clock = AudioClock(samples=start)
    restored = AudioClock(sample_rate_hz=8_000)
    restored.load_state_dict(clock.state_dict())
    for samples in steps:
        clock.advance(samples)
        restored.advance(samples)
    assert restored.state_dict() == clock.state_dict()
    assert (restored.hours, restored.seconds) == (clock.hours, clock.seconds)


def test_a_saved_state_does_not_move_with_the_clock():
    clock = AudioClock(samples=3)
    saved = clock.state_dict()
    clock.advance(1)
    assert saved == {"samples": 3, "sample_rate_hz": RATE}
