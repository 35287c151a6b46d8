"""Noise: the SNR that was asked for, stretches of long and short recordings, draws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_emapl.audio.noise import Noise, NoiseConfig
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError


@pytest.fixture
def ramp(tmp_path: Path) -> Utterance:
    """3 s in which no two samples are alike, at a tenth of full scale."""
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.linspace(0.01, 0.1, 48_000), 16_000, subtype="FLOAT")
    return Utterance("ramp", str(path), 3.0)


def speech(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))


def snr_db(clean: torch.Tensor, noisy: torch.Tensor) -> float:
    return 10.0 * math.log10(clean.square().mean() / (noisy - clean).square().mean())


@pytest.mark.parametrize("samples", [1, 1000, 47_999, 48_000, 48_001, 200_000])
def test_the_ratio_is_the_one_asked_for(ramp, samples):
    noise = Noise(NoiseConfig(p=1.0, snr_db=[7.0, 7.0]), [ramp])
    noisy = noise(speech(samples), 3)
    assert noisy.shape == (samples,)
    assert snr_db(speech(samples), noisy) == pytest.approx(7.0, abs=0.01)


def test_ratios_fill_their_range_and_no_more(ramp):
    noise = Noise(NoiseConfig(p=1.0, snr_db=[5.0, 20.0]), [ramp])
    ratios = [snr_db(speech(1000), noise(speech(1000), seed)) for seed in range(200)]
    assert 4.99 < min(ratios) < 6.0
    assert 19.0 < max(ratios) < 20.01


def test_the_share_of_utterances_that_get_noise(ramp):
    def changed(share: float) -> int:
        noise = Noise(NoiseConfig(p=share), [ramp])
        return sum(noise(waveform, seed) is not waveform for seed in range(300))

    waveform = speech(100)
    assert changed(0.0) == 0
    assert changed(1.0) == 300
    assert 90 < changed(0.4) < 150


def test_a_stretch_of_a_long_recording_starts_anywhere(ramp):
    """The ramp's slope shows that it is one stretch; its height, where it begins."""
    waveform, starts = torch.full((8_000,), 0.1), []
    for seed in range(40):
        added = Noise(NoiseConfig(p=1.0), [ramp])(waveform, seed) - waveform
        assert (added.diff() > -1e-6).all()
        starts.append(float(added[0] / added[-1]))
    assert min(starts) < 0.5
    assert max(starts) > 0.75


def test_a_short_recording_is_repeated_from_a_drawn_place(ramp):
    short = Utterance("short", ramp.audio, 0.5, offset=1.0)
    waveform, first = torch.full((20_000,), 0.1), set()
    for seed in range(10):
        added = Noise(NoiseConfig(p=1.0), [short])(waveform, seed) - waveform
        torch.testing.assert_close(added[:8_000], added[8_000:16_000])
        assert (added.diff() < -1e-3 * added.max()).sum() >= 2  # back to the start of the ramp
        first.add(int((added[:8_000]).argmin()))
    assert len(first) > 5


def test_the_draw_is_the_seeds_alone(ramp):
    noise = Noise(NoiseConfig(p=1.0), [ramp])
    torch.manual_seed(1)
    one = noise(speech(5000), 9)
    torch.manual_seed(2)
    assert torch.equal(noise(speech(5000), 9), one)
    assert not torch.equal(noise(speech(5000), 10), one)


def test_silence_stays_as_it_is(tmp_path, ramp):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(1600), 16_000)
    quiet = Noise(NoiseConfig(p=1.0), [Utterance("silence", str(path), 0.1)])
    assert torch.equal(quiet(speech(100), 0), speech(100))
    assert not Noise(NoiseConfig(p=1.0), [ramp])(torch.zeros(100), 0).any()


def test_a_recording_that_is_gone_is_named(tmp_path):
    noise = Noise(NoiseConfig(p=1.0), [Utterance("gone", str(tmp_path / "gone.wav"), 1.0)])
    with pytest.raises(UserError, match=r"gone\.wav"):
        noise(speech(100), 0)


def test_the_lowest_ratio_comes_first(ramp):
    with pytest.raises(UserError, match="snr_db"):
        Noise(NoiseConfig(snr_db=[20.0, 5.0]), [ramp])


def test_no_recordings():
    with pytest.raises(UserError, match="manifests"):
        Noise(NoiseConfig(), [])
