"""The quality of pseudo-labels over batches, and of the model that makes them."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from asr_emapl.pseudo_labels.quality import LabelCounts, pseudo_label_quality, weak_labeller


def test_shares_are_of_all_utterances_and_tokens_of_those_used():
    batches = [
        LabelCounts(3, 30, Counter(empty=1), confidence=0.5, nonempty=0.75),
        LabelCounts(4, 26, confidence=1.0, nonempty=1.0),
    ]
    assert pseudo_label_quality(batches) == pytest.approx(
        {
            "nonempty": 0.875,
            "confidence": 0.75,
            "used": 0.875,
            "dropped/empty": 0.125,
            "tokens_per_utterance": 8.0,
        }
    )


def test_a_weak_labeller_is_judged_by_its_own_best_split():
    rates = {"student/dev": 20.0, "teacher/dev": 62.0, "teacher/other": 80.0, "teacher/none": math.nan}
    assert "62 % WER (teacher/dev)" in (weak_labeller(rates, "teacher") or "")
    assert weak_labeller(rates, "student") is None


@pytest.mark.parametrize("rate", [10.0, 50.0, math.nan])
def test_a_labeller_that_recognises_speech_or_has_no_rate_is_not_weak(rate):
    assert weak_labeller({"teacher/dev": rate}, "teacher") is None
