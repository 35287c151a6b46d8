"""Which utterances are not trained on, at the edges of each limit, and what is said of each reason."""

from __future__ import annotations

import math

import pytest
import torch

from asr_emapl.ctc import greedy
from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import REASONS, LabelCandidate, reason_to_drop


def rejection(tokens: int, confidence: float, seconds: float, limits: PseudoLabelConfig) -> str | None:
    """Of a label that CTC can align."""
    return reason_to_drop(LabelCandidate(tokens, tokens, 10_000, seconds, confidence), limits)


LIMITS = PseudoLabelConfig(min_confidence=0.75, min_tokens_per_second=2.0, max_tokens_per_second=20.0)


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
    assert reason_to_drop(LabelCandidate(10, 12, 12, 1.0, 0.9), limits) is None
    assert reason_to_drop(LabelCandidate(10, 12, 11, 1.0, 0.9), limits) == "unalignable"


def test_a_transcript_is_trusted_even_if_it_is_empty_or_long():
    assert reason_to_drop(LabelCandidate(0, 0, 0, 1.0, math.nan), None) is None
    assert reason_to_drop(LabelCandidate(500, 500, 500, 1.0, 0.0), None) is None


def test_each_reason_says_what_is_wrong_and_what_to_do():
    for reason in REASONS.values():
        assert reason.description.split()[0] in ("have", "need")
        assert reason.remedy
