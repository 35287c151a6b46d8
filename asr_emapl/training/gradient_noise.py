"""How much of a gradient is noise, from the parts that a step's batch is divided into anyway.

The gradients of micro-batches and of ranks differ by their noise alone. From their norms and the norm of the
whole follow the variance of the mean gradient and its mean square: what AdaScale (Johnson et al. 2020) and
the gradient noise scale (McCandlish et al. 2018) are made of. No backward pass is added; measured steps hold
one more copy of the gradient, exchange it between ranks after the backward pass instead of during it, and
take a batch that would be one pass in two halves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from asr_emapl.errors import UserError
from asr_emapl.scaling import scale_noise_share
from asr_emapl.scoring.student_t import student_quantile
from asr_emapl.torch_private import foreach_norm

# Equal parts of the audio that a reading is the mean of, and the measured steps that each has at least.
_PARTS, _STEPS_OF_A_PART = 10, 5


@dataclass(frozen=True)
class GradientNoise:
    """Of one global batch: the variance of its mean gradient (trace), and the square of its norm."""

    variance: float
    mean_square: float


def estimate(squares: Sequence[float], counts: Sequence[int], whole: float) -> GradientNoise | None:
    """Unbiased estimates from a batch of n utterances in p parts; None if p < 2 or something is not finite.

    Utterances have independent gradients of variance V around the true one, G. Part i contributes g_i, its
    utterances' sum divided by n, so E |g_i| ** 2 = (n_i / n) ** 2 |G| ** 2 + n_i V / n ** 2, and for the
    whole E |g| ** 2 = |G| ** 2 + V / n. Elimination of G gives V / n =
    (sum_i n / n_i |g_i| ** 2 - |g| ** 2) / (p - 1).

    Args:
        squares: |g_i| ** 2; counts: n_i, the utterances of each part.
        whole: |g| ** 2.
    """
    parts = [(square, count) for square, count in zip(squares, counts, strict=True) if count]
    if len(parts) < 2 or not all(math.isfinite(x) for x in (*squares, whole)):
        return None
    utterances = sum(count for _, count in parts)
    spread = sum(utterances / count * square for square, count in parts) - whole
    return GradientNoise(spread / (len(parts) - 1), whole)


def square_norm(gradients: Iterable[Tensor | None]) -> float:
    """The square of the norm of all gradients together."""
    present = [g for g in gradients if g is not None]
    if not present:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(foreach_norm(present)))) ** 2


@dataclass(frozen=True)
class NoiseReading:
    """The mean over many steps, of which a single one says little.

    `share` is the noise's part in the mean square of the gradient at the batch that was trained with: the
    mean over equal parts of the audio, so that the large gradients of the beginning do not decide alone.
    `interval` is Student's 95 % interval from those parts; None of fewer than two.
    """

    share: float
    interval: tuple[float, float] | None
    batch_seconds: float
    reference_seconds: float
    steps: int

    @property
    def noise_scale_seconds(self) -> float:
        """The batch at which noise and gradient are equal; beyond it a larger batch gains little."""
        return math.inf if self.share >= 1.0 else self.batch_seconds * self.share / (1.0 - self.share)

    @property
    def reference_share(self) -> float:
        """The share at the reference batch: what `optimizer.noise_share` takes."""
        return scale_noise_share(self.share, self.reference_seconds / self.batch_seconds)


def read(records: Iterable[dict], batch_seconds: float, reference_seconds: float) -> NoiseReading:
    """The reading of the measured steps among a log's records.

    Args:
        batch_seconds, reference_seconds: mean unpadded audio of a step at this batch and at the reference.

    Raises:
        UserError: none was measured.
    """
    pairs = [r["gradient_noise"] for r in records if r.get("gradient_noise")]
    # As many parts as keep enough steps for a ratio of means in each.
    count = max(1, min(_PARTS, len(pairs) // _STEPS_OF_A_PART))
    ends = [i * len(pairs) // count for i in range(count + 1)]
    shares = [share for a, b in pairwise(ends) if (share := _share(pairs[a:b])) is not None]
    if not shares:
        raise UserError("no step with gradient noise: train with optimizer.noise_every_steps=50")
    share = sum(shares) / len(shares)
    return NoiseReading(share, _interval(shares, share), batch_seconds, reference_seconds, len(pairs))


def _share(pairs: Sequence[Sequence[float]]) -> float | None:
    """Mean variance over mean square, within [0, 1]; None where there is no gradient."""
    total = sum(mean_square for _, mean_square in pairs)
    if not total > 0.0:
        return None
    return min(1.0, max(0.0, sum(variance for variance, _ in pairs) / total))


def _interval(shares: Sequence[float], mean: float) -> tuple[float, float] | None:
    if len(shares) < 2:
        return None
    half = student_quantile(0.95, len(shares) - 1) * statistics.stdev(shares) / math.sqrt(len(shares))
    return max(0.0, mean - half), min(1.0, mean + half)
