"""The order of steps over corpora: ratios in audio, passes complete, a resume from anywhere the same."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.data.batch_plan import BatchPlan
from asr_emapl.data.mixture import CorpusCursor, DataCursor, DataPlan, Mixture, MixtureCursor

LABELLED = np.random.default_rng(1).integers(50, 400, 40)
UNLABELLED = np.random.default_rng(2).integers(50, 400, 130)
BATCH = 1000


def mix(ratio=2.0, start=0, *, unlabelled=True, batch=BATCH, pool=30):
    return DataPlan(
        Mixture([BatchPlan(LABELLED, batch, seed=1, pool=pool)]),
        Mixture([BatchPlan(UNLABELLED, batch, seed=2, pool=pool)]) if unlabelled else None,
        ratio,
        start,
    )


def walk(plan, count, at=None):
    """The next `count` steps."""
    steps, at = [], at or DataCursor()
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
    equal = Mixture([BatchPlan(np.full(100, 100), 500)])
    kinds = "".join("U L"[2 * s.labelled] for s in walk(DataPlan(equal, equal, 2.0), 9))
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
    position = DataCursor.from_state(saved)
    assert position == whole[stop].after
    assert as_values(walk(mix(ratio, start), 119 - stop, position)) == as_values(whole[stop + 1 :])


def test_asking_twice_gives_the_same_batch():
    plan, at = mix(), DataCursor()
    far = walk(plan, 100)
    assert as_values([plan.next(at)]) == as_values([plan.next(at)]) == as_values(far[:1])


@pytest.mark.parametrize("batches", [(500,), (4000,), (700, 4000, 450)])
@pytest.mark.parametrize("every", [3, 31])
def test_another_batch_goes_on_with_the_rest_of_the_pass(batches, every):
    """Each utterance comes once in each pass however often the batch changes; the clock counts it."""
    at, steps = DataCursor(), []
    for change, batch in enumerate(itertools.cycle([BATCH, *batches])):
        # Through the state, as a run that is resumed on other hardware.
        at = DataCursor.from_state(json.loads(json.dumps(at.state_dict())))
        steps += walk(mix(2.0, batch=batch), every, at)
        at = steps[-1].after
        if change >= len(batches) and steps[-1].after.unlabelled.corpora[0].epoch >= 3:
            break
    before = DataCursor()
    for step in steps:
        gained = step.after.labelled.total + step.after.unlabelled.total
        assert gained - before.labelled.total - before.unlabelled.total == step.samples == audio_of(step)
        before = step.after
    for labelled, count in ((True, len(LABELLED)), (False, len(UNLABELLED))):
        passes = defaultdict(list)
        for step in steps:
            if step.labelled == labelled:
                passes[step.epoch] += step.indices.tolist()
        assert len(passes) > 1
        for epoch in range(max(passes)):
            assert sorted(passes[epoch]) == list(range(count))


def test_what_was_consumed_at_other_batches_is_forgotten_with_its_chapter():
    at = walk(mix(batch=500), 3, walk(mix(), 5)[-1].after)[-1].after
    assert at.unlabelled.corpora[0].earlier
    assert not walk(mix(batch=500), 60, at)[-1].after.unlabelled.corpora[0].earlier


# Several corpora of a kind.

SIZES = (40, 130, 7)


def blend(weights, count=3, batch=BATCH):
    rng = np.random.default_rng(5)
    lengths = [rng.integers(50, 400, size) for size in SIZES]
    return Mixture([BatchPlan(lengths[i], batch, seed=i, pool=20) for i in range(count)], weights)


def read(blend, count, at=None):
    """The next `count` batches with the position after each, of a single kind."""
    steps, at = [], at or MixtureCursor()
    for _ in range(count):
        steps.append(blend.next(at))
        at = steps[-1].after
    return steps


@given(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3))
@settings(max_examples=30)
def test_corpora_get_their_shares_of_the_audio(weights):
    for step in read(blend(weights), 120):
        at = step.after
        owed = [p.total / w for p, w in zip(at.corpora, weights, strict=True)]
        # Nobody is ahead of another by more than one batch.
        assert max(owed) - min(owed) <= BATCH / min(weights)


def test_each_corpus_has_passes_of_its_own():
    steps = read(blend([1.0, 1.0, 1.0]), 300)
    first = np.cumsum([0, *SIZES])
    passes = {}
    for step in steps:
        indices, epoch = step.indices, step.epoch
        which = int(np.searchsorted(first, indices[0], side="right")) - 1
        passes.setdefault((which, epoch), []).extend((indices - first[which]).tolist())
    last = {which: max(e for w, e in passes if w == which) for which in range(3)}
    assert last[2] > last[0] > last[1] > 0  # the smallest comes round the most often
    for (which, epoch), seen in passes.items():
        if epoch < last[which]:
            assert sorted(seen) == list(range(SIZES[which]))


def test_no_weights_are_equal_ones():
    assert blend(None).weights == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 0.0], [1.0, 2.0, -1.0], [1.0, 2.0, float("nan")]])
def test_weights_that_cannot_be(weights):
    with pytest.raises(ValueError, match="3 corpora need one positive weight each"):
        blend(weights)


def test_a_blend_resumes_from_anywhere():
    whole = read(blend([1.0, 2.0, 0.5]), 60)
    for stop in (0, 7, 33):
        position = DataCursor(labelled=whole[stop].after)
        saved = DataCursor.from_state(json.loads(json.dumps(position.state_dict())))
        assert saved == position
        rest = read(blend([1.0, 2.0, 0.5]), 59 - stop, saved.labelled)
        assert [b.indices.tolist() for b in rest] == [b.indices.tolist() for b in whole[stop + 1 :]]


def unused_blend(is_used, weights=(1.0, 1.0)):
    lengths = [np.random.default_rng(i).integers(50, 400, size) for i, size in enumerate((90, 60))]
    parts = (is_used[:90], is_used[90:])
    plans = [BatchPlan(s, BATCH, seed=1, pool=20, used=u) for s, u in zip(lengths, parts, strict=True)]
    return Mixture(plans, weights), np.concatenate(lengths)


@given(st.floats(0.02, 1.0), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_batches_are_made_of_the_used_utterances_and_name_the_others(share, seed):
    """Even if whole chunks or a whole corpus are not used."""
    is_used = np.random.default_rng(seed).random(150) < share
    is_used[90 + seed % 60] = True
    mixture, lengths = unused_blend(is_used)
    used, unused, seen = Counter(), Counter(), 0
    for step in read(mixture, 100):
        assert step.samples == lengths[step.indices].sum() > 0
        used.update(step.indices.tolist())
        unused.update(step.unused.tolist())
        seen += step.samples
        assert step.after.total == seen
    assert set(used) <= set(np.flatnonzero(is_used))
    assert set(unused) <= set(np.flatnonzero(~is_used))
    passes = [used[row] for row in np.flatnonzero(is_used[90:]) + 90]
    assert max(passes) - min(passes) <= 1  # each once per pass


def test_utterances_that_are_not_used_are_counted_once_per_pass():
    """Also if the batch changes within a chunk."""
    is_used = np.random.default_rng(3).random(130) < 0.4
    lengths = np.random.default_rng(2).integers(50, 400, 130)
    for batch, later in ((BATCH, BATCH), (BATCH, 700)):
        at, seen = CorpusCursor(), Counter()
        used = Counter()
        while at.epoch == 0:
            plan = BatchPlan(lengths, batch if at.chunk < 2 else later, seed=1, pool=30, used=is_used)
            step = Mixture([plan]).next(MixtureCursor((at,), (1.0,)))
            at = step.after.corpora[0]
            if at.epoch == 0:
                seen.update(step.unused.tolist())
                used.update(step.indices.tolist())
            if at.chunk == 1 and at.samples > 1000:
                batch = later
        assert seen == Counter(np.flatnonzero(~is_used).tolist())
        assert used == Counter(np.flatnonzero(is_used).tolist())


def test_used_utterances_can_change_at_a_chunk():
    """A corpus without used utterances does not catch up later."""
    first, _ = unused_blend(np.arange(150) < 90)
    at = read(first, 40)[-1].after
    assert at.corpora[1].total == 0
    later, _ = unused_blend(np.arange(150) % 2 == 0)
    moved = at.at_chunk()
    assert moved.at_chunk() == moved
    assert all(not corpus.samples for corpus in moved.corpora)
    steps = read(later, 40, moved)
    gained = [b.total - a.total for a, b in zip(at.corpora, steps[-1].after.corpora, strict=True)]
    assert abs(gained[0] - gained[1]) <= BATCH


def test_no_utterance_is_used():
    with pytest.raises(ValueError, match="no utterance is used"):
        unused_blend(np.zeros(150, dtype=bool))


def test_new_weights_make_up_for_nothing():
    at = read(blend([1.0, 1.0, 1.0]), 90)[-1].after
    steps = read(blend([1.0, 1.0, 8.0]), 40, at)
    gained = [b.total - a.total for a, b in zip(at.corpora, steps[-1].after.corpora, strict=True)]
    assert gained[2] / gained[0] == pytest.approx(8.0, rel=0.5)
    assert gained[0] > 0


def test_a_corpus_that_joins_does_not_catch_up():
    at = read(blend([1.0, 1.0], count=2), 90)[-1].after
    steps = read(blend([1.0, 1.0, 1.0]), 30, at)
    after = steps[-1].after.corpora
    gained = [b.total - a.total for a, b in zip((*at.corpora, CorpusCursor()), after, strict=True)]
    assert max(gained) - min(gained) <= BATCH
    # And one that leaves is forgotten.
    assert len(read(blend([1.0], count=1), 1, at)[0].after.corpora) == 1


def test_a_resume_anywhere_is_as_quick_as_a_beginning():
    import time

    lengths = np.random.default_rng(0).integers(16_000, 400_000, 281_241)
    plan = DataPlan(Mixture([BatchPlan(lengths, 3_200_000, seed=1)]))
    at = DataCursor(MixtureCursor((CorpusCursor(5, 4, 10**9, 10**12),), (1.0,)))
    start = time.perf_counter()
    assert plan.next(at).epoch == 5
    # 0.03 s on one core; the bound leaves room for a busy machine.
    assert time.perf_counter() - start < 1.0


def test_a_chapter_that_a_larger_pool_does_not_have_begins_the_next_pass():
    at = walk(mix(unlabelled=False, pool=5), 5)[-1].after
    assert at.labelled.corpora[0].chunk > 0
    step = walk(mix(unlabelled=False, pool=1000), 1, at)[0]
    assert step.epoch == at.labelled.corpora[0].epoch + 1
    assert step.after.labelled.total > at.labelled.total
