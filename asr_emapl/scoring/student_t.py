"""Intervals of quotients of sums over few independent units, by Student's t distribution.

The deviation of a quotient of sums is that of its linear approximation (Cochran, Sampling Techniques, 1977,
section 6.3), with as many degrees of freedom as there are units, less one.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_STEPS = 100  # bisection: far beyond the resolution of a float


def rate_ends(errors: Values, lengths: Values, level: float) -> tuple[float, float]:
    """The ends of the interval of sum(errors) / sum(lengths), both [K], K >= 2 units.

    The interval is symmetric on a logarithmic scale, because rates of speakers are skewed: neither end is
    below 0. The upper end is at most 1, or the highest rate of a unit. Without an error both ends are 0.
    """
    words = float(lengths.sum())
    if words == 0.0 or not errors.any():
        end = math.inf if errors.any() else 0.0
        return end, end
    rate = float(errors.sum()) / words
    reach = math.exp(student_quantile(level, len(errors) - 1) * _deviation(errors, lengths) / rate)
    return rate / reach, min(rate * reach, _most(errors, lengths))


def difference_ends(differences: Values, lengths: Values, level: float) -> tuple[float, float]:
    """The ends of the interval of sum(differences) / sum(lengths), both [K], K >= 2 units.

    It is symmetric, but ends at -1 and 1, or at the largest difference of a unit, at the latest.

    Raises:
        ValueError: the lengths are all 0.
    """
    words = float(lengths.sum())
    if words == 0.0:
        raise ValueError("the lengths are all 0")
    centre = float(differences.sum()) / words
    reach = student_quantile(level, len(differences) - 1) * _deviation(differences, lengths)
    most = _most(np.abs(differences), lengths)
    return max(centre - reach, -most), min(centre + reach, most)


def _most(values: Values, lengths: Values) -> float:
    """1, or the largest quotient of a unit."""
    spoken = lengths > 0
    return max(1.0, float((values[spoken] / lengths[spoken]).max()))


def _deviation(values: Values, lengths: Values) -> float:
    """The standard deviation of sum(values) / sum(lengths)."""
    count, words = len(values), float(lengths.sum())
    residuals = values - values.sum() / words * lengths
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / words


@cache
def student_quantile(level: float, degrees: int) -> float:
    """The t for which |T| <= t with probability `level`, T having `degrees` degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    Raises:
        ValueError: the level is not between 0 and 1, or there is no degree of freedom.
    """
    if not (0.0 < level < 1.0 and degrees >= 1):
        raise ValueError(f"level {level}, {degrees} degrees of freedom: 0 < level < 1 and degrees >= 1")
    low, high = 0.0, math.pi / 2
    for _ in range(_STEPS):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, degrees) < level else (low, angle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """The probability that |T| <= sqrt(degrees) * tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    # Odd: 1 + 2/3 cos^2 + 2*4/(3*5) cos^4 ...; even: 1 + 1/2 cos^2 + 1*3/(2*4) cos^4 ...
    terms = np.arange(1, (degrees - 1) // 2 if odd else degrees // 2)
    factors = (2 * terms / (2 * terms + 1) if odd else (2 * terms - 1) / (2 * terms)) * cosine**2
    series = 1.0 + float(np.cumprod(factors).sum())
    if not odd:
        return sine * series
    return 2.0 / math.pi * (angle + (sine * cosine * series if degrees > 1 else 0.0))
