"""Student's quantiles against a table, and against a plain integral."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.scoring.student_t import difference_ends, rate_ends, student_quantile


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


def test_what_has_no_quantile() -> None:
    for level, degrees in ((0.0, 3), (1.0, 3), (0.95, 0)):
        with pytest.raises(ValueError, match="degrees"):
            student_quantile(level, degrees)
    with pytest.raises(ValueError, match="all 0"):
        difference_ends(np.ones(2), np.zeros(2), 0.95)
