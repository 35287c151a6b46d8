"""The largest amplitude of audio from which log-mel features can be computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_AMPLITUDE = 1e12
"""Largest absolute value of a sample; full scale is 1.

A Hann window of 10 s, the longest that a config may state, adds up to 80,000. The power of its spectrum,
times the filter bank's weights (which add up to 10 at that length), stays within float32 for amplitudes
below 7e13. Integers of 32 bits that were stored as floats without scaling reach 2e9. Far beyond the limit
features overflow, and one utterance makes the gradient of its whole batch infinite.
"""


def amplitude_fault(samples: NDArray[np.float32]) -> str | None:
    """What is wrong with samples of any shape; None if features can be made of them."""
    # NaN is neither less nor more. Looking for the extremes takes no memory, unlike taking absolute values.
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if peak <= MAX_AMPLITUDE:
        return None
    if not np.isfinite(peak):
        return "has NaN or infinite samples"
    return f"has samples of amplitude {peak:.3g}, more than {MAX_AMPLITUDE:g} times full scale"
