"""Which utterances are not trained on, at the edges of each limit, and what is said of each reason."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.ctc import greedy
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import (
    REASONS,
    LabelCandidate,
    LabelFilters,
    reason_to_drop_transcript,
    repeats,
)


def rejection(tokens: int, confidence: float, seconds: float, limits: PseudoLabelConfig) -> str | None:
    """Of a label that CTC can align."""
    return reason_to_drop(LabelCandidate(range(1, tokens + 1), 10_000, seconds, confidence), limits)


def reason_to_drop(candidate: LabelCandidate, limits: PseudoLabelConfig | None) -> str | None:
    if limits is None:
        return reason_to_drop_transcript(candidate)
    return LabelFilters(limits).reason_to_drop(candidate)


TWO_REPEATS = [1, 1, 1, 2, 3, 4, 5, 6, 7, 8]
LIMITS = PseudoLabelConfig(min_confidence=0.75, tokens_per_second=[2.0, 20.0])


@pytest.mark.parametrize(
    ("tokens", "confidence", "seconds", "reason"),
    [
        (10, 0.9, 1.0, None),
        (0, 0.9, 1.0, "empty"),
        (0, 0.1, 1.0, "empty"),
        (10, 0.75, 1.0, None),
        (10, math.nextafter(0.75, 0.0), 1.0, "low_confidence"),
        (1, 0.1, 10.0, "low_confidence"),
        (8, 0.9, 4.0, None),
        (7, 0.9, 4.0, "too_few_tokens"),
        (8, 0.9, 4.001, "too_few_tokens"),
        (80, 0.9, 4.0, None),
        (81, 0.9, 4.0, "too_many_tokens"),
        (80, 0.9, 3.999, "too_many_tokens"),
    ],
)
def test_rejection(tokens: int, confidence: float, seconds: float, reason: str | None) -> None:
    assert rejection(tokens, confidence, seconds, LIMITS) == reason
    assert reason is None or reason in REASONS


@pytest.mark.parametrize("min_confidence", [0.0, 0.75])
def test_labels_with_a_confidence_that_is_no_number_are_rejected(min_confidence: float) -> None:
    """One frame of NaN leaves tokens on either side of it, and a confidence that is below nothing."""
    log_probs_BTV = torch.tensor([[[-9.0, 0.0], [-9.0, 0.0], [math.nan, math.nan], [-9.0, 0.0]]])
    paths = greedy(log_probs_BTV, torch.tensor([4]))
    assert paths.to_lists() == [[1, 1]]
    assert math.isnan(paths.confidence.item())
    assert (
        rejection(2, paths.confidence.item(), 0.4, PseudoLabelConfig(min_confidence=min_confidence))
        == "low_confidence"
    )


def test_by_default_only_empty_labels_are_rejected() -> None:
    config = PseudoLabelConfig()
    assert rejection(0, 1.0, 1.0, config) == "empty"
    assert rejection(1, 0.0, 1_000.0, config) is None
    assert rejection(100, 1.0, 1.0, config) is None


@pytest.mark.parametrize("limits", [None, LIMITS])
def test_a_label_must_fit_into_the_frames(limits):
    assert reason_to_drop(LabelCandidate(TWO_REPEATS, 12, 1.0, 0.9), limits) is None
    assert reason_to_drop(LabelCandidate(TWO_REPEATS, 11, 1.0, 0.9), limits) == "unalignable"


def test_a_transcript_is_trusted_even_if_it_is_empty_or_long():
    assert reason_to_drop(LabelCandidate([], 0, 1.0, math.nan), None) is None
    assert reason_to_drop(LabelCandidate(range(500), 500, 1.0, 0.0), None) is None


def test_each_reason_says_what_is_wrong_and_what_to_do():
    for reason in REASONS.values():
        assert reason.description.split()[0] in ("have", "need")
        assert reason.remedy


@pytest.mark.parametrize(
    ("tokens", "times"),
    [([], 0), ([1], 1), ([1, 2, 3], 1), ([1, 1, 1], 3), ([4, 1, 2, 1, 2, 1, 2, 5], 3), ([1, 2, 3] * 4, 4)],
)
def test_loops_are_counted(tokens: list[int], times: int) -> None:
    candidate = LabelCandidate(tokens, 1_000, 1.0)
    assert repeats(tokens) == times
    limit = max(1, times)
    assert reason_to_drop(candidate, PseudoLabelConfig(max_repeats=limit)) in (None, "empty")
    if times > 1:
        assert reason_to_drop(candidate, PseudoLabelConfig(max_repeats=limit - 1)) == "loop"


@given(
    st.lists(st.integers(1, 3), max_size=4),
    st.lists(st.integers(1, 3), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_a_part_that_is_repeated_is_found(before: list[int], part: list[int], times: int) -> None:
    assert repeats(before + part * times) >= times


@given(st.lists(st.integers(1, 3), max_size=40))
def test_repeats_are_those_of_a_plain_search(tokens: list[int]) -> None:
    """Each part of up to 8 tokens, at each place, counted one by one."""
    expected = 0
    for size in range(1, 9):
        for start in range(len(tokens) - size + 1):
            part, times = tokens[start : start + size], 0
            while tokens[start + times * size : start + (times + 1) * size] == part:
                times += 1
            expected = max(expected, times)
    assert repeats(tokens) == expected


def test_other_limits() -> None:
    def reason(limits: PseudoLabelConfig, **known: Any) -> str | None:
        return reason_to_drop(LabelCandidate([1, 2, 3, 4], 100, 1.0, **known), limits)

    assert reason(PseudoLabelConfig(min_level_db=-50.0), level_db=-60.0) == "silent"
    assert reason(PseudoLabelConfig(min_level_db=-50.0), level_db=-50.0) is None
    assert reason(PseudoLabelConfig(min_agreement=0.8), agreement=0.75) == "disagreement"
    assert reason(PseudoLabelConfig(min_agreement=0.75), agreement=0.75) is None
    assert reason(PseudoLabelConfig(max_change=0.0)) is None
    assert reason(PseudoLabelConfig(max_change=0.25), previous=[1, 2, 3, 9]) is None
    assert reason(PseudoLabelConfig(max_change=0.2), previous=[1, 2, 3, 9]) == "changed"
