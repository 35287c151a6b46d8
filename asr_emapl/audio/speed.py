"""Speed perturbation (Ko et al. 2015): an utterance played faster or slower, its pitch included.

A faster utterance has fewer frames for the same labels. What is drawn depends on its seed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from torch import Tensor

from asr_emapl.errors import UserError


@dataclass
class SpeedConfig:
    """Speed perturbation, drawn uniformly for each utterance and pass."""

    factors: list[Annotated[float, Ge(0.5), Le(2.0)]] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    """Speeds relative to the original."""


class Speed:
    """Draws a factor, tells how long the utterance will be, and resamples it.

    Args:
        config: see `SpeedConfig`; factors are taken to two decimal places.

    Raises:
        UserError: no factor.
    """

    def __init__(self, config: SpeedConfig) -> None:
        from torchaudio.transforms import Resample  # slow to import; only training needs it

        if not config.factors:
            raise UserError("perturb.speed.factors is empty; write for example [0.9, 1.0, 1.1]")
        self.factors = [Fraction(round(100 * factor), 100) for factor in config.factors]
        self._resample = {f: Resample(f.numerator, f.denominator) for f in self.factors if f != 1}

    def draw(self, seed: int) -> Fraction:
        """The factor of an utterance."""
        return self.factors[int(np.random.default_rng(seed).integers(len(self.factors)))]

    def samples(self, samples: int, factor: Fraction) -> int:
        """Length afterwards; the waveform itself may be one sample shorter."""
        return math.ceil(samples / factor)

    def __call__(self, waveform: Tensor, factor: Fraction) -> Tensor:
        """The waveform [samples] at `factor` times its speed."""
        return waveform if factor == 1 else self._resample[factor](waveform)
