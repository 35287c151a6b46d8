"""The mean unpadded audio of a step, measured on the plan that a run has."""

from __future__ import annotations

import numpy as np
import pytest
from support.lengths import librispeech_like

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.batch_plan import BatchConfig
from asr_emapl.data.mixture import DataCursor, DataPlan, Mixture
from asr_emapl.data.step_audio import mean_step_audio


def mix(seconds, seed=0, ratio=2.0, reference=60.0, *, unlabelled=True):
    config = BatchConfig(reference_seconds=reference)
    labelled, other = librispeech_like(400, 1), librispeech_like(1500, 2)
    plans = [config.plan(lengths, seconds * SAMPLE_RATE_HZ, seed) for lengths in (labelled, other)]
    return DataPlan(Mixture(plans[:1]), Mixture(plans[1:]) if unlabelled else None, ratio)


@pytest.mark.parametrize("seconds", [60, 240])
@pytest.mark.parametrize("unlabelled", [True, False])
def test_it_is_what_steps_have_on_average(seconds, unlabelled):
    plan, at, audio = mix(seconds, seed=5, unlabelled=unlabelled), DataCursor(), []
    for _ in range(400):
        batch = plan.next(at)
        at = batch.after
        audio.append(batch.samples / SAMPLE_RATE_HZ)
    assert mean_step_audio(plan, seconds) == pytest.approx(np.mean(audio), rel=0.02)


def test_it_depends_on_neither_the_seed_nor_the_batch_of_the_plan():
    assert mean_step_audio(mix(60, seed=1), 120.0) == mean_step_audio(mix(240, seed=2), 120.0)


def test_kappa_is_near_the_nominal_one_since_batches_are_whole_reference_batches():
    plan = mix(60)
    for kappa in (2, 4, 8):
        assert mean_step_audio(plan, 60.0 * kappa) / mean_step_audio(plan, 60.0) == pytest.approx(
            kappa, rel=0.04
        )


def test_it_is_that_of_the_utterances_that_are_used():
    lengths = librispeech_like(1500, 2)
    is_used = lengths < np.median(lengths)

    def mean(samples, used):
        return mean_step_audio(DataPlan(Mixture([BatchConfig().plan(samples, 960_000, used=used)])), 60.0)

    assert mean(lengths, is_used) == mean(lengths[is_used], None) != mean(lengths, None)


def test_a_batch_that_nothing_fits_is_an_error():
    with pytest.raises(ValueError, match="longer than 1 s"):
        mean_step_audio(mix(60), 1.0)
