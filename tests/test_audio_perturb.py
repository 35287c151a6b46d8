"""Perturbations of waveforms: speed, reverberation, noise, and all of them together."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_emapl.audio.augment import draw_seed
from asr_emapl.audio.perturb import (
    Noise,
    NoiseConfig,
    Perturbation,
    Reverberation,
    ReverberationConfig,
    Speed,
    SpeedConfig,
    reverberate,
)
from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError


@pytest.fixture
def ramp(tmp_path: Path) -> Utterance:
    """3 s of distinct samples, up to a tenth of full scale."""
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.linspace(0.01, 0.1, 48_000), 16_000, subtype="FLOAT")
    return Utterance("ramp", str(path), 3.0)


def speech(samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))


def snr_db(clean: torch.Tensor, noisy: torch.Tensor) -> float:
    return 10.0 * math.log10(clean.square().mean() / (noisy - clean).square().mean())


@pytest.mark.parametrize("samples", [1, 1000, 47_999, 48_000, 48_001, 200_000])
def test_snr_is_the_configured_one(ramp, samples):
    noise = Noise(NoiseConfig(p=1.0, snr_db=[7.0, 7.0]), [ramp])
    noisy = noise(speech(samples), 3)
    assert noisy.shape == (samples,)
    assert snr_db(speech(samples), noisy) == pytest.approx(7.0, abs=0.01)


def test_snrs_fill_their_range(ramp):
    noise = Noise(NoiseConfig(p=1.0, snr_db=[5.0, 20.0]), [ramp])
    ratios = [snr_db(speech(1000), noise(speech(1000), seed)) for seed in range(200)]
    assert 4.99 < min(ratios) < 6.0
    assert 19.0 < max(ratios) < 20.01


def test_p_is_the_fraction_of_utterances_with_noise(ramp):
    def changed(p: float) -> int:
        noise = Noise(NoiseConfig(p=p), [ramp])
        return sum(noise(waveform, seed) is not waveform for seed in range(300))

    waveform = speech(100)
    assert changed(0.0) == 0
    assert changed(1.0) == 300
    assert 90 < changed(0.4) < 150


def test_an_excerpt_of_a_long_recording_starts_anywhere(ramp):
    """The slope of the ramp shows that it is one excerpt, its height where it begins."""
    waveform, starts = torch.full((8_000,), 0.1), []
    for seed in range(40):
        added = Noise(NoiseConfig(p=1.0), [ramp])(waveform, seed) - waveform
        assert (added.diff() > -1e-6).all()
        starts.append(float(added[0] / added[-1]))
    assert min(starts) < 0.5
    assert max(starts) > 0.75


def test_a_short_recording_is_repeated_from_a_random_place(ramp):
    short = Utterance("short", ramp.audio, 0.5, offset=1.0)
    waveform, first = torch.full((20_000,), 0.1), set()
    for seed in range(10):
        added = Noise(NoiseConfig(p=1.0), [short])(waveform, seed) - waveform
        torch.testing.assert_close(added[:8_000], added[8_000:16_000])
        assert (added.diff() < -1e-3 * added.max()).sum() >= 2  # back to the start of the ramp
        first.add(int((added[:8_000]).argmin()))
    assert len(first) > 5


def test_the_draw_depends_on_the_seed_only(ramp):
    noise = Noise(NoiseConfig(p=1.0), [ramp])
    torch.manual_seed(1)
    one = noise(speech(5000), 9)
    torch.manual_seed(2)
    assert torch.equal(noise(speech(5000), 9), one)
    assert not torch.equal(noise(speech(5000), 10), one)


def test_silence_is_not_changed(tmp_path, ramp):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(1600), 16_000)
    quiet = Noise(NoiseConfig(p=1.0), [Utterance("silence", str(path), 0.1)])
    assert torch.equal(quiet(speech(100), 0), speech(100))
    assert not Noise(NoiseConfig(p=1.0), [ramp])(torch.zeros(100), 0).any()


def test_a_missing_recording_is_named(tmp_path):
    noise = Noise(NoiseConfig(p=1.0), [Utterance("gone", str(tmp_path / "gone.wav"), 1.0)])
    with pytest.raises(UserError, match=r"gone\.wav"):
        noise(speech(100), 0)


def test_the_lowest_ratio_comes_first(ramp):
    with pytest.raises(UserError, match="snr_db"):
        Noise(NoiseConfig(snr_db=[20.0, 5.0]), [ramp])


def test_noise_needs_recordings():
    with pytest.raises(UserError, match="manifests"):
        Noise(NoiseConfig(), [])


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


def test_factors_are_drawn_uniformly_from_the_seed():
    speed = Speed(SpeedConfig())
    drawn = [speed.draw(seed) for seed in range(3000)]
    assert drawn == [speed.draw(seed) for seed in range(3000)]
    for factor in (Fraction(9, 10), Fraction(1), Fraction(11, 10)):
        assert 900 < drawn.count(factor) < 1100


def test_speed_needs_factors():
    with pytest.raises(UserError, match=r"perturb\.speed\.factors"):
        Speed(SpeedConfig([]))


def room(before: int, after: int) -> torch.Tensor:
    """An impulse response with its direct path after `before` samples of noise."""
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


def test_power_and_times_are_kept():
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


def test_p_and_choice_depend_on_the_seed_only(rooms):
    waveform = speech(1000)
    outcomes = [Reverberation(ReverberationConfig(p=0.5), rooms)(waveform, seed) for seed in range(200)]
    assert 70 < sum(out is waveform for out in outcomes) < 130
    assert len({tuple(out.tolist()) for out in outcomes}) == 3
    again = [Reverberation(ReverberationConfig(p=0.5), rooms)(waveform, seed) for seed in range(200)]
    assert all(map(torch.equal, outcomes, again))


def test_reverberation_needs_responses(rooms):
    with pytest.raises(UserError, match="manifests"):
        Reverberation(ReverberationConfig(), [])


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


def test_seed_utterance_and_pass_identify_the_draw(whole):
    outcomes = [whole(WAVEFORM, *draw) for draw in ((3, "a", 2), (4, "a", 2), (3, "b", 2), (3, "a", 3))]
    assert torch.equal(whole(WAVEFORM, 3, "a", 2), outcomes[0])
    assert len({tuple(out[:100].tolist()) for out in outcomes}) == 4


def test_planned_length_is_for_the_same_draw(whole):
    lengths = set()
    for epoch in range(20):
        planned = whole.samples(4000, 3, "a", epoch)
        assert planned - 1 <= len(whole(WAVEFORM, 3, "a", epoch)) <= planned
        lengths.add(planned)
    assert len(lengths) == 3


def test_nearly_silent_recordings_are_refused_instead_of_amplified(tmp_path):
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.full(1600, 1e-40), 16_000, subtype="FLOAT")
    silent = [Utterance("silent", str(path), 0.1)]
    perturbation = Perturbation(noise=Noise(NoiseConfig(p=1.0, snr_db=[-20.0, -20.0]), silent))
    with pytest.raises(UserError, match=r"perturbed waveform has NaN.*perturb\.noise\.manifests"):
        perturbation(WAVEFORM, 3, "a", 2)
