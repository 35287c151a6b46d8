"""Global batches: complete, bounded, pure; their division over ranks and memory; the mix of both corpora."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.batch_plan import BatchPlan, MixPlan, MixPosition, micro_batches, share

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=80).map(lambda x: np.array(x, dtype=np.int64))


def librispeech_like(count, seed=0):
    """Lengths as in train-clean-*: most about 14.5 s, a flat tail of short ones, 12.5 s on average."""
    rng = np.random.default_rng(seed)
    long, short = rng.normal(14.5, 1.2, count), rng.uniform(1.4, 14.5, count)
    seconds = np.where(rng.uniform(size=count) < 0.7, long, short).clip(1.4, 24.5)
    return (seconds * SAMPLE_RATE_HZ).astype(np.int64)


def padded(lengths):
    return int(max(lengths)) * len(lengths) if len(lengths) else 0


def as_lists(batches):
    return [batch.tolist() for batch in batches]


@pytest.fixture(scope="module")
def clean_100():
    return librispeech_like(28_539)


# An epoch.


@given(LENGTHS, st.integers(400, 3000), st.integers(1, 100), st.floats(0.0, 0.5), st.integers(0, 5))
def test_each_utterance_comes_once_and_no_batch_exceeds_its_bound(lengths, limit, pool, jitter, epoch):
    plan = BatchPlan(lengths, limit, seed=3, jitter=jitter, pool=pool).epoch(epoch)
    assert sorted(itertools.chain.from_iterable(as_lists(plan.batches))) == list(range(len(lengths)))
    assert all(len(batch) > 0 for batch in plan.batches)
    assert all(padded(lengths[batch]) <= limit for batch in plan.batches)


@given(LENGTHS, st.integers(400, 3000), st.integers(1, 100))
def test_the_audio_consumed_is_counted_without_padding(lengths, limit, pool):
    plan = BatchPlan(lengths, limit, pool=pool).epoch(0)
    audio = [int(lengths[batch].sum()) for batch in plan.batches]
    assert plan.consumed.tolist() == list(itertools.accumulate(audio))
    assert plan.consumed[-1] == lengths.sum()


@given(LENGTHS, st.integers(0, 2**40), st.integers(0, 1000))
def test_a_plan_is_a_pure_function(lengths, seed, epoch):
    one, other = (BatchPlan(lengths, 1000, seed=seed) for _ in range(2))
    one.epoch(epoch + 1)
    assert as_lists(one.epoch(epoch).batches) == as_lists(other.epoch(epoch).batches)


def test_epochs_and_seeds_differ():
    lengths = librispeech_like(200)
    plans = [
        as_lists(BatchPlan(lengths, 60 * SAMPLE_RATE_HZ, seed=s).epoch(e).batches)
        for s in (0, 1)
        for e in (0, 1)
    ]
    assert all(a != b for a, b in itertools.combinations(plans, 2))
    # The company that utterances keep differs, not merely the order of the same batches.
    companies = [{frozenset(batch) for batch in plan} for plan in plans]
    assert all(len(a & b) < len(a) / 2 for a, b in itertools.combinations(companies, 2))


def test_batches_come_in_no_order_of_length():
    lengths = librispeech_like(5000)
    plan = BatchPlan(lengths, 200 * SAMPLE_RATE_HZ).epoch(0)
    means = np.array([lengths[batch].mean() for batch in plan.batches])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@given(LENGTHS, st.integers(400, 3000), st.integers(1, 100))
def test_only_one_batch_of_an_epoch_is_left_short(lengths, limit, pool):
    """All others take as many utterances of their longest one's length as there is room for, or more."""
    plan = BatchPlan(lengths, limit, jitter=0.0, pool=pool).epoch(0)
    short = [b for b in plan.batches if padded(lengths[b]) + int(lengths[b].max()) <= limit]
    assert len(short) <= 1


def test_one_utterance_alone():
    assert as_lists(BatchPlan(np.array([7]), 7).epoch(0).batches) == [[0]]


def test_equal_lengths_fill_batches_exactly():
    sizes = [len(b) for b in BatchPlan(np.full(12, 100), 300).epoch(0).batches]
    assert sizes == [3, 3, 3, 3]


def test_an_utterance_as_long_as_the_batch_is_a_batch():
    lengths = np.array([10, 300, 10, 300])
    batches = as_lists(BatchPlan(lengths, 300).epoch(0).batches)
    assert [1] in batches
    assert [3] in batches


def test_too_long_an_utterance_is_an_error():
    with pytest.raises(ValueError, match=r"longest utterance \(301 samples\) exceeds the batch \(300\)"):
        BatchPlan(np.array([10, 301]), 300)


def test_no_utterance_is_an_error():
    with pytest.raises(ValueError, match="at least one utterance"):
        BatchPlan(np.array([], dtype=np.int64), 300)


def test_index_at_finds_the_batch_that_comes_next():
    plan = BatchPlan(librispeech_like(300), 60 * SAMPLE_RATE_HZ).epoch(0)
    assert plan.index_at(0) == 0
    assert [plan.index_at(int(c)) for c in plan.consumed] == list(range(1, len(plan.batches) + 1))
    assert plan.index_at(int(plan.consumed[4]) - 1) == 4


def padding_share(lengths, seconds, jitter):
    plan = BatchPlan(lengths, seconds * SAMPLE_RATE_HZ, jitter=jitter).epoch(0)
    return 1.0 - lengths.sum() / sum(padded(lengths[batch]) for batch in plan.batches)


def test_little_is_padded(clean_100):
    assert padding_share(clean_100, 200, jitter=0.0) < 0.01
    # What the jitter's varied company costs by default: about as much as the lengths are jittered.
    assert padding_share(clean_100, 200, jitter=0.05) < 0.05


def test_batches_are_full(clean_100):
    plan = BatchPlan(clean_100, 200 * SAMPLE_RATE_HZ).epoch(0)
    assert clean_100.sum() / (len(plan.batches) * 200 * SAMPLE_RATE_HZ) > 0.9


def test_960_hours_are_planned_in_no_time():
    plan = BatchPlan(librispeech_like(281_241), 200 * SAMPLE_RATE_HZ)
    start = time.perf_counter()
    count = len(plan.epoch(0).batches)
    # Well under a second on one core; the bound leaves room for a busy machine.
    assert time.perf_counter() - start < 3.0
    assert count > 10_000


# Ranks.


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
    lengths = [50, 40, 30, 20, 10, 5]
    assert as_lists(share(lengths, 2, rank) for rank in (0, 1)) == [[0, 3, 4], [1, 2, 5]]


def test_equal_lengths_keep_their_order():
    assert share([10, 10, 10, 10], 2, 0).tolist() == [0, 3]


def test_more_ranks_than_utterances():
    assert as_lists(share([5, 9], 4, rank) for rank in range(4)) == [[1], [0], [], []]
    assert share([], 4, 0).tolist() == []


@pytest.mark.parametrize("seconds", [1600, 2320])
def test_eight_ranks_are_balanced_to_five_per_cent(clean_100, seconds):
    slowest = mean = 0
    for batch in BatchPlan(clean_100, seconds * SAMPLE_RATE_HZ).epoch(0).batches:
        lengths = clean_100[batch]
        costs = [padded(lengths[share(lengths, 8, rank)]) for rank in range(8)]
        # A step takes as long as its slowest rank.
        slowest += max(costs)
        mean += sum(costs) / 8
    assert slowest / mean <= 1.05


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
    batch = BatchPlan(lengths, 2000, seed=1).epoch(0).batches[0]
    seen = []
    for rank in range(world_size):
        mine = batch[share(lengths[batch], world_size, rank)]
        for group in micro_batches(lengths[mine], limit):
            seen += mine[group].tolist()
    assert sorted(seen) == sorted(batch.tolist())


# The mix.

LABELLED = np.random.default_rng(1).integers(50, 400, 40)
UNLABELLED = np.random.default_rng(2).integers(50, 400, 130)
BATCH = 1000


def mix(ratio=2.0, start=0, *, unlabelled=True, batch=BATCH):
    return MixPlan(
        BatchPlan(LABELLED, batch, seed=1),
        BatchPlan(UNLABELLED, batch, seed=2) if unlabelled else None,
        ratio,
        start,
    )


def walk(plan, count, at=None):
    """The next `count` steps."""
    steps, at = [], at or MixPosition()
    for _ in range(count):
        steps.append(plan.next(at))
        at = steps[-1].after
    return steps


def audio_of(step):
    return int((LABELLED if step.labelled else UNLABELLED)[step.indices].sum())


def as_values(steps):
    return [(s.labelled, s.indices.tolist(), s.epoch, s.samples, s.after) for s in steps]


@given(st.sampled_from([0.25, 0.5, 1.0, 1.7, 2.0, 10.0]), st.integers(0, 30_000))
@settings(max_examples=30)
def test_the_ratio_in_audio_holds_within_one_batch_from_the_start_on(ratio, start):
    for step in walk(mix(ratio, start), 150):
        position = step.after
        owed = ratio * (position.labelled.total - position.labelled_before)
        assert position.unlabelled.total <= owed + BATCH
        if position.unlabelled.total or position.labelled.total > start + BATCH:
            assert position.unlabelled.total >= owed - ratio * BATCH


@given(st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 30_000))
@settings(max_examples=30)
def test_until_the_start_the_run_is_supervised_and_soon_after_it_is_not(ratio, start):
    consumed, since = 0, 0
    for step in walk(mix(ratio, start), 150):
        if consumed < start:
            assert step.labelled
        elif since == 0:
            # The ratio counts from about there, not from the beginning: nothing is made up for.
            assert step.after.labelled.total - step.after.labelled_before <= 4 * BATCH
        since += not step.labelled
        consumed += step.samples
    assert since > 0


@pytest.fixture
def owing():
    """A position of a run whose pseudo-labels have begun, right before an unlabelled batch."""
    return next(s.after for s in reversed(walk(mix(2.0), 20)) if s.labelled)


def test_a_start_that_was_put_off_is_kept(owing):
    assert not mix(2.0).next(owing).labelled
    at, start = owing, owing.labelled.total + owing.unlabelled.total + 5000
    for step in walk(mix(2.0, start), 20, at):
        if at.labelled.total + at.unlabelled.total < start:
            assert step.labelled
        at = step.after


def test_a_start_that_was_put_off_comes(owing):
    start = owing.labelled.total + owing.unlabelled.total + 5000
    steps = walk(mix(2.0, start), 20, owing)
    # Five or so labelled batches fill the time until then; the ratio counts from there.
    assert 5 <= next(i for i, step in enumerate(steps) if not step.labelled) <= 8


def test_a_ratio_of_two_alternates_by_audio():
    equal = BatchPlan(np.full(100, 100), 500)
    kinds = "".join("U L"[2 * s.labelled] for s in walk(MixPlan(equal, equal, 2.0), 9))
    assert kinds == "LUULUULUU"


def test_a_ratio_of_nothing_is_a_supervised_run():
    assert all(step.labelled for step in walk(mix(0.0), 60))


def test_without_an_unlabelled_corpus_the_run_is_supervised():
    plan = mix(unlabelled=False)
    steps = walk(plan, 60)
    assert all(step.labelled for step in steps)
    assert not plan.has_unlabelled


@pytest.mark.parametrize("start", [0, 9000])
def test_every_pass_over_a_corpus_is_complete(start):
    steps = walk(mix(2.0, start), 200)
    for labelled, count in ((True, len(LABELLED)), (False, len(UNLABELLED))):
        epochs = {}
        for step in steps:
            if step.labelled == labelled:
                epochs.setdefault(step.epoch, []).extend(step.indices.tolist())
        assert sorted(epochs) == list(range(len(epochs)))
        assert len(epochs) > 2
        # All but the last, which the walk left in the middle.
        for epoch in range(len(epochs) - 1):
            assert sorted(epochs[epoch]) == list(range(count))
        assert sorted(epochs[0]) == sorted(epochs[1])
        assert epochs[0] != epochs[1]


def test_a_step_counts_its_audio_and_the_clock_adds_up():
    labelled = unlabelled = 0
    for step in walk(mix(1.7, 5000), 200):
        assert step.samples == audio_of(step)
        labelled += step.samples if step.labelled else 0
        unlabelled += 0 if step.labelled else step.samples
        assert step.after.labelled.total == labelled
        assert step.after.unlabelled.total == unlabelled


@given(st.integers(0, 119), st.sampled_from([0.5, 2.0]), st.sampled_from([0, 7000]))
@settings(max_examples=40)
def test_a_resume_from_any_position_gives_the_same_rest(stop, ratio, start):
    whole = walk(mix(ratio, start), 120)
    saved = json.loads(json.dumps(whole[stop].after.state_dict()))
    position = MixPosition.from_state(saved)
    assert position == whole[stop].after
    assert as_values(walk(mix(ratio, start), 119 - stop, position)) == as_values(whole[stop + 1 :])


def test_asking_twice_gives_the_same_batch():
    plan, at = mix(), MixPosition()
    far = walk(plan, 100)
    assert as_values([plan.next(at)]) == as_values([plan.next(at)]) == as_values(far[:1])


@pytest.mark.parametrize("batch", [500, 700, 4000])
def test_another_batch_from_the_middle_on_keeps_the_clock(batch):
    """Positions are in audio: on other hardware the place in a pass is nearly kept, the clock exactly."""
    at = walk(mix(2.0), 31)[-1].after
    steps = walk(mix(2.0, batch=batch), 40, at)
    for before, step in zip([at, *(s.after for s in steps)], steps, strict=False):
        gained = step.after.labelled.total + step.after.unlabelled.total
        gained -= before.labelled.total + before.unlabelled.total
        assert gained == step.samples == audio_of(step)
    first = next(s for s in steps if not s.labelled)
    assert first.epoch in (at.unlabelled.epoch, at.unlabelled.epoch + 1)
    if first.epoch == at.unlabelled.epoch:
        assert abs(first.after.unlabelled.samples - first.samples - at.unlabelled.samples) <= batch
