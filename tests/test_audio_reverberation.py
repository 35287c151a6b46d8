"""Reverberation: against a plain convolution, in time, as loud as before, draws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_emapl.audio.reverberation import Reverberation, ReverberationConfig, reverberate
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError


def speech(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))


def room(before: int, after: int) -> torch.Tensor:
    """An impulse response whose direct path comes after `before` samples of noise."""
    tail = torch.randn(after, generator=torch.Generator().manual_seed(1))
    head = 0.01 * torch.randn(before, generator=torch.Generator().manual_seed(2))
    return torch.cat([head, torch.ones(1), 0.3 * tail * torch.exp(-torch.arange(after) / 300.0)])


@pytest.mark.parametrize(
    ("samples", "before", "after"), [(1, 0, 0), (1, 5, 9), (700, 40, 2000), (3000, 0, 90)]
)
def test_is_the_convolution_cut_at_the_direct_path(samples, before, after):
    waveform, response = speech(samples).double(), room(before, after).double()
    direct = int(response.abs().argmax())
    full = np.convolve(waveform.numpy(), response.numpy())[direct : direct + samples]
    expected = full * math.sqrt(float(waveform.square().sum()) / float((full**2).sum()))
    np.testing.assert_allclose(reverberate(waveform, response).numpy(), expected, atol=1e-12)


def test_energy_is_kept_and_no_word_moves():
    wet = reverberate(speech(16_000), room(200, 4000))
    assert wet.square().sum() == pytest.approx(speech(16_000).square().sum().item(), rel=1e-4)
    click = torch.zeros(8000)
    click[5000] = 1.0
    assert int(reverberate(click, room(200, 4000)).abs().argmax()) == 5000


@pytest.mark.parametrize("response", [torch.zeros(50), torch.tensor([0.0, 1.0]), torch.tensor([-2.0])])
def test_trivial_rooms(response):
    """Nothing, a pure delay, a gain with the other sign."""
    sign = -1.0 if response[0] < 0 else 1.0
    torch.testing.assert_close(reverberate(speech(300), response), sign * speech(300), atol=1e-6, rtol=0.0)


def test_silence_stays_silence():
    assert not reverberate(torch.zeros(100), room(3, 30)).any()


@pytest.fixture
def rooms(tmp_path: Path) -> list[Utterance]:
    made = []
    for i, after in enumerate((500, 900)):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, room(10 * i, after).numpy(), 16_000, subtype="FLOAT")
        made.append(Utterance(str(i), str(path), soundfile.info(path).frames / 16_000))
    return made


def test_share_and_choice_are_the_seeds_alone(rooms):
    waveform = speech(1000)
    outcomes = [Reverberation(ReverberationConfig(p=0.5), rooms)(waveform, seed) for seed in range(200)]
    assert 70 < sum(out is waveform for out in outcomes) < 130
    assert len({tuple(out.tolist()) for out in outcomes}) == 3
    again = [Reverberation(ReverberationConfig(p=0.5), rooms)(waveform, seed) for seed in range(200)]
    assert all(map(torch.equal, outcomes, again))


def test_settings_that_are_none(rooms):
    with pytest.raises(UserError, match="manifests"):
        Reverberation(ReverberationConfig(), [])
