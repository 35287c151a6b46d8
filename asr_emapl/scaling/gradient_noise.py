"""The noise of gradients: how far their mean square falls when the batch grows by kappa.

kappa = batch / reference batch. The gradient g of a mean loss is the true gradient plus noise whose variance
goes as 1 / batch. With s the noise's share in the mean of g ** 2 at the reference batch (`noise_share`), the
mean of g ** 2 at kappa is s / kappa + (1 - s) of what it was: 1 / kappa where noise dominates (s = 1, as the
square-root rules assume), unchanged where the gradient does (s = 0).
"""

from __future__ import annotations

import math

from asr_emapl.scaling.averages import require_kappa


def gain(noise_share: float, kappa: float) -> float:
    """Mean of g ** 2 at the reference batch over that at kappa: kappa / (s + (1 - s) kappa). Derived.

    Between 1 and kappa; the gain ratio of AdaScale (Johnson et al. 2020, from memory).

    Raises:
        ValueError: a share outside [0, 1] or kappa not positive.
    """
    require_kappa(kappa)
    if not 0.0 <= noise_share <= 1.0:
        raise ValueError(f"noise share {noise_share} lies outside [0, 1]")
    return kappa / (noise_share + (1.0 - noise_share) * kappa)


def scale_noise_share(noise_share: float, kappa: float) -> float:
    """The noise's share in the mean of g ** 2 at kappa: s / (s + (1 - s) kappa). Derived.

    To restate a share that was measured at another batch, and to compose rules: after scaling by k1, this is
    the share at which to scale by k2. With the gradient noise scale N = tr(Sigma) / |G| ** 2 (McCandlish et
    al. 2018, from memory) in the unit of the batch B, the share is N / (N + B).

    Raises:
        ValueError: a share outside [0, 1] or kappa not positive.
    """
    return noise_share * gain(noise_share, kappa) / kappa


def scale_clip_norm(clip_norm: float, kappa: float, *, noise_share: float = 1.0) -> float:
    """Gradient-clipping threshold at kappa: C / sqrt(gain), by default C / sqrt(kappa). Derived.

    The norm of a noise-dominated gradient shrinks by sqrt(kappa), so a threshold that stays where it was
    clips another share of the steps: it depends on the batch as much as rho does. Where the gradient
    dominates (noise_share 0) its norm stays, and C with it. Limits: the norm is taken to follow its mean
    square, as in many dimensions; with heavy tails the share of clipped steps moves nevertheless.

    Args:
        clip_norm: threshold on the norm of the mean gradient at the reference batch; 0 stays 0.
        kappa: batch / reference batch.
        noise_share: the noise's share in the mean square of that norm, at the reference batch.

    Raises:
        ValueError: a share outside [0, 1] or kappa not positive.
    """
    return clip_norm / math.sqrt(gain(noise_share, kappa))
