"""Features that encoders of Hugging Face transformers were trained on, independent of padding.

Axes: B utterances, N samples, T frames, W samples of a window, K frequencies, F features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.models.valid_frames import valid

_WINDOW, _HOP, _FFT = 400, 160, 512
_PREEMPHASIS = 0.97


class StackedFbank(FeatureExtractor):
    """Kaldi's filterbank, normalised per band and utterance, two frames stacked: features of wav2vec2-bert.

    As transformers' SeamlessM4TFeatureExtractor, without its rounding to float64.
    """

    frame_seconds = 2 * _HOP / SAMPLE_RATE_HZ
    bank: Tensor
    window: Tensor

    def __init__(self, mel_bands: int = 80) -> None:
        super().__init__()
        from torchaudio.compliance.kaldi import get_mel_banks

        self.size = 2 * mel_bands
        bank, _ = get_mel_banks(mel_bands, _FFT, float(SAMPLE_RATE_HZ), 20.0, 0.0, 100.0, -500.0, 1.0)
        self.register_buffer("bank", F.pad(bank, (0, 1)).T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(_WINDOW, False).pow(0.85), persistent=False)

    def frames(self, samples_B: Tensor) -> Tensor:
        """See `FeatureExtractor.frames`."""
        return torch.clamp(self._unstacked(samples_B) // 2, min=1)

    def _unstacked(self, samples_B: Tensor) -> Tensor:
        return (samples_B - _WINDOW) // _HOP + 1

    @torch.no_grad()
    def forward(self, waveforms_BN: Tensor, samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureExtractor.forward`."""
        most = _WINDOW + _HOP  # two frames
        waveforms_BN = F.pad(waveforms_BN.float(), (0, max(0, most - waveforms_BN.shape[1])))
        with torch.autocast(waveforms_BN.device.type, enabled=False):
            frames_BTW = 2.0**15 * waveforms_BN.unfold(1, _WINDOW, _HOP)
            frames_BTW = frames_BTW - frames_BTW.mean(-1, keepdim=True)
            before_BTW = F.pad(frames_BTW, (1, 0), mode="replicate")[..., :-1]
            spectrum_BTK = torch.fft.rfft((frames_BTW - _PREEMPHASIS * before_BTW) * self.window, _FFT)
            log_BTF = (
                (spectrum_BTK.abs().square() @ self.bank).clamp(min=torch.finfo(torch.float32).eps).log()
            )
        counts_B = torch.clamp(self._unstacked(samples_B), min=2)
        log_BTF = _normalised(log_BTF, counts_B, lambda variance: (variance + 1e-7).sqrt())
        log_BTF = log_BTF[:, : log_BTF.shape[1] // 2 * 2]
        lengths_B = self.frames(samples_B)
        stacked_BTF = log_BTF.unflatten(1, (-1, 2)).flatten(2)
        return stacked_BTF * valid(stacked_BTF, lengths_B, 1), lengths_B


class ParakeetLogMel(FeatureExtractor):
    """Log-mel features of NVIDIA's Parakeet: pre-emphasis, and normalisation per band and utterance.

    As transformers' ParakeetFeatureExtractor.
    """

    frame_seconds = _HOP / SAMPLE_RATE_HZ
    bank: Tensor
    window: Tensor

    def __init__(self, mel_bands: int = 80) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.size = mel_bands
        bank = melscale_fbanks(_FFT // 2 + 1, 0.0, 8000.0, mel_bands, SAMPLE_RATE_HZ, "slaney", "slaney")
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("window", torch.hann_window(_WINDOW, False), persistent=False)

    def frames(self, samples_B: Tensor) -> Tensor:
        """See `FeatureExtractor.frames`."""
        return torch.clamp(samples_B // _HOP, min=1)

    @torch.no_grad()
    def forward(self, waveforms_BN: Tensor, samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureExtractor.forward`."""
        lengths_B, waveforms_BN = self.frames(samples_B), waveforms_BN.float()
        audio_BN = waveforms_BN * valid(waveforms_BN, samples_B, 1)
        audio_BN = (audio_BN - _PREEMPHASIS * F.pad(audio_BN, (1, 0))[:, :-1]) * valid(audio_BN, samples_B, 1)
        with torch.autocast(audio_BN.device.type, enabled=False):
            spectrum_BKT = torch.stft(
                audio_BN, _FFT, _HOP, _WINDOW, self.window, pad_mode="constant", return_complex=True
            )
            log_BTF = (spectrum_BKT.abs().square().mT @ self.bank + 2.0**-24).log()
        log_BTF = log_BTF[:, : max(1, waveforms_BN.shape[1] // _HOP)]
        return _normalised(log_BTF, lengths_B, lambda variance: variance.sqrt() + 1e-5), lengths_B


def _normalised(x_BTF: Tensor, lengths_B: Tensor, scale: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean 0 of each band over the valid frames, divided by `scale` of the variance; 0 after the end."""
    valid_BT1, count_B11 = valid(x_BTF, lengths_B, 1), lengths_B[:, None, None]
    mean_B1F = (x_BTF * valid_BT1).sum(1, keepdim=True) / count_B11
    centred_BTF = (x_BTF - mean_B1F) * valid_BT1
    variance_B1F = centred_BTF.square().sum(1, keepdim=True) / torch.clamp(count_B11 - 1, min=1)
    return centred_BTF / scale(variance_B1F)
