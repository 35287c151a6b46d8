"""The kept share of labels: near the setting for any confidences, exact on resume and over ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from asr_emapl.pseudo_labels.kept_share import HALF_LIFE_LABELS, KeptShare


def confidences(seed: int, count: int, easy: float = 0.0) -> list[float]:
    """With log-odds of standard deviation 1, as a trained model has them."""
    odds = np.random.default_rng(seed).normal(3.0 + easy, 1.0, count)
    return (1.0 / (1.0 + np.exp(-odds))).tolist()


def kept(share: KeptShare, of: list[float]) -> float:
    return sum(map(share.keeps, of)) / len(of)


@pytest.mark.parametrize("wanted", [0.1, 0.5, 0.9, 1.0])
def test_the_share_is_kept(wanted: float) -> None:
    share = KeptShare(wanted)
    for step in range(200):
        share.update(share.counts(confidences(step, 32)))
    assert kept(share, confidences(1000, 20_000)) == pytest.approx(wanted, abs=0.03)


def test_the_threshold_follows_a_better_teacher() -> None:
    share = KeptShare(0.5)
    for step in range(100):
        share.update(share.counts(confidences(step, 32)))
    assert kept(share, confidences(1000, 5000, easy=4.0)) > 0.99
    for step in range(8 * HALF_LIFE_LABELS // 32):
        share.update(share.counts(confidences(step, 32, easy=4.0)))
    assert kept(share, confidences(1000, 5000, easy=4.0)) == pytest.approx(0.5, abs=0.04)


def test_ranks_that_sum_their_counts_agree_with_one_process() -> None:
    one, two = KeptShare(0.3), KeptShare(0.3)
    for step in range(20):
        labels = confidences(step, 33)
        one.update(one.counts(labels))
        parts = two.counts(labels[:10]), two.counts(labels[10:])
        two.update([a + b for a, b in zip(*parts, strict=True)])
    assert one.state_dict() == two.state_dict()


def test_it_resumes_exactly() -> None:
    whole, before = KeptShare(0.7), KeptShare(0.7)
    for step in range(10):
        for share in (whole, before):
            share.update(share.counts(confidences(step, 17)))
    after = KeptShare(0.7)
    after.load_state_dict(before.state_dict())
    grid = np.linspace(0.0, 1.0, 1001).tolist()
    assert [after.keeps(c) for c in grid] == [whole.keeps(c) for c in grid]
    for share in (whole, after):
        share.update(share.counts(confidences(99, 17)))
    assert after.state_dict() == whole.state_dict()


def test_equal_confidences_are_kept_and_the_first_step_too() -> None:
    """Such as the labels of a file, which have confidence 1."""
    share = KeptShare(0.1)
    assert share.keeps(0.0)
    share.update(share.counts([1.0] * 50))
    assert share.keeps(1.0)
    share.update(share.counts([]))
    assert share.keeps(1.0)
    assert not share.keeps(0.99)


def test_broken_labels_are_not_counted() -> None:
    assert sum(KeptShare(0.5).counts([math.nan, 0.0, 0.5, 1.0])) == 3
