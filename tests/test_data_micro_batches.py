"""A global batch divided over ranks and micro-batches: without loss, within memory, in equal parts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lengths import as_lists, librispeech_like, padded

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.micro_batches import micro_batches, passes_of_equal_size

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=80).map(lambda x: np.array(x, dtype=np.int64))


@pytest.fixture(scope="module")
def clean_100():
    return librispeech_like(28_539)


def of_ranks(lengths, limit, world_size, groups=()):
    """The micro-batches of every rank."""
    return [
        micro_batches(lengths, limit, groups=groups, world_size=world_size, rank=rank)
        for rank in range(world_size)
    ]


@st.composite
def grouped(draw):
    """Lengths, and the numbers of utterances in their groups."""
    groups = draw(st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=12), min_size=1, max_size=8))
    return np.array([n for group in groups for n in group]), tuple(map(len, groups))


@given(grouped(), st.integers(400, 2000), st.integers(1, 16))
def test_each_utterance_is_in_one_micro_batch_that_fits(batch, limit, world_size):
    lengths, groups = batch
    ranks = of_ranks(lengths, limit, world_size, groups)
    parts = list(itertools.chain(*ranks))
    assert sorted(itertools.chain.from_iterable(as_lists(parts))) == list(range(len(lengths)))
    assert all(0 < padded(lengths[part]) <= limit for part in parts)
    for part in parts:
        assert lengths[part].tolist() == sorted(lengths[part], reverse=True)


@given(grouped(), st.integers(400, 2000), st.integers(1, 16))
def test_ranks_have_equally_many_micro_batches(batch, limit, world_size):
    """But for one, where there are fewer utterances than micro-batches wanted."""
    counts = [len(parts) for parts in of_ranks(batch[0], limit, world_size, batch[1])]
    assert max(counts) - min(counts) <= 1


@given(grouped(), st.sampled_from([1, 2, 4]))
def test_groups_that_fit_and_can_be_shared_out_stay_whole(batch, world_size):
    """Cut anew, sorted utterances may need one micro-batch more."""
    lengths, groups = batch
    if len(groups) % world_size:
        return
    ends = np.cumsum(groups)
    limit = max(padded(lengths[e - n : e]) for e, n in zip(ends, groups, strict=True))
    ranks = of_ranks(lengths, limit, world_size, groups)
    assert {len(parts) for parts in ranks} == {len(groups) // world_size}
    found = {frozenset(part.tolist()) for parts in ranks for part in parts}
    assert found == {frozenset(range(e - n, e)) for e, n in zip(ends.tolist(), groups, strict=True)}


def test_there_are_as_many_as_groups_and_as_ranks():
    lengths = np.repeat([100, 50, 20], [2, 4, 10])
    assert as_lists(micro_batches(lengths, 1000, groups=(2, 4, 10))) == [
        [0, 1],
        [2, 3, 4, 5],
        list(range(6, 16)),
    ]
    assert [len(parts) for parts in of_ranks(np.full(16, 10), 1000, 4, groups=(2, 4, 10))] == [1, 1, 1, 1]


@given(LENGTHS, st.integers(400, 2000), st.integers(1, 8))
def test_no_more_than_memory_asks_for(lengths, limit, world_size):
    parts = list(itertools.chain(*of_ranks(lengths, limit, world_size)))
    ordered, greedy, start = sorted(lengths.tolist(), reverse=True), 0, 0
    while start < len(ordered):
        start += limit // ordered[start]
        greedy += 1
    assert len(parts) <= -(-greedy // world_size) * world_size


def test_parts_are_equal_and_dealt_in_turn_and_back():
    lengths = np.full(12, 10)  # 120, even: rank 0 begins
    assert as_lists(micro_batches(lengths, 30, world_size=2, rank=0)) == [[0, 1, 2], [9, 10, 11]]
    assert as_lists(micro_batches(lengths, 30, world_size=2, rank=1)) == [[3, 4, 5], [6, 7, 8]]
    # A limit of 50 would leave 5, 5 and 2.
    assert as_lists(micro_batches(lengths, 50)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_the_first_rank_differs_from_batch_to_batch():
    assert as_lists(micro_batches([50, 41], 60, world_size=2, rank=0)) == [[1]]
    assert as_lists(micro_batches([50, 42], 60, world_size=2, rank=0)) == [[0]]


def test_more_ranks_than_utterances():
    assert sorted(len(parts) for parts in of_ranks([5, 9], 10, 4)) == [0, 0, 1, 1]
    assert micro_batches([], 300) == []


def test_what_fits_at_once_is_one_micro_batch():
    assert as_lists(micro_batches([100, 100, 100], 300)) == [[0, 1, 2]]
    assert len(micro_batches([100, 100, 100], 299)) == 2


def test_an_utterance_that_no_device_can_hold_is_an_error():
    with pytest.raises(ValueError, match=r"36\.0 s exceeds device\.max_seconds \(30\.0 s\)"):
        micro_batches([20 * SAMPLE_RATE_HZ, 36 * SAMPLE_RATE_HZ], 30 * SAMPLE_RATE_HZ)


# Over a corpus: padding and balance.


def costs(lengths, seconds, group_seconds, ranks):
    """Padded samples of every step on each rank, [steps, ranks]."""
    config = BatchConfig(reference_seconds=group_seconds)
    chunk = config.plan(lengths, seconds * SAMPLE_RATE_HZ).chunk(0, 0)
    limit = group_seconds * SAMPLE_RATE_HZ
    return np.array(
        [
            [
                sum(padded(lengths[b][part]) for part in parts)
                for parts in of_ranks(lengths[b], limit, ranks, n)
            ]
            for b, n in zip(chunk.batches, chunk.groups, strict=True)
        ]
    )


@pytest.mark.parametrize(("seconds", "group", "ranks"), [(290, 290, 1), (2320, 290, 8), (2320, 290, 2)])
def test_less_than_a_hundredth_is_padding_and_little_is_waited_for(clean_100, seconds, group, ranks):
    per_rank = costs(clean_100, seconds, group, ranks)
    assert 1.0 - clean_100.sum() / per_rank.sum() < 0.01
    # A step takes as long as its slowest rank; the 20 or so utterances in 290 s cannot be divided.
    assert per_rank.max(axis=1).sum() / per_rank.mean(axis=1).sum() <= 1.025
    in_all = per_rank.sum(axis=0)
    assert (in_all.max() - in_all.min()) / in_all.mean() <= 0.01


@pytest.mark.parametrize("count", [0, 1, 5, 64, 100])
def test_passes_of_equal_size_do_not_depend_on_the_ranks(count):
    alone = [part.tolist() for part in passes_of_equal_size(count, 8)]
    assert [place for part in alone for place in part] == list(range(count))
    assert all(len(part) in (count // len(alone), -(-count // len(alone))) for part in alone)
    assert not count >= 8 or all(6 <= len(part) <= 11 for part in alone)
    of_ranks = [passes_of_equal_size(count, 8, world_size=3, rank=rank) for rank in range(3)]
    assert sorted(part.tolist() for of in of_ranks for part in of) == alone
