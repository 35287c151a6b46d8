"""Gradient noise: its estimate, how a mean square falls with the batch, and the clipping threshold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.scaling import scale_clip_norm, scale_noise_share
from asr_emapl.scaling.gradient_noise import GradientNoise, NoiseAverage, estimate_noise, gain

KAPPA = st.floats(0.01, 100.0)
SHARE = st.floats(0.0, 1.0)


@given(KAPPA, KAPPA, st.floats(0.01, 10.0))
def test_the_clipping_threshold_obeys_the_same_laws(k1, k2, norm):
    assert scale_clip_norm(norm, 1.0) == norm
    assert scale_clip_norm(norm, 4.0) == pytest.approx(norm / 2.0)
    assert scale_clip_norm(scale_clip_norm(norm, k1), k2) == pytest.approx(scale_clip_norm(norm, k1 * k2))


def test_no_clipping_stays_no_clipping():
    assert scale_clip_norm(0.0, 8.0) == 0.0


def test_where_the_gradient_dominates_the_threshold_stays():
    assert scale_clip_norm(2.0, 16.0, noise_share=0.0) == 2.0
    assert scale_clip_norm(2.0, 16.0, noise_share=1.0) == 0.5


@given(SHARE, KAPPA, KAPPA)
def test_everything_composes_with_the_share_restated(share, k1, k2):
    there = scale_noise_share(share, k1)
    assert 0.0 <= there <= 1.0 + 1e-15
    there = min(there, 1.0)
    assert gain(share, k1) * gain(there, k2) == pytest.approx(gain(share, k1 * k2), rel=1e-9)
    assert scale_noise_share(there, k2) == pytest.approx(scale_noise_share(share, k1 * k2), rel=1e-9)
    once = scale_clip_norm(3.0, k1, noise_share=share)
    assert scale_clip_norm(once, k2, noise_share=there) == pytest.approx(
        scale_clip_norm(3.0, k1 * k2, noise_share=share), rel=1e-9
    )


@given(SHARE, KAPPA)
def test_the_gain_lies_between_1_and_kappa(share, kappa):
    assert gain(share, 1.0) == 1.0
    assert min(1.0, kappa) * (1.0 - 1e-12) <= gain(share, kappa) <= max(1.0, kappa) * (1.0 + 1e-12)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), KAPPA)
def test_the_share_is_that_of_the_gradient_noise_scale(noise_scale, batch, kappa):
    share = noise_scale / (noise_scale + batch)
    assert scale_noise_share(share, kappa) == pytest.approx(
        noise_scale / (noise_scale + kappa * batch), rel=1e-9
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_the_same_share_of_steps_is_clipped(share):
    # Each layer's scale is random, so that norms spread and a threshold at their median clips half.
    generator = torch.Generator().manual_seed(0)
    signal, noise = math.sqrt(1.0 - share), math.sqrt(share)
    spread = torch.rand(4000, 1, generator=generator) + 0.5
    draws = torch.randn(2, 4000, 200, generator=generator)
    reference, larger = ((spread * (signal + noise * z)).norm(dim=1) for z in (draws[0], draws[1] / 8.0**0.5))
    threshold = reference.median().item()
    scaled = scale_clip_norm(threshold, 8.0, noise_share=share)
    assert (larger > scaled).float().mean().item() == pytest.approx(0.5, abs=0.03)
    if share > 0.5:
        assert (larger > threshold).float().mean().item() < 0.1


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_outside_its_range_is_an_error(share):
    for scale in (
        lambda: gain(share, 2.0),
        lambda: scale_noise_share(share, 2.0),
        lambda: scale_clip_norm(1.0, 2.0, noise_share=share),
    ):
        with pytest.raises(ValueError, match=r"noise share .* is outside \[0, 1\]"):
            scale()


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.inf, math.nan])
def test_kappa_has_to_be_positive_and_finite(kappa):
    for scale in (gain, scale_noise_share, scale_clip_norm):
        with pytest.raises(ValueError, match="kappa must be positive and finite"):
            scale(0.5, kappa)


# The estimate from one batch.


@pytest.mark.parametrize("counts", [[4, 4], [1, 3], [2, 2, 2, 2], [5, 1, 2]])
@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_the_variance_of_gradients_with_known_noise(counts, noise):
    generator = torch.Generator().manual_seed(0)
    dim, trials, n = 20, 4000, sum(counts)
    signal = torch.randn(dim, generator=generator)
    each = signal + noise * torch.randn(trials, n, dim, generator=generator)
    parts = torch.stack([p.sum(1) / n for p in each.split(counts, dim=1)], 1)
    found = [
        estimate_noise(
            list(zip(p.square().sum(-1).tolist(), counts, strict=True)), p.sum(0).square().sum().item()
        )
        for p in parts
    ]
    variance = sum(f.variance for f in found) / trials
    mean_square = sum(f.mean_square for f in found) / trials
    true = dim * noise**2 / n
    assert variance == pytest.approx(true, rel=0.05, abs=1e-5)
    assert mean_square == pytest.approx(signal.square().sum().item() + true, rel=0.05)


@given(st.lists(st.floats(0.0, 1e3), min_size=2, max_size=6))
def test_parts_that_agree_have_no_noise(direction):
    """Equal shares of one vector: nothing differs, so nothing is noise."""
    n = len(direction)
    vector = torch.tensor(direction, dtype=torch.float64)
    square = vector.square().sum().item()
    found = estimate_noise([(square / n**2, 1)] * n, square)
    assert found.variance == pytest.approx(0.0, abs=1e-9 * max(1.0, square))


def test_what_cannot_be_estimated():
    assert estimate_noise([], 1.0) is None
    assert estimate_noise([(1.0, 4)], 1.0) is None
    assert estimate_noise([(1.0, 4), (0.0, 0)], 1.0) is None
    assert estimate_noise([(1.0, 2), (math.inf, 2)], 1.0) is None
    assert estimate_noise([(1.0, 2), (1.0, 2)], math.nan) is None


# The average over a run.


def measured(share, kappas, half_life=600.0, audio=60.0):
    """The average after steps at these kappas; `share` is that of noise at the reference batch."""
    average, seconds = NoiseAverage(half_life), 0.0
    for kappa in kappas:
        seconds += kappa * audio
        noise = GradientNoise(share / kappa, share / kappa + 1.0 - share)
        average = average.after(noise, kappa, seconds)
    return average


@given(SHARE, st.lists(st.sampled_from([0.5, 1.0, 2.0, 8.0]), min_size=1, max_size=9), KAPPA)
def test_the_average_is_that_of_the_reference_at_whatever_batch_it_was_measured(share, kappas, kappa):
    average = measured(share, kappas)
    assert average.share(1.0) == pytest.approx(share, abs=1e-9)
    assert average.share(kappa) == pytest.approx(scale_noise_share(share, kappa), abs=1e-9)


def test_the_average_forgets_in_audio():
    """A half-life after the noise has changed, both weigh the same; however many steps measured it."""
    for kappa in (1.0, 2.0, 10.0):
        average = measured(0.2, [kappa] * 1000)
        seconds = average.seconds
        for _ in range(round(10 / kappa)):
            seconds += 60.0 * kappa
            average = average.after(GradientNoise(0.8 / kappa, 0.8 / kappa + 0.2), kappa, seconds)
        assert average.share(1.0) == pytest.approx(0.5)


def test_without_a_measurement_the_share_is_unknown():
    assert NoiseAverage(600.0).share(4.0) is None
    assert NoiseAverage(600.0).after(GradientNoise(0.0, 0.0), 1.0, 60.0).share(1.0) is None
    # Estimates are unbiased, so they can be negative, or exceed the mean square.
    assert NoiseAverage(600.0).after(GradientNoise(-0.1, 1.0), 1.0, 60.0).share(1.0) == 0.0
    assert NoiseAverage(600.0).after(GradientNoise(1.1, 1.0), 1.0, 60.0).share(1.0) == 1.0
