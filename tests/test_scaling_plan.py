"""One kappa: the mean unpadded audio of a step over that of a reference step."""

from __future__ import annotations

import pytest

from asr_emapl.scaling import BatchSchedule, ScalingPlan


def test_kappa_is_audio_over_reference_audio():
    plan = ScalingPlan(BatchSchedule(60.0, ((1.0, 120.0),)), 60.0, {60.0: 48.0, 120.0: 108.0})
    assert plan.kappa() == plan.kappa(0.5) == 1.0
    assert plan.kappa(1.0) == 108.0 / 48.0
    assert plan.kappas == [1.0, 2.25]
    assert plan.kappa_of(24.0) == 0.5
    assert (plan.step_audio(0.0), plan.step_audio(2.0), plan.reference_audio) == (48.0, 108.0, 48.0)


def test_without_corpora_it_is_nominal():
    plan = ScalingPlan.nominal(BatchSchedule(30.0), 120.0)
    assert (plan.kappa(), plan.measured) == (0.25, False)


@pytest.mark.parametrize("audio", [{60.0: 1.0}, {60.0: 0.0, 30.0: 1.0}, {60.0: 1.0, 30.0: 0.0}])
def test_audio_that_is_unknown_or_none(audio):
    with pytest.raises((ValueError, ZeroDivisionError)):
        ScalingPlan(BatchSchedule(30.0), 60.0, audio)
