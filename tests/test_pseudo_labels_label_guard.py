"""Each kind of collapse raises its alarm, and labels that only improve raise none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.pseudo_labels.label_guard import LABELS, PERSISTENCE_HOURS, Alarm, LabelGuard

TRANSCRIPTS = {
    "nonempty": 1.0,
    "tokens_per_second": 14.0,
    "words_per_second": 2.5,
    "entropy": 2.8,
    "most_frequent": 0.01,
    "looping": 0.0,
}


def numbers(**changed: float) -> dict[str, Any]:
    first = {"utterances": LABELS, "revisited": LABELS, "kept_tokens": 1.0, "kept_words": 1.0}
    return TRANSCRIPTS | first | changed


def run(guard: LabelGuard, *windows: dict[str, Any], step: int = 100) -> Alarm | None:
    """The first alarm; the windows are half an hour and 100 steps apart."""
    for number, window in enumerate(windows):
        alarm = guard.check(step + 100 * number, step / 200 + 0.5 * number, window)
        if alarm is not None:
            return alarm
    return None


HEALTHY = [numbers()] * 4


def test_a_drift_in_the_first_pass():
    """No utterance has an earlier label; only the rate of all labels falls (2.6 to 2.0 words per second)."""
    rates = [2.6 - 0.05 * number for number in range(13)]
    windows = [{**TRANSCRIPTS, "utterances": LABELS, "words_per_second": rate} for rate in rates]
    alarm = run(LabelGuard(TRANSCRIPTS), *windows)
    assert alarm is not None
    assert alarm.kind == "drift"
    assert "of their words since step 100" in alarm.description
    assert run(LabelGuard(TRANSCRIPTS), *windows[:7]) is None


@pytest.mark.parametrize(
    ("kind", "window"),
    [
        ("blanks", numbers(nonempty=0.1)),
        ("one label", numbers(most_frequent=0.5)),
        ("loops", numbers(looping=0.6)),
        ("drift", numbers(kept_words=0.8, words_per_second=2.0)),
        ("drift", numbers(kept_tokens=0.8, tokens_per_second=11.0)),
    ],
)
def test_a_collapse_is_named_once_it_persists(kind, window):
    alarm = run(LabelGuard(TRANSCRIPTS), *HEALTHY, *[window] * 3)
    assert alarm is not None
    assert alarm.kind == kind
    assert alarm.healthy_step == 400
    assert alarm.description in str(alarm)
    assert run(LabelGuard(TRANSCRIPTS), *HEALTHY, *[window] * 2) is None
    assert run(LabelGuard(TRANSCRIPTS), *HEALTHY, *[window, numbers()] * 5) is None


def test_a_slow_drift():
    """Labels that lose 2 % of their words in each hour, at a confidence that rises."""
    kept = [1.0 - 0.01 * number for number in range(40)]
    windows = [numbers(kept_words=k, words_per_second=2.5 * k) for k in kept]
    alarm = run(LabelGuard(TRANSCRIPTS), *windows)
    assert alarm is not None
    assert alarm.kind == "drift"
    assert "step 100" in alarm.description


@pytest.mark.parametrize(
    "window",
    [
        # The first labels were too long.
        numbers(kept_words=0.6, words_per_second=2.5),
        # The unlabelled speech is slower than the labelled.
        numbers(tokens_per_second=9.0, words_per_second=1.7),
        numbers(most_frequent=0.2, looping=0.1, nonempty=0.7),
    ],
)
def test_what_is_no_collapse(window):
    assert run(LabelGuard(TRANSCRIPTS), *HEALTHY, *[window] * 20) is None


def test_labels_that_are_empty_from_the_start_have_not_collapsed():
    """Another guard stops a run without labels; here they may still come."""
    assert run(LabelGuard(TRANSCRIPTS), *[numbers(nonempty=0.05)] * 20, *HEALTHY) is None


@given(st.lists(st.integers(1, LABELS), min_size=1, max_size=40))
def test_windows_have_a_number_of_labels(sizes):
    """However the labels are divided among calls, the guard sees the same share."""
    guard, hours, labels = LabelGuard(TRANSCRIPTS), 0.0, 0
    for number, size in enumerate(sizes):
        hours += 1.0
        labels += size
        alarm = guard.check(number, hours, numbers(utterances=size, looping=1.0))
        if alarm is not None:
            assert labels > LABELS
            return
    assert labels < 2 * LABELS + max(sizes) or hours <= PERSISTENCE_HOURS + 2


@given(st.integers(0, 7))
def test_it_resumes(place):
    windows = [*HEALTHY, *[numbers(looping=0.7, utterances=LABELS // 2)] * 10]
    first, second = LabelGuard(TRANSCRIPTS), LabelGuard(TRANSCRIPTS)
    expected = run(LabelGuard(TRANSCRIPTS), *windows)
    assert run(first, *windows[:place]) is None
    second.load_state_dict(first.state_dict())
    assert run(second, *windows[place:], step=100 + 100 * place) == expected
