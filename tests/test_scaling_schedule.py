"""The learning rate over audio: warm-up, plateau, decay, and what makes a schedule impossible."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.scaling import Schedule

SHAPE = st.sampled_from(["cosine", "linear"])
SHARE = st.floats(0.0, 1.0)
HOURS = st.floats(0.0, 100.0)


def schedule(warmup=2.0, decay=6.0, final=0.1, shape="cosine", end=10.0):
    return Schedule(end, warmup, decay, final, shape)


def test_by_default_the_rate_is_constant():
    constant = Schedule(10.0)
    assert [constant.factor(h) for h in (0.0, 5.0, 10.0, 1e6)] == [1.0] * 4


@pytest.mark.parametrize(("hours", "factor"), [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (2.0, 1.0), (3.0, 1.0)])
def test_warm_up_is_linear_and_ends_in_the_plateau(hours, factor):
    assert schedule().factor(hours) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("shape", "hours", "factor"),
    [
        ("linear", 6.0, 1.0),
        ("linear", 7.0, 0.775),
        ("linear", 8.0, 0.55),
        ("linear", 10.0, 0.1),
        ("cosine", 6.0, 1.0),
        ("cosine", 7.0, 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi / 4.0))),
        ("cosine", 8.0, 0.55),
        ("cosine", 10.0, 0.1),
    ],
)
def test_decay_goes_from_the_plateau_to_the_final_share(shape, hours, factor):
    assert schedule(shape=shape).factor(hours) == pytest.approx(factor)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_after_the_end_the_final_share_stays(shape):
    assert schedule(shape=shape).factor(11.0) == pytest.approx(0.1)
    assert schedule(shape=shape, final=0.0).factor(1e9) == pytest.approx(0.0, abs=1e-15)


@given(HOURS, st.floats(0.0, 5.0), st.floats(5.0, 40.0), SHARE, SHAPE)
def test_the_factor_stays_in_the_unit_interval(hours, warmup, decay, final, shape):
    assert 0.0 <= schedule(warmup, decay, final, shape, end=50.0).factor(hours) <= 1.0


@given(HOURS, HOURS, SHARE, SHAPE)
def test_up_in_warm_up_and_never_up_again(a, b, final, shape):
    plan = schedule(20.0, 40.0, final, shape, end=80.0)
    early, late = min(a, b), max(a, b)
    if late <= 40.0:
        assert plan.factor(early) <= plan.factor(late)
    if early >= 20.0:
        assert plan.factor(early) >= plan.factor(late) - 1e-12


@given(st.floats(0.0, 60.0), SHAPE)
def test_the_factor_is_continuous(hours, shape):
    plan = schedule(10.0, 20.0, 0.0, shape, end=50.0)
    assert plan.factor(hours + 1e-6) == pytest.approx(plan.factor(hours), abs=1e-6)


@given(HOURS, SHAPE, st.sampled_from([0.5, 2.0, 10.0]))
def test_a_run_stretched_in_audio_has_the_same_curve_at_the_same_share(hours, shape, stretch):
    short, long = (
        schedule(20.0, 40.0, 0.2, shape, 80.0),
        schedule(20.0 * stretch, 40.0 * stretch, 0.2, shape, 80.0 * stretch),
    )
    assert long.factor(hours * stretch) == pytest.approx(short.factor(hours), abs=1e-9)


def test_decay_from_the_start_and_no_warm_up():
    assert schedule(0.0, 0.0, 0.0, "linear", 10.0).factor(0.0) == 1.0
    assert schedule(0.0, 0.0, 0.0, "linear", 10.0).factor(2.5) == pytest.approx(0.75)


def test_a_decay_of_no_length_is_a_step():
    plan = schedule(0.0, 10.0, 0.3, end=10.0)
    assert plan.factor(10.0) == 1.0
    assert plan.factor(10.1) == pytest.approx(0.3)


def test_a_final_share_of_one_is_no_decay():
    assert [schedule(final=1.0).factor(h) for h in (5.0, 7.0, 10.0)] == [1.0] * 3


def test_an_unknown_shape_is_an_error():
    with pytest.raises(ValueError, match="'step' is neither 'cosine' nor 'linear'"):
        schedule(shape="step")


@pytest.mark.parametrize("final", [-0.1, 1.1, math.nan])
def test_a_final_share_outside_the_unit_interval_is_an_error(final):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        schedule(final=final)


def test_a_decay_that_begins_after_the_end_does_not_come_to_pass():
    """What a recipe relies on whose first stage is the same config with fewer hours."""
    assert [schedule(decay=12.0, end=10.0).factor(h) for h in (2.0, 9.0, 10.0, 12.0)] == [1.0] * 4


@given(SHAPE, st.floats(0.01, 0.99), st.floats(0.0, 0.5))
def test_the_decay_falls_to_a_factor_where_it_says(shape, factor, final):
    one = schedule(final=final, shape=shape)
    hours = one.falls_to(factor)
    if factor <= final:
        assert hours == math.inf
    else:
        assert 6.0 < hours <= 10.0
        assert one.factor(hours) == pytest.approx(factor, abs=1e-6)


def test_without_a_decay_no_factor_is_reached():
    assert Schedule(10.0).falls_to(0.5) == math.inf
    assert Schedule(10.0, decay_from_hours=10.0).falls_to(0.5) == math.inf
    with pytest.raises(ValueError, match=r"outside \(0, 1\)"):
        schedule().falls_to(1.0)
