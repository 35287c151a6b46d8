"""When labels that are kept are made: what enters and leaves a cache, and what each round labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.data.batch_plan import BatchPlan
from asr_emapl.data.label_plan import CachePlan, LabelCursor, RoundsPlan
from asr_emapl.data.mixture import DataCursor, DataPlan, GlobalBatch, Mixture

LABELLED = np.random.default_rng(1).integers(50, 400, 40)
UNLABELLED = np.random.default_rng(2).integers(50, 400, 130)
BATCH = 1000


def plan(labels: CachePlan | RoundsPlan, ratio: float = 2.0, start: int = 0, batch: int = BATCH) -> DataPlan:
    corpora = (Mixture([BatchPlan(s, batch, seed=1, pool=30)]) for s in (LABELLED, UNLABELLED))
    return DataPlan(*corpora, ratio, start, labels)


def cache(samples: int = 8000, probability: float = 0.3, batch: int = BATCH) -> CachePlan:
    return CachePlan(samples, probability, batch, seed=3)


def rounds(*starts: int, share: float = 1.0) -> RoundsPlan:
    return RoundsPlan(UNLABELLED, starts, share, BATCH, seed=3)


def walk(data: DataPlan, count: int, at: DataCursor | None = None) -> list[GlobalBatch]:
    steps, at = [], at or DataCursor()
    for _ in range(count):
        steps.append(data.next(at))
        at = steps[-1].after
    return steps


def as_values(steps: list[GlobalBatch]) -> list[tuple[object, ...]]:
    return [(s.labelled, s.label_only, s.indices.tolist(), s.groups, s.samples, s.after) for s in steps]


@pytest.mark.parametrize("labels", [cache(), rounds(0, 20_000, share=0.5)])
@given(st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_a_run_continues_from_any_position(labels, stop):
    whole = walk(plan(labels), 240)
    at = DataCursor() if stop == 0 else whole[stop - 1].after
    restored = DataCursor.from_state(at.state_dict())
    assert restored == at
    assert as_values(walk(plan(labels), 240 - stop, restored)) == as_values(whole[stop:])


@pytest.mark.parametrize("labels", [cache(), rounds(0, 20_000)])
def test_the_ratio_counts_what_is_trained_on(labels):
    trained = {True: 0, False: 0}
    for step in walk(plan(labels, ratio=2.0, start=5000), 400):
        if not step.label_only:
            trained[step.labelled] += step.samples
        assert step.after.consumed == sum(trained.values())
    before = 5000
    assert trained[False] == pytest.approx(2.0 * (trained[True] - before), abs=3 * BATCH)


def test_a_batch_is_labelled_before_it_is_trained_on():
    labelled: Counter[tuple[int, ...]] = Counter()
    for step in walk(plan(cache()), 600):
        batch = tuple(step.indices.tolist())
        if step.label_only:
            labelled[batch] += 1
        elif not step.labelled:
            assert labelled[batch]


def test_labels_in_the_cache_age_by_its_size_and_the_probability():
    """A batch stays for 1 / p draws of its slot on average, and a slot is drawn once in C draws."""
    size, probability = 10, 0.25
    plain = CachePlan(size * 100, probability, 100, seed=0)
    corpora = (Mixture([BatchPlan(np.full(500, 100), 100, seed=1)]) for _ in range(2))
    data = DataPlan(*corpora, 1e9, 0, plain)
    born: dict[int, int] = {}
    ages, uses, draws = [], Counter[int](), 0
    at = DataCursor(labelled_before=-1)
    for _ in range(20_000):
        step = data.next(at)
        at = step.after
        if step.labelled:
            continue
        (row,) = step.indices.tolist()
        if step.label_only:
            born[row] = draws
            uses[row] = 0
        else:
            ages.append(draws - born[row])
            uses[row] += 1
            draws += 1
        assert len(at.labels.slots) <= size
    assert np.mean(ages[1000:]) == pytest.approx(size / probability, rel=0.1)
    fresh = 20_000 - draws
    assert (fresh - size) / draws == pytest.approx(probability, rel=0.1)


@given(st.floats(0.5, 4.0))
@settings(max_examples=20, deadline=None)
def test_the_age_in_audio_does_not_depend_on_the_batch(kappa):
    """The size is in audio, so a larger batch has fewer slots, each of more audio."""

    def age(batch: int) -> float:
        data = plan(cache(samples=20_000, probability=0.5, batch=batch), ratio=1e9, batch=batch)
        born: dict[tuple[int, ...], int] = {}
        ages, trained = [], 0
        for step in walk(data, 3000):
            key = tuple(step.indices.tolist())
            if step.label_only:
                born[key] = trained
            elif not step.labelled:
                ages.append(trained - born[key])
                trained += step.samples
        return float(np.mean(ages[200:]))

    assert age(round(kappa * BATCH)) == pytest.approx(age(BATCH), rel=0.35)


def test_another_batch_starts_an_empty_cache():
    full = walk(plan(cache()), 60)[-1].after
    assert full.labels.slots
    larger = plan(cache(batch=2 * BATCH), batch=2 * BATCH)
    later = next(step for step in walk(larger, 60, full) if not step.labelled)
    assert later.label_only
    assert len(later.after.labels.slots) == 1
    assert later.after.consumed == full.consumed + (later.after.labelled.total - full.labelled.total)


def test_each_round_labels_every_utterance_once_when_it_is_due():
    seen: dict[int, list[int]] = {}
    for step in walk(plan(rounds(0, 20_000), start=3000), 400):
        if step.label_only:
            seen.setdefault(step.epoch, []).extend(step.indices.tolist())
            assert UNLABELLED[step.indices].max() * len(step.indices) <= BATCH
            assert step.after.consumed >= (3000 if step.epoch == 1 else 20_000)
    assert list(seen) == [1, 2]
    assert all(sorted(rows) == list(range(len(UNLABELLED))) for rows in seen.values())


def test_later_rounds_label_a_share():
    by_round = Counter[int]()
    for step in walk(plan(rounds(0, 5000, 10_000, share=0.3)), 400):
        if step.label_only:
            by_round[step.epoch] += len(step.indices)
    assert by_round[1] == len(UNLABELLED)
    for number in (2, 3):
        assert 0.15 < by_round[number] / len(UNLABELLED) < 0.45


def test_rounds_that_are_due_together_are_one():
    steps = [step for step in walk(plan(rounds(0, 1, 2), start=1000), 100) if step.label_only]
    assert {step.epoch for step in steps} == {3}


def test_without_labels_everything_is_due_again():
    at = walk(plan(cache()), 100)[-1].after.labels
    assert at.without_labels() == replace(LabelCursor(), drawn=at.drawn, read=at.read, trained=at.trained)
