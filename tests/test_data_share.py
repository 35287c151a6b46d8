"""A global batch divided over ranks and micro-batches: without loss, within memory, in equal parts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lengths import as_lists, librispeech_like, padded

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.batch_plan import BatchConfig, BatchPlan
from asr_emapl.data.share import micro_batches, share

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=80).map(lambda x: np.array(x, dtype=np.int64))


@pytest.fixture(scope="module")
def clean_100():
    return librispeech_like(28_539)


@given(LENGTHS, st.integers(1, 16))
def test_ranks_share_a_batch_without_loss_or_overlap(lengths, world_size):
    parts = as_lists(share(lengths, world_size, rank) for rank in range(world_size))
    assert sorted(itertools.chain.from_iterable(parts)) == list(range(len(lengths)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in parts:
        assert lengths[part].tolist() == sorted(lengths[part], reverse=True)


@given(LENGTHS, st.integers(1, 16))
def test_no_rank_has_more_than_one_utterances_audio_above_another(lengths, world_size):
    audio = [int(lengths[share(lengths, world_size, rank)].sum()) for rank in range(world_size)]
    assert max(audio) - min(audio) <= max(lengths)


def test_a_share_is_dealt_to_and_fro():
    lengths = [50, 40, 30, 20, 10, 6]  # 156, even: rank 0 begins
    assert as_lists(share(lengths, 2, rank) for rank in (0, 1)) == [[0, 3, 4], [1, 2, 5]]


def test_who_begins_differs_from_batch_to_batch():
    assert as_lists(share([50, 41], 2, rank) for rank in (0, 1)) == [[1], [0]]


def test_equal_lengths_keep_their_order():
    assert share([10, 10, 10, 10], 2, 0).tolist() == [0, 3]


def test_more_ranks_than_utterances():
    assert sorted(as_lists(share([5, 9], 4, rank) for rank in range(4))) == [[], [], [0], [1]]
    assert share([], 4, 0).tolist() == []


def costs(lengths, seconds, ranks):
    """Padded samples of every step on each rank, [steps, ranks]."""
    batches = BatchConfig().plan(lengths, seconds * SAMPLE_RATE_HZ).epoch(0)
    return np.array(
        [[padded(lengths[b][share(lengths[b], ranks, rank)]) for rank in range(ranks)] for b in batches]
    )


@pytest.mark.parametrize("seconds", [1600, 2320])
def test_no_step_waits_for_one_of_eight_ranks(clean_100, seconds):
    per_rank = costs(clean_100, seconds, 8)
    # A step takes as long as its slowest rank.
    assert per_rank.max(axis=1).sum() / per_rank.mean(axis=1).sum() <= 1.005


@pytest.mark.parametrize("seconds", [200, 1600])
def test_eight_ranks_do_the_same_over_a_pass(clean_100, seconds):
    in_all = costs(clean_100, seconds, 8).sum(axis=0)
    assert (in_all.max() - in_all.min()) / in_all.mean() <= 0.02


# Memory.


@given(LENGTHS, st.integers(400, 2000))
def test_micro_batches_partition_and_fit(lengths, limit):
    lengths = np.sort(lengths)[::-1]
    groups = micro_batches(lengths, limit)
    assert list(itertools.chain.from_iterable(as_lists(groups))) == list(range(len(lengths)))
    assert all(0 < padded(lengths[group]) <= limit for group in groups)
    # Greedy: what a group leaves out would not have fitted.
    for group, following in itertools.pairwise(groups):
        assert int(lengths[group[0]]) * (len(group) + 1) > limit
        assert following[0] == group[-1] + 1


@given(LENGTHS, st.integers(400, 2000))
def test_micro_batches_fit_even_what_is_not_sorted(lengths, limit):
    groups = micro_batches(lengths, limit)
    assert list(itertools.chain.from_iterable(as_lists(groups))) == list(range(len(lengths)))
    assert all(padded(lengths[group]) <= limit for group in groups)


def test_what_fits_at_once_is_one_micro_batch():
    assert as_lists(micro_batches([100, 100, 100], 300)) == [[0, 1, 2]]
    assert as_lists(micro_batches([100, 100, 100], 299)) == [[0, 1], [2]]
    assert micro_batches([], 300) == []


def test_an_utterance_that_no_device_can_hold_is_an_error_that_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"of 36\.0 s does not fit device\.max_seconds \(30\.0 s\)"
    ) as caught:
        micro_batches([20 * SAMPLE_RATE_HZ, 36 * SAMPLE_RATE_HZ], 30 * SAMPLE_RATE_HZ)
    assert "raise it, or lower data.max_seconds" in str(caught.value)


@given(LENGTHS, st.integers(1, 8), st.integers(400, 800))
def test_neither_ranks_nor_memory_change_what_a_step_learns_from(lengths, world_size, limit):
    """The union over ranks and micro-batches is the global batch, whatever they are."""
    batch = BatchPlan(lengths, 2000, seed=1).epoch(0)[0]
    seen = []
    for rank in range(world_size):
        mine = batch[share(lengths[batch], world_size, rank)]
        for group in micro_batches(lengths[mine], limit):
            seen += mine[group].tolist()
    assert sorted(seen) == sorted(batch.tolist())
