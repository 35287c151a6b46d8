"""Log-mel features: framing, independence of the batch, agreement with a plain reference, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from asr_emapl.audio.features import FeatureConfig, FrameCount, LogMel

EDGES = [1, 159, 160, 399, 400, 401, 559, 560, 561, 719, 720, 721, 16_000]


def noise(samples: int, seed: int = 0) -> Tensor:
    """Noise with a tone, louder towards the end."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / 16_000
    return (0.1 + time) * (
        0.1 * torch.randn(samples, generator=generator) + torch.sin(2 * math.pi * 440.0 * time)
    )


def batch(waveforms: list[Tensor], padding: float = 0.0) -> tuple[Tensor, Tensor]:
    """[B, N] and lengths, noise of size `padding` beyond each end."""
    longest = max(map(len, waveforms))
    rows = [torch.cat([w, padding * torch.randn(longest - len(w))]) for w in waveforms]
    return torch.stack(rows), torch.tensor([len(w) for w in waveforms])


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel()


@pytest.mark.parametrize("padding", [0.0, 3.0])
def test_batch_and_padding_change_nothing(log_mel: LogMel, padding: float) -> None:
    waveforms = [noise(n, seed) for seed, n in enumerate([16_000, 12_345, 9_999, 400, 561])]
    together, lengths = log_mel(*batch(waveforms, padding))
    for i, waveform in enumerate(waveforms):
        alone, length = log_mel(waveform[None], torch.tensor([len(waveform)]))
        assert length[0] == lengths[i] == alone.shape[1]
        torch.testing.assert_close(together[i, : lengths[i]], alone[0], atol=2e-5, rtol=0.0)
        assert not together[i, lengths[i] :].any()


def test_padding_of_an_utterance_shorter_than_a_window(log_mel: LogMel) -> None:
    """Its one frame is its own mean, so samples after its end have no effect."""
    features, lengths = log_mel(*batch([noise(4_000), noise(250, seed=1)], padding=3.0))
    assert lengths[1] == 1
    assert not features[1].any()


@pytest.mark.parametrize("config", [FeatureConfig(), FeatureConfig(window_ms=20.0, hop_ms=5.0)])
def test_frame_count_is_the_real_one(config: FeatureConfig) -> None:
    count, log_mel = FrameCount.of(config), LogMel(config)
    for samples in EDGES:
        features, lengths = log_mel(noise(samples)[None], torch.tensor([samples]))
        assert count(torch.tensor([samples])).item() == lengths.item() == features.shape[1]
    assert log_mel.frames(torch.tensor(EDGES)).equal(count(torch.tensor(EDGES)))


def test_frame_count_by_hand() -> None:
    count = FrameCount.of(FeatureConfig())
    assert (count.window, count.hop) == (400, 160)
    assert count(torch.tensor([1, 400, 559, 560, 16_000])).tolist() == [1, 1, 1, 2, 98]


def reference(waveform: Tensor, bands: int) -> Tensor:
    """[T, F] in float64, frame by frame and band by band, from the definitions."""
    x = waveform.double().numpy()
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)])
    low, high = slaney_mel(20.0), slaney_mel(8_000.0)
    edges = [slaney_hz(low + (high - low) * i / (bands + 1)) for i in range(bands + 2)]
    frequencies = np.arange(201) * 40.0
    rows = []
    for start in range(0, len(x) - 400 + 1, 160):
        power = np.abs(np.fft.rfft(x[start : start + 400] * window)) ** 2
        row = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            rising = (frequencies - left) / (centre - left)
            falling = (right - frequencies) / (right - centre)
            weights = np.clip(np.minimum(rising, falling), 0.0, None) * 2.0 / (right - left)
            row.append(math.log(power @ weights + 1e-8))
        rows.append(row)
    log_TF = np.array(rows)
    centred_TF = log_TF - log_TF.mean(0)
    return torch.from_numpy(centred_TF / np.sqrt((centred_TF**2).mean(0) + 1e-5))


def slaney_mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1_000 else 15 + 27 * math.log(hertz / 1_000) / math.log(6.4)


def slaney_hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1_000 * 6.4 ** ((mel - 15) / 27)


@pytest.mark.parametrize("bands", [40, 80])
def test_against_a_plain_reference(bands: int) -> None:
    waveform = noise(8_123)
    features, _ = LogMel(FeatureConfig(mel_bands=bands))(waveform[None], torch.tensor([8_123]))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features[0].double(), reference(waveform, bands), atol=5e-3, rtol=0.0)


def test_mean_zero_and_variance_one(log_mel: LogMel) -> None:
    waveforms = [noise(16_000), noise(7_000, seed=1)]
    features, lengths = log_mel(*batch(waveforms))
    for row, length in zip(features.double(), lengths, strict=True):
        torch.testing.assert_close(row[:length].mean(0), torch.zeros(80).double(), atol=1e-5, rtol=0.0)
        torch.testing.assert_close(
            row[:length].var(0, correction=0), torch.ones(80).double(), atol=1e-3, rtol=0.0
        )


def test_loudness_does_not_matter(log_mel: LogMel) -> None:
    samples = torch.tensor([8_000])
    quiet, loud = (log_mel(gain * noise(8_000)[None], samples)[0] for gain in (0.3, 1.0))
    torch.testing.assert_close(quiet, loud, atol=1e-2, rtol=0.0)


@pytest.mark.parametrize("waveform", [torch.zeros(8_000), torch.full((8_000,), 0.5), noise(399), noise(1)])
def test_silence_and_short_audio_are_finite(log_mel: LogMel, waveform: Tensor) -> None:
    features, lengths = log_mel(waveform[None], torch.tensor([len(waveform)]))
    assert features.isfinite().all()
    assert features.abs().max() < 100.0
    assert features.shape == (1, int(lengths), 80)


def test_silence_in_the_middle_is_finite(log_mel: LogMel) -> None:
    waveform = noise(16_000)
    waveform[4_000:12_000] = 0.0
    features, _ = log_mel(waveform[None], torch.tensor([16_000]))
    assert features.isfinite().all()


def test_autocast_does_not_reach_the_features(log_mel: LogMel) -> None:
    waveform, samples = noise(8_000)[None], torch.tensor([8_000])
    plain, _ = log_mel(waveform, samples)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = log_mel(waveform, samples)
    assert rounded.dtype == torch.float32
    assert torch.equal(plain, rounded)


def test_no_gradient_and_no_parameters(log_mel: LogMel) -> None:
    features, _ = log_mel(noise(800)[None].requires_grad_(), torch.tensor([800]))
    assert not features.requires_grad
    assert list(log_mel.parameters()) == []
