"""Add recorded noise to an utterance at a signal-to-noise ratio, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Le, Len
from torch import Tensor

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.source import Source
from asr_emapl.errors import UserError
from asr_emapl.settings import Share


@dataclass
class NoiseConfig:
    """Additive noise."""

    manifests: list[str] = field(default_factory=list)
    """Manifests of noise recordings."""
    p: Share = 0.5
    """Probability that noise is added to an utterance, drawn again in each pass."""
    snr_db: Annotated[list[Annotated[float, Ge(-100.0), Le(100.0)]], Len(2, 2)] = field(
        default_factory=lambda: [5.0, 20.0]
    )
    """Lowest and highest signal-to-noise ratio in dB over the whole utterance, drawn uniformly between."""


class SoundSource(Protocol):
    """Where a sound is found; a manifest's line is one. Offset and duration in seconds."""

    @property
    def source(self) -> Source: ...
    @property
    def offset(self) -> float: ...
    @property
    def duration(self) -> float: ...


class Noise:
    """Adds noise to utterances.

    Raises:
        UserError: no recordings, or the lowest SNR is above the highest.
    """

    def __init__(self, config: NoiseConfig, recordings: Sequence[SoundSource]) -> None:
        if not recordings:
            raise UserError("perturb.noise.manifests name no recording")
        lowest, highest = config.snr_db
        if lowest > highest:
            raise UserError(f"perturb.noise.snr_db: {lowest:g} is above {highest:g}; write [lowest, highest]")
        self.p, self.limits, self.recordings = config.p, (lowest, highest), recordings

    def __call__(self, waveform: Tensor, seed: int) -> Tensor:
        """The waveform [samples] with noise, or as it is.

        Raises:
            UserError: the recording cannot be decoded.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return waveform
        recording = self.recordings[int(rng.integers(len(self.recordings)))]
        snr_db, at = rng.uniform(self.limits[0], self.limits[1]), rng.random()
        noise = _stretch(recording, len(waveform), at)
        power, noise_power = mean_square(waveform), mean_square(noise)
        if power == 0.0 or noise_power == 0.0:
            return waveform
        return waveform + noise * (power / noise_power * 10.0 ** (-snr_db / 10.0)) ** 0.5


def _stretch(recording: SoundSource, samples: int, at: float) -> Tensor:
    """[samples] of a recording, of which the start is drawn: `at` from 0 to 1; a short one is repeated."""
    spare = recording.duration - samples / SAMPLE_RATE_HZ
    if spare > 0.0:
        seconds = samples / SAMPLE_RATE_HZ
        noise = read_audio(recording.source, offset=recording.offset + at * spare, duration=seconds)
    else:
        noise = read_audio(recording.source, offset=recording.offset, duration=recording.duration)
        noise = noise.roll(-int(at * len(noise)))
    return noise.repeat(-(-samples // len(noise)))[:samples]


def mean_square(waveform: Tensor) -> float:
    """The power of a waveform [samples], the same with any number of threads, which torch's sums are not."""
    return float(np.square(waveform.numpy(), dtype=np.float64).mean())
