"""Labels that are filtered before batches are made: which are dropped, why, and what is said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.filters import LabelCandidate, LabelFilters
from asr_emapl.pseudo_labels.known_labels import KnownLabels
from asr_emapl.pseudo_labels.labels import Label

SECOND = 16_000
LIMITS = PseudoLabelConfig(
    min_confidence=0.5, min_agreement=0.3, tokens_per_second=[1.0, 5.0], max_repeats=2, min_level_db=-50.0
)
LABELS = [
    Label([1, 2, 3]),
    Label([]),
    Label([1, 2, 3], 0.4),
    Label([1, 2, 3], 0.9, 0.2),
    Label([1]),
    Label([1, 2, 3, 4] * 3),
    Label([1, 1, 1, 2]),
    Label([1, 2, 3], math.nan),
]


def known(labels: Sequence[Label], limits: PseudoLabelConfig, seconds: int = 2) -> KnownLabels:
    found = KnownLabels(labels.__getitem__, np.full(len(labels), seconds * SECOND), limits)
    found.judge(range(len(labels)))
    return found


def used(labels: KnownLabels) -> list[int]:
    assert labels.used is not None
    return np.flatnonzero(labels.used).tolist()


def test_each_reason_is_found_before_the_audio_is_read() -> None:
    found = known(LABELS, LIMITS)
    assert used(found) == [0]
    reasons = ["empty", "low_confidence", "disagreement", "too_few_tokens", "too_many_tokens", "loop"]
    assert list(found.dropped(range(1, 8)).values()) == [*reasons, "low_confidence"]
    assert found.describe() == (
        "7 of 8 utterances (0.00 h) are not trained on: 2 low_confidence, 1 empty, 1 disagreement, "
        "1 too_few_tokens, 1 too_many_tokens, 1 loop"
    )


@given(st.lists(st.builds(Label, st.lists(st.integers(1, 3), max_size=9), st.floats(0, 1), st.floats(0, 1))))
def test_the_filters_of_a_step_drop_the_same_labels(labels: list[Label]) -> None:
    found, filters = known(labels, LIMITS), LabelFilters(LIMITS)
    reasons = {}
    for row, label in enumerate(labels):
        scores = (label.confidence, label.agreement)
        reason = filters.reason_to_drop(LabelCandidate(label.tokens, 100, 2.0, *scores))
        reasons |= {} if reason is None else {row: reason}
    assert found.dropped(reasons) == reasons
    if 0 < len(reasons) < len(labels):
        assert used(found) == [row for row in range(len(labels)) if row not in reasons]


def test_the_kept_share_is_exact_among_the_labels_that_are_not_empty() -> None:
    confidences = [0.1, 0.9, 0.5, 0.7, 0.3]
    labels = [*(Label([1, 2], c) for c in confidences), Label([], 1.0)]
    found = known(labels, PseudoLabelConfig(keep_share=0.6))
    assert used(found) == [1, 2, 3]
    assert found.dropped([0, 5]) == {0: "least_confident", 5: "empty"}
    # Of equal ones, all are kept.
    assert known([Label([1])] * 5, PseudoLabelConfig(keep_share=0.2)).used is None


@pytest.mark.parametrize("labels", [[Label([])] * 3, [Label([1])] * 3, []])
def test_batches_are_made_of_all_utterances_if_all_labels_are_kept_or_dropped(labels: list[Label]) -> None:
    assert known(labels, PseudoLabelConfig()).used is None


def test_an_utterance_without_a_label_is_not_judged() -> None:
    found = KnownLabels(LABELS.__getitem__, np.full(8, 2 * SECOND), LIMITS)
    found.judge([0, 1, 2])
    assert used(found) == [0, 3, 4, 5, 6, 7]
    found.judge([0])
    assert found.used is None
    assert found.describe() == ""
