"""How far a gradient's mean square falls with the batch, and the clipping threshold that goes with it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.scaling import scale_clip_norm, scale_noise_share
from asr_emapl.scaling.gradient_noise import gain

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
        with pytest.raises(ValueError, match=r"noise share .* lies outside \[0, 1\]"):
            scale()


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.inf, math.nan])
def test_kappa_has_to_be_positive_and_finite(kappa):
    for scale in (gain, scale_noise_share, scale_clip_norm):
        with pytest.raises(ValueError, match="kappa must be positive and finite"):
            scale(0.5, kappa)
