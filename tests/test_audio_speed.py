"""Speed perturbation: lengths, pitch, draws."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.audio.speed import Speed, SpeedConfig
from asr_emapl.errors import UserError


def tone(samples: int, hertz: float) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(samples) / 16_000)


def peak_hz(waveform: torch.Tensor) -> float:
    return float(torch.fft.rfft(waveform).abs().argmax()) * 16_000 / len(waveform)


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.5, 2.0, 1.03])
def test_a_faster_utterance_is_shorter_and_higher_and_as_loud(factor):
    speed = Speed(SpeedConfig([factor]))
    waveform = tone(32_000, 400.0)
    faster = speed(waveform, speed.draw(0))
    assert len(faster) == pytest.approx(32_000 / factor, abs=1)
    assert peak_hz(faster) == pytest.approx(400.0 * factor, abs=1.0)
    assert faster.square().mean() == pytest.approx(waveform.square().mean().item(), rel=0.01)


@settings(max_examples=60)
@given(st.integers(1, 600_000), st.sampled_from([0.9, 1.0, 1.1, 0.97, 1.33]))
def test_the_planned_length_is_never_too_short(samples, factor):
    speed = Speed(SpeedConfig([factor]))
    planned = speed.samples(samples, speed.draw(0))
    assert planned - 1 <= len(speed(torch.zeros(samples), speed.draw(0))) <= planned


def test_a_factor_of_one_changes_nothing():
    speed = Speed(SpeedConfig([1.0]))
    waveform = tone(1000, 400.0)
    assert speed(waveform, speed.draw(3)) is waveform
    assert speed.samples(1000, speed.draw(3)) == 1000


def test_factors_are_drawn_evenly_and_by_the_seed_alone():
    speed = Speed(SpeedConfig())
    drawn = [speed.draw(seed) for seed in range(3000)]
    assert drawn == [speed.draw(seed) for seed in range(3000)]
    for factor in (Fraction(9, 10), Fraction(1), Fraction(11, 10)):
        assert 900 < drawn.count(factor) < 1100


def test_without_factors():
    with pytest.raises(UserError, match=r"perturb\.speed\.factors"):
        Speed(SpeedConfig([]))
