"""The EMA Scaling Rule, the half-life that says the same thing, and running statistics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_emapl.scaling import half_life, momentum, scale_batch_norm_momentum, scale_momentum

KAPPA = st.floats(0.01, 100.0)
RHO = st.floats(0.01, 1.0 - 1e-6)


@given(RHO)
def test_momentum_is_the_identity_at_kappa_1(rho):
    assert scale_momentum(rho, 1.0) == rho


@given(RHO, KAPPA, KAPPA)
def test_momentum_composes(rho, k1, k2):
    assert scale_momentum(scale_momentum(rho, k1), k2) == pytest.approx(
        scale_momentum(rho, k1 * k2), rel=1e-9
    )


@given(st.floats(0.5, 1.0 - 1e-6), KAPPA)
def test_momentum_is_undone_by_one_over_kappa(rho, kappa):
    assert scale_momentum(scale_momentum(rho, kappa), 1.0 / kappa) == pytest.approx(rho, rel=1e-9)


@given(RHO, KAPPA, st.floats(1.01, 10.0))
def test_a_larger_batch_forgets_more_in_a_step(rho, kappa, factor):
    assert scale_momentum(rho, kappa * factor) < scale_momentum(rho, kappa)


def test_momentum_of_the_literature():
    assert scale_momentum(0.9999, 8) == pytest.approx(0.9992, abs=3e-7)
    assert scale_momentum(0.9999, 1024) == pytest.approx(0.90266, abs=5e-6)
    assert scale_momentum(0.0, 4) == 0.0
    assert scale_momentum(1.0, 4) == 1.0


@pytest.mark.parametrize("rho", [-0.1, 1.0001, math.nan])
def test_momentum_outside_its_range_is_an_error(rho):
    with pytest.raises(ValueError, match=r"is outside \[0, 1\]"):
        scale_momentum(rho, 2.0)
    with pytest.raises(ValueError, match=r"is outside \[0, 1\]"):
        half_life(rho, 2.0)
    with pytest.raises(ValueError, match=r"batch-norm momentum .* is outside \[0, 1\]"):
        scale_batch_norm_momentum(rho, 2.0)


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.inf, math.nan])
def test_kappa_has_to_be_positive_and_finite(kappa):
    for scale in (scale_momentum, scale_batch_norm_momentum):
        with pytest.raises(ValueError, match="kappa must be positive and finite"):
            scale(0.9, kappa)


# Half-life and momentum say the same thing.


@given(RHO, st.floats(1.0, 1e5))
def test_momentum_undoes_half_life(rho, audio):
    assert momentum(half_life(rho, audio), audio) == pytest.approx(rho, rel=1e-9)


@given(st.floats(1e-3, 1e6), st.floats(1e-4, 100.0))
def test_half_life_undoes_momentum(half_life_s, half_lives):
    # Where rho is neither all but 0 nor all but 1, and its rounding says little about the half-life.
    audio = half_lives * half_life_s
    assert half_life(momentum(half_life_s, audio), audio) == pytest.approx(half_life_s, rel=1e-9)


@given(st.floats(1e-3, 1e6), st.floats(1e-6, 5.0), KAPPA)
def test_momentum_of_kappa_times_the_audio_is_the_scaling_rule(half_life_s, half_lives, kappa):
    audio = half_lives * half_life_s
    ruled = scale_momentum(momentum(half_life_s, audio), kappa)
    assert momentum(half_life_s, kappa * audio) == pytest.approx(ruled, rel=1e-9)


@given(st.floats(1.0, 1e6), st.lists(st.floats(0.0, 1e5), min_size=1, max_size=20))
def test_retention_depends_on_the_sum_of_audio_only(half_life_s, steps):
    product = math.prod(momentum(half_life_s, audio) for audio in steps)
    assert product == pytest.approx(momentum(half_life_s, math.fsum(steps)), rel=1e-9, abs=1e-12)


def test_half_life_is_where_half_is_left():
    assert momentum(100.0, 100.0) == 0.5
    assert half_life(0.5, 7.0) == pytest.approx(7.0)
    assert half_life(0.9999, 1.0) == pytest.approx(6931, abs=0.5)


def test_the_ends_of_the_half_life():
    assert half_life(1.0, 60.0) == math.inf
    assert half_life(0.0, 60.0) == 0.0
    assert momentum(math.inf, 60.0) == 1.0
    assert momentum(60.0, 0.0) == 1.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_half_life_has_to_be_positive(value):
    with pytest.raises(ValueError, match="a half-life must be positive"):
        momentum(value, 1.0)


def test_a_step_cannot_give_audio_back():
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        momentum(1.0, -1.0)


# BatchNorm's momentum is the weight of the new batch.


@given(RHO, KAPPA)
def test_batch_norm_goes_by_the_scaling_rule(rho, kappa):
    assert 1.0 - scale_batch_norm_momentum(1.0 - rho, kappa) == pytest.approx(
        scale_momentum(rho, kappa), rel=1e-9, abs=1e-15
    )


@given(st.floats(1e-300, 0.3), st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_batch_norm_is_the_identity_at_1_composes_and_is_undone(m, k1, k2):
    assert scale_batch_norm_momentum(m, 1.0) == pytest.approx(m, rel=1e-15)
    scaled = scale_batch_norm_momentum(m, k1)
    assert scale_batch_norm_momentum(scaled, k2) == pytest.approx(
        scale_batch_norm_momentum(m, k1 * k2), rel=1e-9
    )
    assert scale_batch_norm_momentum(scaled, 1.0 / k1) == pytest.approx(m, rel=1e-9)


def test_a_small_batch_norm_momentum_keeps_its_digits():
    # (1 - 1e-18) is 1 in double precision.
    assert scale_batch_norm_momentum(1e-18, 8.0) == pytest.approx(8e-18, rel=1e-15)
    assert scale_batch_norm_momentum(1e-9, 3.0) == pytest.approx(3e-9 - 3e-18 + 1e-27, rel=1e-15)


def test_the_ends_of_batch_norms_momentum():
    assert scale_batch_norm_momentum(0.0, 8.0) == 0.0
    assert scale_batch_norm_momentum(1.0, 8.0) == 1.0
    assert scale_batch_norm_momentum(None, 8.0) is None


@pytest.mark.parametrize("kappa", [2, 8])
def test_running_statistics_are_the_same_after_the_same_data(kappa):
    reference, larger = torch.nn.BatchNorm1d(3).double(), torch.nn.BatchNorm1d(3).double()
    larger.momentum = scale_batch_norm_momentum(reference.momentum, kappa)
    x_BF = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(kappa):
        reference(x_BF)
    larger(x_BF)
    torch.testing.assert_close(larger.running_mean, reference.running_mean)
    torch.testing.assert_close(larger.running_var, reference.running_var)
    assert not torch.allclose(larger.running_mean, torch.nn.BatchNorm1d(3).running_mean.double())
