"""Perturbations together: each in its order, each with a draw of its own."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from asr_emapl.audio.augment import draw_seed
from asr_emapl.audio.noise import Noise, NoiseConfig
from asr_emapl.audio.perturb import Perturbation
from asr_emapl.audio.reverberation import Reverberation, ReverberationConfig
from asr_emapl.audio.speed import Speed, SpeedConfig
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError

WAVEFORM = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(1600), 16_000)
    sound = [Utterance("sound", str(path), 0.1)]
    return Perturbation(
        Speed(SpeedConfig()),
        Reverberation(ReverberationConfig(p=1.0), sound),
        Noise(NoiseConfig(p=1.0), sound),
    )


def test_none_change_nothing():
    assert Perturbation()(WAVEFORM, 1, "a", 0) is WAVEFORM
    assert Perturbation().samples(4000, 1, "a", 0) == 4000


def test_speed_then_room_then_noise(whole):
    draw = (3, "a", 2)
    expected = whole.speed(WAVEFORM, whole.speed.draw(draw_seed(*draw, "speed")))
    expected = whole.reverberation(expected, draw_seed(*draw, "reverberation"))
    expected = whole.noise(expected, draw_seed(*draw, "noise"))
    assert torch.equal(whole(WAVEFORM, *draw), expected)


def test_seed_utterance_and_pass_name_the_draw(whole):
    outcomes = [whole(WAVEFORM, *draw) for draw in ((3, "a", 2), (4, "a", 2), (3, "b", 2), (3, "a", 3))]
    assert torch.equal(whole(WAVEFORM, 3, "a", 2), outcomes[0])
    assert len({tuple(out[:100].tolist()) for out in outcomes}) == 4


def test_the_planned_length_is_that_of_the_same_draw(whole):
    lengths = set()
    for epoch in range(20):
        planned = whole.samples(4000, 3, "a", epoch)
        assert planned - 1 <= len(whole(WAVEFORM, 3, "a", epoch)) <= planned
        lengths.add(planned)
    assert len(lengths) == 3


def test_a_recording_that_is_all_but_silent_is_refused_and_not_amplified_beyond_bounds(tmp_path):
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.full(1600, 1e-40), 16_000, subtype="FLOAT")
    silent = [Utterance("silent", str(path), 0.1)]
    perturbation = Perturbation(noise=Noise(NoiseConfig(p=1.0, snr_db=[-20.0, -20.0]), silent))
    with pytest.raises(UserError, match=r"perturbed waveform has NaN.*perturb\.noise\.manifests"):
        perturbation(WAVEFORM, 3, "a", 2)
