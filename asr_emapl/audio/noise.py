"""Noise from recordings, added to an utterance at a signal-to-noise ratio; drawn by a seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.source import Source
from asr_emapl.errors import UserError


@dataclass
class NoiseConfig:
    """Which noise is added to how many utterances, and how loud."""

    manifests: list[str] = field(default_factory=list)
    # Share of the utterances that get noise, drawn anew in each pass.
    share: float = field(default=0.5, metadata={"least": 0.0, "most": 1.0})
    # Least and greatest signal-to-noise ratio in dB, over the whole utterance; drawn evenly between.
    snr_db: list[float] = field(
        default_factory=lambda: [5.0, 20.0], metadata={"least": -100.0, "most": 100.0}
    )


class Recording(Protocol):
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
        UserError: no recordings, a share outside 0 to 1, or an SNR range that is none.
    """

    def __init__(self, config: NoiseConfig, recordings: Sequence[Recording]) -> None:
        if not recordings:
            raise UserError("perturb.noise.manifests name no recording")
        if not 0.0 <= config.share <= 1.0:
            raise UserError(f"perturb.noise.share: {config.share} does not lie between 0 and 1")
        limits = list(config.snr_db)
        if len(limits) != 2 or not -100.0 <= limits[0] <= limits[1] <= 100.0:
            raise UserError(f"perturb.noise.snr_db {limits}: give the least and the greatest, as in [5, 20]")
        self.share, self.limits, self.recordings = config.share, limits, recordings

    def __call__(self, waveform: Tensor, seed: int) -> Tensor:
        """The waveform [samples] with noise, or as it is.

        Raises:
            UserError: the recording cannot be decoded.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.share:
            return waveform
        recording = self.recordings[int(rng.integers(len(self.recordings)))]
        snr_db, at = rng.uniform(self.limits[0], self.limits[1]), rng.random()
        noise = _stretch(recording, len(waveform), at)
        power, noise_power = mean_square(waveform), mean_square(noise)
        if power == 0.0 or noise_power == 0.0:
            return waveform
        return waveform + noise * (power / noise_power * 10.0 ** (-snr_db / 10.0)) ** 0.5


def _stretch(recording: Recording, samples: int, at: float) -> Tensor:
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
