"""The sample of labels is uniform, and does not depend on order, processes or interruptions."""

from __future__ import annotations

import math
import pickle
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.pseudo_labels.label_samples import SIZE, LabelSamples, SampledLabel


def labels(seed: int = 0, count: int = 100) -> list[SampledLabel]:
    samples = LabelSamples(seed)
    return [
        SampledLabel(samples.draw(step, row), step, row, ("kept", "empty")[row % 2], (row,), 0.5)
        for step in range(count // 10)
        for row in range(10)
    ]


def test_each_reason_has_its_sample():
    samples = LabelSamples(0)
    samples.add(labels())
    assert Counter(label.reason for label in samples.all()) == {"kept": SIZE, "empty": SIZE}


@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_processes_in_any_order_have_the_sample_of_one(processes: int, order: random.Random):
    alone = LabelSamples(0)
    alone.add(labels())
    ranks = [LabelSamples(0) for _ in range(processes)]
    for label in labels():
        rank = order.choice(ranks)
        if rank.may_enter(label.reason, label.draw):
            rank.add([label])
    order.shuffle(ranks)
    merged = LabelSamples(0)
    for rank in [*ranks, ranks[0]]:
        merged.add(rank.all())
    assert merged.all() == alone.all()


def test_it_is_uniform():
    """Each of 100 labels is in the samples of 2,000 seeds equally often, up to chance."""
    counts = Counter[int]()
    for seed in range(2_000):
        samples = LabelSamples(seed)
        samples.add(SampledLabel(samples.draw(step, 0), step, 0, "kept", (), 1.0) for step in range(100))
        counts.update(label.step for label in samples.all())
    expected = 2_000 * SIZE / 100
    chi_square = sum((counts[step] - expected) ** 2 / expected for step in range(100))
    assert chi_square < 160  # 99.99 % quantile for 99 degrees of freedom: 163


def test_a_broken_label_is_in_the_sample_once():
    label = SampledLabel(5, 1, 2, "low_confidence", (1,), math.nan)
    samples = LabelSamples(0)
    for _ in range(3):
        samples.add([pickle.loads(pickle.dumps(label))])  # as processes exchange them
    assert len(samples.all()) == 1
