"""Intervals of the bootstrap and of Student's t."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.errors import UserError
from asr_emapl.scoring.intervals import (
    Interval,
    difference,
    difference_ends,
    intervals,
    rate_ends,
    rates,
    resampled_sums,
    student_quantile,
)


def test_sums_of_drawn_units() -> None:
    values = np.array([[1, 10], [2, 20], [4, 40]])
    sums = resampled_sums(values, None, 500, 0)
    assert sums.shape == (500, 2)
    assert (sums[:, 1] == 10 * sums[:, 0]).all()
    # Three draws with replacement out of 1, 2, 4.
    assert set(sums[:, 0]) == {a + b + c for a in (1, 2, 4) for b in (1, 2, 4) for c in (1, 2, 4)}
    assert sums[:, 0].mean() == pytest.approx(7.0, abs=0.3)
    assert (resampled_sums(values, None, 500, 0) == sums).all()
    assert (resampled_sums(values, None, 500, 1) != sums).any()


def test_speakers_are_drawn_with_all_their_utterances() -> None:
    values = np.array([[1], [2], [4]])
    sums = resampled_sums(values, ["a", "b", "a"], 200, 0)[:, 0]
    assert set(sums) == {4.0, 7.0, 10.0}


def test_interval_is_close_to_that_of_the_binomial() -> None:
    errors = np.arange(2000) % 10 == 0
    found = intervals({"x": (errors, np.ones(2000))}, None, 2000, 0)["x"]
    assert found is not None
    deviation = (0.1 * 0.9 / 2000) ** 0.5
    assert (found.low, found.high) == pytest.approx(
        (0.1 - 1.96 * deviation, 0.1 + 1.96 * deviation), abs=2e-3
    )
    assert (found.units, found.drawn, found.resamples, found.level) == ("utterances", 2000, 2000, 0.95)


def test_coverage_is_the_confidence_level() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        lengths = rng.integers(5, 30, 200)
        found = intervals({"x": (rng.binomial(lengths, 0.1), lengths)}, None, 300, trial)["x"]
        assert found is not None
        hits += found.low <= 0.1 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_interval_by_speaker_is_wider_if_speakers_differ() -> None:
    speakers = [f"s{i // 50}" for i in range(1000)]
    errors = np.array([(i // 50) % 4 for i in range(1000)])
    quotients = {"x": (errors, np.full(1000, 10))}
    by_utterance, by_speaker = (intervals(quotients, of, 500, 0)["x"] for of in (None, speakers))
    assert by_utterance is not None
    assert by_speaker is not None
    assert by_speaker.high - by_speaker.low > 3 * (by_utterance.high - by_utterance.low)
    assert (by_speaker.units, by_speaker.drawn) == ("speakers", 20)


def speakers_of(count: int) -> list[str]:
    return [f"s{i}" for i in range(count)]


def test_false_claims_with_eight_speakers() -> None:
    """Equally good systems with speaker effects: mean WER 10 %, standard deviation of the effects 1.5 %."""
    rng = np.random.default_rng(0)
    claims = 0
    for _ in range(2000):
        words = rng.integers(600, 1801, 8)
        rate, effect = rng.gamma(2.0, 0.05, 8), rng.normal(0.0, 0.015, 8)
        errors = (rng.binomial(words, np.clip(rate + sign * effect, 0.0, 1.0)) for sign in (1, -1))
        found, _ = difference(*errors, words, speakers_of(8), 1, 0)
        assert found is not None
        claims += found.low > 0.0 or found.high < 0.0
    assert 0.035 <= claims / 2000 <= 0.07


@pytest.mark.parametrize("count", [4, 8, 20])
def test_coverage_with_few_speakers(count: int) -> None:
    rng = np.random.default_rng(count)
    hits = 0
    for _ in range(1000):
        words = rng.integers(600, 1801, count)
        shape = (0.05 / 0.035) ** 2
        errors = rng.binomial(words, np.minimum(rng.gamma(shape, 0.05 / shape, count), 1.0))
        found = intervals({"x": (errors, words)}, speakers_of(count), 1, 0)["x"]
        assert found is not None
        assert 0.0 <= found.low <= found.high
        hits += found.low <= 0.05 <= found.high
    assert 0.91 <= hits / 1000 <= 0.97


def test_both_methods_agree_at_their_border() -> None:
    """At `FEW_UNITS`, the ends of both methods are close."""
    rng = np.random.default_rng(0)
    words = rng.integers(600, 1801, 100)
    errors = rng.binomial(words, rng.gamma(2.0, 0.05, 100))
    few = intervals({"x": (errors[:99], words[:99])}, speakers_of(99), 1000, 0)["x"]
    many = intervals({"x": (errors, words)}, speakers_of(100), 1000, 0)["x"]
    assert few is not None
    assert many is not None
    assert (few.method, few.resamples, many.method, many.resamples) == ("student", 0, "percentiles", 1000)
    assert (few.low, few.high) == pytest.approx((many.low, many.high), abs=5e-3)


def test_rates_of_few_speakers_stay_in_range() -> None:
    wrong = {"x": (np.array([10, 9, 10, 7]), np.full(4, 10))}
    found = intervals(wrong, speakers_of(4), 1, 0)["x"]
    assert found is not None
    assert found.high == 1.0
    right = intervals({"x": (np.zeros(4), np.full(4, 10))}, speakers_of(4), 1, 0)["x"]
    assert right is not None
    assert (right.low, right.high) == (0.0, 0.0)


def test_too_few_units() -> None:
    one = {"x": (np.array([1]), np.array([3]))}
    assert intervals(one, None, 10, 0) == {"x": None}
    two = {"x": (np.array([1, 1]), np.array([3, 4]))}
    assert intervals(two, ["a", "a"], 10, 0) == {"x": None}
    with pytest.raises(UserError, match="0 resamples"):
        intervals(two, None, 0, 0)


def test_empty_references() -> None:
    assert rates(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 2.0])).tolist() == [0.0, np.inf, 0.5]
    found = intervals({"x": (np.array([1, 0]), np.array([0, 0]))}, None, 100, 0)["x"]
    assert found is not None
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["high"] is None


def test_to_dict() -> None:
    found = Interval(0.1, 0.2, "speakers", 3, 10, 0).to_dict()
    assert found == {
        **{"low": 0.1, "high": 0.2, "units": "speakers", "drawn": 3},
        **{"resamples": 10, "seed": 0, "level": 0.95, "method": "percentiles"},
    }


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (7, 2.3646), (10, 2.2281), (30, 2.0423), (100, 1.9840)],
)
def test_table(degrees: int, expected: float) -> None:
    assert student_quantile(0.95, degrees) == pytest.approx(expected, abs=5e-5)


@given(degrees=st.integers(1, 60), level=st.floats(0.05, 0.99))
def test_integral(degrees: int, level: float) -> None:
    t = student_quantile(level, degrees)
    x = np.linspace(-t, t, 20001)
    log_norm = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    density = np.exp(log_norm - (degrees + 1) / 2 * np.log1p(x**2 / degrees))
    assert np.trapezoid(density, x) == pytest.approx(level, abs=2e-3)


def test_units_of_equal_length_give_the_t_interval_of_a_mean() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0])
    low, high = difference_ends(values, np.full(4, 8.0), 0.95)
    reach = 3.182446 * values.std(ddof=1) / 2 / 8
    assert (low, high) == pytest.approx((2.5 / 8 - reach, 2.5 / 8 + reach), rel=1e-5)
    low, high = rate_ends(values, np.full(4, 8.0), 0.95)
    assert low * high == pytest.approx((2.5 / 8) ** 2)


def test_ends_stay_in_range() -> None:
    lengths = np.full(2, 2.0)
    low, high = rate_ends(np.array([3.0, 1.0]), lengths, 0.95)
    assert 0.0 < low < 1.0
    assert high == 1.5
    assert difference_ends(np.array([-3.0, -1.0]), lengths, 0.95) == (-1.5, 1.5)


def test_invalid_quantiles() -> None:
    for level, degrees in ((0.0, 3), (1.0, 3), (0.95, 0)):
        with pytest.raises(ValueError, match="degrees"):
            student_quantile(level, degrees)
    with pytest.raises(ValueError, match="all 0"):
        difference_ends(np.ones(2), np.zeros(2), 0.95)
