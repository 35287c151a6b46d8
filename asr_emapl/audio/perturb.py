"""Perturbation of the student's waveforms: speed, then reverberation, then noise.

The teacher gets the clean waveform. Perturbations are seeded by (seed of the run, utterance, pass). An
utterance therefore gets the same perturbation in any batch, on any rank, and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Protocol

import numpy as np
import torch
from annotated_types import Ge, Le, Len
from torch import Tensor

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import draw_seed
from asr_emapl.audio.decode import amplitude_fault, read_audio
from asr_emapl.audio.source import Source
from asr_emapl.errors import UserError
from asr_emapl.settings import Place, Share


@dataclass
class SpeedConfig:
    """Speed perturbation, drawn uniformly for each utterance and pass."""

    factors: list[Annotated[float, Ge(0.5), Le(2.0)]] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    """Speeds relative to the original."""


@dataclass
class ReverberationConfig:
    """Impulse responses, and the probability of applying one."""

    manifests: list[Place] = field(default_factory=list)
    """Manifests of impulse responses."""
    p: Share = 0.5
    """Probability that reverberation is applied to an utterance, drawn again in each pass."""


@dataclass
class NoiseConfig:
    """Additive noise."""

    manifests: list[Place] = field(default_factory=list)
    """Manifests of noise recordings."""
    p: Share = 0.5
    """Probability that noise is added to an utterance, drawn again in each pass."""
    snr_db: Annotated[list[Annotated[float, Ge(-100.0), Le(100.0)]], Len(2, 2)] = field(
        default_factory=lambda: [5.0, 20.0]
    )
    """Range of the signal-to-noise ratio in dB over the whole utterance, drawn uniformly."""


@dataclass
class PerturbConfig:
    """Perturbations of the student's waveform; null disables a perturbation."""

    speed: SpeedConfig | None = None
    """Speed perturbation; null: disabled."""
    reverberation: ReverberationConfig | None = None
    """Reverberation with recorded impulse responses; null: disabled."""
    noise: NoiseConfig | None = None
    """Added noise; null: disabled."""


class SoundSource(Protocol):
    """Location of a sound, for example an utterance of a manifest; offset and duration in seconds."""

    @property
    def source(self) -> Source: ...
    @property
    def offset(self) -> float: ...
    @property
    def duration(self) -> float: ...


class Speed:
    """Speed perturbation (Ko et al. 2015): plays an utterance faster or slower, which changes its pitch.

    A faster utterance has fewer frames for the same labels.

    Args:
        config: see `SpeedConfig`; factors are rounded to two decimal places.

    Raises:
        UserError: `factors` is empty.
    """

    def __init__(self, config: SpeedConfig) -> None:
        from torchaudio.transforms import Resample  # slow to import; only training needs it

        if not config.factors:
            raise UserError("perturb.speed.factors is empty; write for example [0.9, 1.0, 1.1]")
        self.factors = [Fraction(round(100 * factor), 100) for factor in config.factors]
        self._resample = {f: Resample(f.numerator, f.denominator) for f in self.factors if f != 1}

    def draw(self, seed: int) -> Fraction:
        """The speed factor of an utterance."""
        return self.factors[int(np.random.default_rng(seed).integers(len(self.factors)))]

    def samples(self, samples: int, factor: Fraction) -> int:
        """Maximum length in samples after the speed change; the result may be one sample shorter."""
        return math.ceil(samples / factor)

    def __call__(self, waveform: Tensor, factor: Fraction) -> Tensor:
        """The waveform [samples] at `factor` times its speed."""
        return waveform if factor == 1 else self._resample[factor](waveform)


class Reverberation:
    """Convolves utterances with the impulse responses of rooms.

    Raises:
        UserError: there are no impulse responses.
    """

    def __init__(self, config: ReverberationConfig, responses: Sequence[SoundSource]) -> None:
        if not responses:
            raise UserError("perturb.reverberation.manifests contain no impulse responses; add some")
        self.p, self.responses = config.p, responses

    def __call__(self, waveform: Tensor, seed: int) -> Tensor:
        """The waveform [samples] with reverberation, or unchanged; see `reverberate`.

        Raises:
            UserError: the impulse response cannot be decoded.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return waveform
        room = self.responses[int(rng.integers(len(self.responses)))]
        return reverberate(waveform, read_audio(room.source, offset=room.offset, duration=room.duration))


class Noise:
    """Adds recorded noise to utterances at a random signal-to-noise ratio.

    Raises:
        UserError: there are no recordings, or the lowest SNR is above the highest.
    """

    def __init__(self, config: NoiseConfig, recordings: Sequence[SoundSource]) -> None:
        if not recordings:
            raise UserError("perturb.noise.manifests contain no recordings; add some")
        lowest, highest = config.snr_db
        if lowest > highest:
            raise UserError(f"perturb.noise.snr_db: {lowest:g} is above {highest:g}; write [lowest, highest]")
        self.p, self.limits, self.recordings = config.p, (lowest, highest), recordings

    def __call__(self, waveform: Tensor, seed: int) -> Tensor:
        """The waveform [samples] with noise, or unchanged.

        Raises:
            UserError: the recording cannot be decoded.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return waveform
        recording = self.recordings[int(rng.integers(len(self.recordings)))]
        snr_db, start = rng.uniform(*self.limits), rng.random()
        noise = _excerpt(recording, len(waveform), start)
        power, noise_power = _power(waveform.numpy()), _power(noise.numpy())
        if power == 0.0 or noise_power == 0.0:
            return waveform
        return waveform + noise * (power / noise_power * 10.0 ** (-snr_db / 10.0)) ** 0.5


@dataclass(frozen=True)
class Perturbation:
    """The perturbations of `PerturbConfig` that a run uses."""

    speed: Speed | None = None
    reverberation: Reverberation | None = None
    noise: Noise | None = None

    def samples(self, samples: int, *draw: int | str) -> int:
        """Maximum length in samples of an utterance of `samples` samples after perturbation with `draw`."""
        if self.speed is None:
            return samples
        return self.speed.samples(samples, self.speed.draw(draw_seed(*draw, "speed")))

    def __call__(self, waveform: Tensor, *draw: int | str) -> Tensor:
        """The perturbed waveform [samples].

        Args:
            draw: seed of the run, utterance and pass, which identify the random draw.

        Raises:
            UserError: a noise recording or an impulse response cannot be decoded, or the result is not finite
                or too large, because a nearly silent recording was amplified too much.
        """
        if self.speed is not None:
            waveform = self.speed(waveform, self.speed.draw(draw_seed(*draw, "speed")))
        if self.reverberation is not None:
            waveform = self.reverberation(waveform, draw_seed(*draw, "reverberation"))
        if self.noise is not None:
            waveform = self.noise(waveform, draw_seed(*draw, "noise"))
        fault = amplitude_fault(waveform.numpy())
        if fault is not None:
            raise UserError(
                f"the perturbed waveform {fault} (remove nearly silent recordings from "
                "perturb.noise.manifests and perturb.reverberation.manifests)"
            )
        return waveform


def reverberate(waveform: Tensor, response: Tensor) -> Tensor:
    """The convolution [samples] with an impulse response [R], with the waveform's length and power.

    The response's strongest sample is taken as the direct path and moved to time 0, so that word times do not
    change. The tail after the end of the waveform is discarded.
    """
    direct = int(response.abs().argmax())
    size = len(waveform) + len(response) - 1
    padded = 1 << (size - 1).bit_length()  # powers of two are fast
    # Use numpy, because the last digit of torch's results depends on the number of threads.
    spectrum = np.fft.rfft(waveform.numpy(), padded) * np.fft.rfft(response.numpy(), padded)
    wet = np.fft.irfft(spectrum, padded)[direct : direct + len(waveform)]
    wet_power = _power(wet)
    if wet_power == 0.0:
        return waveform
    return torch.from_numpy(wet * (_power(waveform.numpy()) / wet_power) ** 0.5).to(waveform.dtype)


def _excerpt(recording: SoundSource, samples: int, start: float) -> Tensor:
    """Return an excerpt [samples] of a recording.

    `start` in [0, 1] selects its position. Short recordings are repeated.
    """
    seconds = samples / SAMPLE_RATE_HZ
    spare = recording.duration - seconds
    if spare > 0.0:
        noise = read_audio(recording.source, offset=recording.offset + start * spare, duration=seconds)
    else:
        noise = read_audio(recording.source, offset=recording.offset, duration=recording.duration)
        noise = noise.roll(-int(start * len(noise)))
    return noise.repeat(-(-samples // len(noise)))[:samples]


def _power(samples: np.ndarray) -> float:
    """Mean square. Computed in numpy, because torch's sums depend on the number of threads."""
    return float(np.square(samples, dtype=np.float64).mean())
