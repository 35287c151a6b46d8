"""Features of waveforms, on the training device. Axes: B utterances, N samples, T frames, F features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.settings import Place, Text


@dataclass
class FeatureConfig:
    """Features of the audio: log-mel filterbank by default."""

    mel_bands: Annotated[int, Ge(1), Le(4096)] = 80
    """Mel bands."""
    window_ms: Annotated[float, Ge(1.0), Le(1e4)] = 25.0
    """Window in milliseconds."""
    hop_ms: Annotated[float, Ge(1.0), Le(1e4)] = 10.0
    """Hop in milliseconds."""
    extractor: Text | None = None
    """log_mel, waveform, or the import path of a feature extractor, package.module:Class. null: what the
    model states in its attribute `input`, by default log_mel. Only log_mel uses the settings above."""
    weights: Place | None = None
    """File of weights, passed to the extractor as keyword argument `weights`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Other keyword arguments of the extractor's constructor."""


class FeatureExtractor(nn.Module):
    """Base class of what converts waveforms to the input of a model.

    The output must not depend on padding or on the other utterances in the batch, and is zero after each
    utterance's end. SpecAugment sets features to 0.

    Attributes:
        size: number of features per frame, F; None: the output is a waveform [B, N], and a frame is a sample.
        frame_seconds: audio per frame in seconds.
        given_options: options that it was built with, if the weights do not determine them.
    """

    size: int | None
    frame_seconds: float
    given_options: Mapping[str, Any] = MappingProxyType({})

    def frames(self, samples_B: Tensor) -> Tensor:
        """Samples at 16 kHz to feature frames, long [B]; at least one."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that identify the class, its options and its weights, for stored features."""
        digest = hashlib.sha256(repr((type(self).__qualname__, self.size, self.frame_seconds)).encode())
        if self.given_options:
            digest.update(json.dumps(dict(self.given_options), sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]

    def forward(self, waveforms_BN: Tensor, samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N] float32 and [B] long -> features [B, T, F] float32 and lengths [B] long, in frames."""
        raise NotImplementedError


@dataclass(frozen=True)
class FrameCount:
    """Converts samples to frames of `LogMel`, without importing torchaudio."""

    window: int
    hop: int

    @staticmethod
    def of(config: FeatureConfig) -> FrameCount:
        """Create from a config with window and hop in milliseconds."""
        return FrameCount(
            round(SAMPLE_RATE_HZ * config.window_ms / 1000), round(SAMPLE_RATE_HZ * config.hop_ms / 1000)
        )

    def __call__(self, samples_B: Tensor) -> Tensor:
        """See `FeatureExtractor.frames`."""
        return torch.clamp((samples_B - self.window) // self.hop + 1, min=1)


class LogMel(FeatureExtractor):
    """Log-mel features of waveforms, normalised per utterance and band to mean 0 and variance 1.

    The output does not depend on padding or on the other utterances in the batch.

    These are not Kaldi's fbank features: the mel scale and the filters use Slaney's mel scale and area
    normalisation, the window is a Hann window, and there is no pre-emphasis, dither or mean removal per
    frame. They do not fit models trained on Kaldi's features.
    """

    def __init__(self, config: FeatureConfig | None = None) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram  # slow to import; only training needs it

        config = config or FeatureConfig()
        self.count = FrameCount.of(config)
        self.window, self.hop = self.count.window, self.count.hop
        self.size = config.mel_bands
        self.frame_seconds = self.hop / SAMPLE_RATE_HZ
        self.mel = MelSpectrogram(
            SAMPLE_RATE_HZ,
            n_fft=self.window,
            hop_length=self.hop,
            f_min=20.0,
            n_mels=config.mel_bands,
            center=False,
            norm="slaney",
            mel_scale="slaney",
        )

    def frames(self, samples_B: Tensor) -> Tensor:
        """See `FeatureExtractor.frames`."""
        return self.count(samples_B)

    @torch.no_grad()
    def forward(self, waveforms_BN: Tensor, samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, T, F] float32, zero after each utterance's end, and their lengths [B] in frames."""
        short = self.window - waveforms_BN.shape[1]
        if short > 0:
            waveforms_BN = nn.functional.pad(waveforms_BN, (0, short))
        lengths_B = self.frames(samples_B)
        if waveforms_BN.device.type != "cpu" or torch.compiler.is_exporting():
            return self._features(waveforms_BN, lengths_B), lengths_B
        # On a CPU, processing two utterances at a time fits in cache and takes a third of the time.
        parts = zip(waveforms_BN.split(2), lengths_B.split(2), strict=True)
        return torch.cat([self._features(*part) for part in parts]), lengths_B

    def _features(self, waveforms_BN: Tensor, lengths_B: Tensor) -> Tensor:
        with torch.autocast(waveforms_BN.device.type, enabled=False):
            log_BTF = torch.log(self._mel(waveforms_BN.float()) + 1e-8)
        valid_BT1 = (
            torch.arange(log_BTF.shape[1], device=log_BTF.device)[None, :, None] < lengths_B[:, None, None]
        )
        return _normalise(log_BTF, valid_BT1, lengths_B)

    def _mel(self, waveforms_BN: Tensor) -> Tensor:
        """The output of `self.mel` as [B, T, F], in half the time on a CPU.

        Skips the square root and subsequent squaring, and avoids transposing the frames.
        """
        spectrum_BKT = torch.stft(
            waveforms_BN,
            self.window,
            self.hop,
            window=self.mel.spectrogram.window,
            center=False,
            return_complex=True,
        )
        real_BTK, imaginary_BTK = torch.view_as_real(spectrum_BKT.transpose(1, 2)).unbind(-1)
        return (real_BTK.square() + imaginary_BTK.square()) @ self.mel.mel_scale.fb


class Waveform(FeatureExtractor):
    """The waveform itself, for models that compute their own features, such as wav2vec 2.0."""

    size = None
    frame_seconds = 1.0 / SAMPLE_RATE_HZ

    def frames(self, samples_B: Tensor) -> Tensor:
        """See `FeatureExtractor.frames`."""
        return samples_B

    def forward(self, waveforms_BN: Tensor, samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """The input, float32 [B, N], and its lengths."""
        return waveforms_BN.float(), samples_B


def _normalise(log_BTF: Tensor, valid_BT1: Tensor, lengths_B: Tensor) -> Tensor:
    count_B11 = lengths_B[:, None, None]
    mean_B1F = (log_BTF * valid_BT1).sum(1, keepdim=True) / count_B11
    centred_BTF = (log_BTF - mean_B1F) * valid_BT1
    variance_B1F = centred_BTF.square().sum(1, keepdim=True) / count_B11
    return centred_BTF * torch.rsqrt(variance_B1F + 1e-5)
