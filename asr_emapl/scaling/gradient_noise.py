"""Gradient noise: its estimate from one step, and its effect on the mean square of the gradient.

kappa = batch / reference batch. The gradient g of a mean loss is the true gradient plus noise with variance
proportional to 1 / batch. Let s be the share of noise in the mean of g ** 2 at the reference batch
(`noise_share`). At kappa, the mean of g ** 2 is multiplied by s / kappa + (1 - s): by 1 / kappa if noise
dominates (s = 1, as the square-root rules assume), by 1 if the true gradient dominates (s = 0).

The gradients of a step's micro-batches differ only by noise, so the noise can be estimated from their norms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asr_emapl.scaling.averages import momentum, require_kappa


def gain(noise_share: float, kappa: float) -> float:
    """Ratio of the mean of g ** 2 at the reference batch to that at kappa: kappa / (s + (1 - s) kappa).

    Derived. Between 1 and kappa; the gain ratio of AdaScale (Johnson et al. 2020, cited from memory).

    Raises:
        ValueError: the share is outside [0, 1], or kappa is not positive.
    """
    require_kappa(kappa)
    if not 0.0 <= noise_share <= 1.0:
        raise ValueError(f"noise share {noise_share} is outside [0, 1]")
    return kappa / (noise_share + (1.0 - noise_share) * kappa)


def scale_noise_share(noise_share: float, kappa: float) -> float:
    """Share of noise in the mean of g ** 2 at kappa: s / (s + (1 - s) kappa). Derived.

    Use it to convert a share that was measured at another batch, and to compose rules: after scaling by k1,
    scale by k2 with this share. With the gradient noise scale N = tr(Sigma) / |G| ** 2 (McCandlish et al.
    2018, cited from memory) in the same unit as the batch B, the share is N / (N + B).

    Raises:
        ValueError: the share is outside [0, 1], or kappa is not positive.
    """
    return noise_share * gain(noise_share, kappa) / kappa


def scale_clip_norm(clip_norm: float, kappa: float, *, noise_share: float = 1.0) -> float:
    """Gradient-clipping threshold at kappa: C / sqrt(gain), by default C / sqrt(kappa). Derived.

    The norm of a noise-dominated gradient shrinks by sqrt(kappa), so a constant threshold would clip a
    different share of the steps. If the true gradient dominates (noise_share 0), its norm and C do not
    change. Limitations: the norm is assumed to follow its mean square, as in high dimensions; with heavy
    tails, the share of clipped steps changes nevertheless.

    Args:
        clip_norm: maximum norm of the mean gradient at the reference batch; 0 stays 0.

    Raises:
        ValueError: the share is outside [0, 1], or kappa is not positive.
    """
    return clip_norm / math.sqrt(gain(noise_share, kappa))


@dataclass(frozen=True)
class GradientNoise:
    """The variance of a batch's mean gradient, summed over parameters (trace), and its squared norm."""

    variance: float
    mean_square: float


def estimate_noise(parts: Sequence[tuple[float, int]], mean_square: float) -> GradientNoise | None:
    """Unbiased estimate from a batch in p parts; None if p < 2 or a value is not finite.

    Examples have independent gradients with variance V around the true gradient G. Part i has n_i of the n
    examples and contributes g_i, the sum of their gradients divided by n. Then E |g_i| ** 2 = (n_i / n) ** 2
    |G| ** 2 + n_i V / n ** 2, and for the whole batch E |g| ** 2 = |G| ** 2 + V / n. Eliminating G gives
    V / n = (sum_i n / n_i |g_i| ** 2 - |g| ** 2) / (p - 1).

    Args:
        parts: |g_i| ** 2 and n_i of each part.
        mean_square: |g| ** 2.
    """
    nonempty = [(square, count) for square, count in parts if count]
    if len(nonempty) < 2 or not all(math.isfinite(x) for x in (mean_square, *(s for s, _ in parts))):
        return None
    n = sum(count for _, count in nonempty)
    spread = sum(n / count * square for square, count in nonempty) - mean_square
    return GradientNoise(spread / (len(nonempty) - 1), mean_square)


@dataclass(frozen=True)
class NoiseAverage:
    """Moving average of measured gradient noise, with a half-life in audio.

    It is kept at the reference batch, where the variance is kappa times that of a step at kappa. The true
    gradient is the same at every batch. The average is then still valid after the batch has changed.

    Args:
        half_life: half-life in seconds of audio.
        variance: average variance of the mean gradient of a reference step.
        signal: average squared norm of the true gradient.
        seconds: audio consumed up to the last measured step.
        steps: number of measured steps.
    """

    half_life: float
    variance: float = 0.0
    signal: float = 0.0
    seconds: float = 0.0
    steps: int = 0

    def after(self, noise: GradientNoise, kappa: float, seconds: float) -> NoiseAverage:
        """The average after a measured step at `kappa` that ended at `seconds` of audio consumed."""
        rho = momentum(self.half_life, max(0.0, seconds - self.seconds))
        return replace(
            self,
            variance=rho * self.variance + (1.0 - rho) * kappa * noise.variance,
            signal=rho * self.signal + (1.0 - rho) * (noise.mean_square - noise.variance),
            seconds=seconds,
            steps=self.steps + 1,
        )

    def share(self, kappa: float) -> float | None:
        """Share of noise in the mean of g ** 2 at kappa, in [0, 1]; None before the first measurement.

        Numerator and denominator both start at 0, so their ratio needs no bias correction.
        """
        require_kappa(kappa)
        noise = self.variance / kappa
        if not noise + self.signal > 0.0:
            return None
        return min(1.0, max(0.0, noise / (noise + self.signal)))

    def gain(self, kappa: float) -> float:
        """AdaScale's gain r, between 1 and kappa; 1 before the first measurement.

        r = (variance + signal) / (variance / kappa + signal), Johnson et al. 2020 (cited from memory). With
        the share s of noise at kappa, r = 1 + (kappa - 1) s.
        """
        return 1.0 + (kappa - 1.0) * (self.share(kappa) or 0.0)
