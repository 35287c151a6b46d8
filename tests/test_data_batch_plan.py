"""Global batches: complete, bounded, about equal, pure, and to be had from anywhere."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lengths import as_lists, librispeech_like, padded

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.batch_plan import BatchConfig, BatchPlan, fitting

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=80).map(lambda x: np.array(x, dtype=np.int64))


@pytest.fixture(scope="module")
def clean_100():
    return librispeech_like(28_539)


@given(
    LENGTHS,
    st.integers(400, 3000),
    st.integers(1, 100),
    st.floats(0.0, 0.5),
    st.integers(0, 5),
    st.sampled_from([1, 2, 8]),
    st.integers(0, 2),
)
def test_each_utterance_comes_once_and_no_batch_exceeds_its_bound(
    lengths, limit, pool, jitter, epoch, multiple, curriculum
):
    plan = BatchPlan(lengths, limit, 3, jitter, pool, multiple, curriculum)
    batches = plan.epoch(epoch)
    assert sorted(itertools.chain.from_iterable(as_lists(batches))) == list(range(len(lengths)))
    assert all(len(batch) > 0 for batch in batches)
    assert all(padded(lengths[batch]) <= limit for batch in batches)


@given(LENGTHS, st.integers(400, 3000), st.integers(1, 100))
def test_the_audio_consumed_is_counted_without_padding(lengths, limit, pool):
    plan = BatchPlan(lengths, limit, pool=pool)
    chapters = [plan.chapter(0, number) for number in range(plan.chapters)]
    for chapter in chapters:
        audio = [int(lengths[batch].sum()) for batch in chapter.batches]
        assert chapter.consumed.tolist() == list(itertools.accumulate(audio))
    assert sum(int(chapter.consumed[-1]) for chapter in chapters) == lengths.sum()


@given(LENGTHS, st.integers(0, 2**40), st.integers(0, 1000), st.integers(1, 30))
def test_a_plan_is_a_pure_function(lengths, seed, epoch, pool):
    """Any chapter is the same whatever was asked for before it."""
    one, other = (BatchPlan(lengths, 1000, seed=seed, pool=pool) for _ in range(2))
    one.epoch(epoch + 1)
    whole = as_lists(one.epoch(epoch))
    last = as_lists(other.chapter(epoch, other.chapters - 1).batches)
    assert whole[-len(last) :] == last


def test_chapters_are_alike_in_size():
    plan = BatchPlan(np.full(1001, 10), 100, pool=100)
    sizes = [sum(map(len, plan.chapter(0, n).batches)) for n in range(plan.chapters)]
    assert plan.chapters == 10
    assert set(sizes) == {100, 101}


def test_another_batch_has_the_same_chapters():
    """So a place in the data outlives a change of the batch."""
    lengths = librispeech_like(500)
    for number in range(5):
        small, large = (
            BatchPlan(lengths, seconds * SAMPLE_RATE_HZ, seed=2, pool=100).chapter(3, number)
            for seconds in (30, 400)
        )
        assert set(np.concatenate(small.batches)) == set(np.concatenate(large.batches))


def test_epochs_and_seeds_differ():
    lengths = librispeech_like(200)
    plans = [
        as_lists(BatchPlan(lengths, 60 * SAMPLE_RATE_HZ, seed=s, jitter=0.05).epoch(e))
        for s in (0, 1)
        for e in (0, 1)
    ]
    assert all(a != b for a, b in itertools.combinations(plans, 2))
    # The company that utterances keep differs, not merely the order of the same batches.
    companies = [{frozenset(batch) for batch in plan} for plan in plans]
    assert all(len(a & b) < len(a) / 2 for a, b in itertools.combinations(companies, 2))


def test_batches_come_in_no_order_of_length():
    lengths = librispeech_like(5000)
    means = np.array([lengths[b].mean() for b in BatchPlan(lengths, 200 * SAMPLE_RATE_HZ).epoch(0)])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@pytest.mark.parametrize("pool", [300, 5000])
def test_a_curriculum_goes_from_short_to_long_and_ends(pool):
    lengths = librispeech_like(5000)
    plan = BatchPlan(lengths, 200 * SAMPLE_RATE_HZ, jitter=0.0, pool=pool, curriculum_epochs=2)
    for epoch in (0, 1, 2):
        longest = np.array([lengths[b].max() for b in plan.epoch(epoch)])
        assert (np.diff(longest) >= 0).all() == (epoch < 2)


@given(LENGTHS, st.integers(400, 3000))
def test_no_batch_more_than_it_takes(lengths, limit):
    """As many as if each were filled to the brim, one after the other."""
    ordered = sorted(lengths.tolist(), reverse=True)
    count, start = 0, 0
    while start < len(ordered):
        start += fitting(ordered, start, limit)
        count += 1
    assert len(BatchPlan(lengths, limit, jitter=0.0).epoch(0)) == count


@pytest.mark.parametrize(("seconds", "small"), [(200, 1), (1600, 0)])
def test_the_batches_of_a_chapter_are_about_equal(clean_100, seconds, small):
    """None is left with the rest, a step of another size, where batches have enough utterances for that."""
    plan = BatchPlan(clean_100[:3000], seconds * SAMPLE_RATE_HZ)
    sizes = np.array([padded(clean_100[b]) for b in plan.epoch(0)])
    assert (sizes < 0.85 * sizes.max()).sum() <= small


def test_one_utterance_alone():
    assert as_lists(BatchPlan(np.array([7]), 7).epoch(0)) == [[0]]


def test_equal_lengths_fill_batches_exactly():
    assert [len(b) for b in BatchPlan(np.full(12, 100), 300).epoch(0)] == [3, 3, 3, 3]


def test_what_would_be_left_over_is_spread():
    assert sorted(len(b) for b in BatchPlan(np.full(10, 100), 400).epoch(0)) == [2, 4, 4]
    assert sorted(len(b) for b in BatchPlan(np.full(11, 100), 500).epoch(0)) == [3, 4, 4]


def test_an_utterance_as_long_as_the_batch_is_a_batch():
    batches = as_lists(BatchPlan(np.array([10, 300, 10, 300]), 300).epoch(0))
    assert [1] in batches
    assert [3] in batches


def test_large_batches_are_multiples_where_there_is_plenty():
    lengths = librispeech_like(4000)
    counts = [len(b) for b in BatchPlan(lengths, 1600 * SAMPLE_RATE_HZ, multiple=8).epoch(0)]
    assert sum(count % 8 != 0 for count in counts) <= 1
    few = [len(b) for b in BatchPlan(lengths, 200 * SAMPLE_RATE_HZ, multiple=8).epoch(0)]
    assert any(count % 8 for count in few)


def test_too_long_an_utterance_is_an_error():
    with pytest.raises(ValueError, match=r"longest utterance \(301 samples\) exceeds the batch \(300\)"):
        BatchPlan(np.array([10, 301]), 300)


def test_no_utterance_is_an_error():
    with pytest.raises(ValueError, match="at least one utterance"):
        BatchPlan(np.array([], dtype=np.int64), 300)


def test_index_at_finds_the_batch_that_comes_next():
    chapter = BatchPlan(librispeech_like(300), 60 * SAMPLE_RATE_HZ).chapter(0, 0)
    assert chapter.index_at(0) == 0
    assert [chapter.index_at(int(c)) for c in chapter.consumed] == list(range(1, len(chapter.batches) + 1))
    assert chapter.index_at(int(chapter.consumed[4]) - 1) == 4


def padding_share(lengths, seconds, config):
    batches = config.plan(lengths, seconds * SAMPLE_RATE_HZ).epoch(0)
    return 1.0 - lengths.sum() / sum(padded(lengths[batch]) for batch in batches)


def test_little_is_padded(clean_100):
    assert padding_share(clean_100, 200, BatchConfig()) <= 0.004
    # Varied company costs about as much as the lengths are jittered.
    assert padding_share(clean_100, 200, BatchConfig(jitter=0.05)) < 0.05


def test_batches_are_full(clean_100):
    batches = BatchConfig().plan(clean_100, 200 * SAMPLE_RATE_HZ).epoch(0)
    assert clean_100.sum() / (len(batches) * 200 * SAMPLE_RATE_HZ) > 0.95


def test_960_hours_are_planned_in_no_time():
    plan = BatchConfig().plan(librispeech_like(281_241), 200 * SAMPLE_RATE_HZ)
    start = time.perf_counter()
    count = len(plan.epoch(0))
    # A quarter of a second on one core; the bound leaves room for a busy machine.
    assert time.perf_counter() - start < 2.0
    assert count > 10_000


def test_ten_million_utterances_take_neither_time_nor_memory():
    lengths = np.tile(librispeech_like(100_000), 100)
    plan = BatchConfig().plan(lengths, 200 * SAMPLE_RATE_HZ, seed=1)
    tracemalloc.start()
    try:
        start = time.process_time()
        for epoch, number in ((0, 0), (7, plan.chapters // 2), (8, 0)):
            assert len(plan.chapter(epoch, number).batches) > 1000
        # Measured together: 0.06 s on an idle core.
        assert time.process_time() - start < 2.0
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
