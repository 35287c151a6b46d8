"""Reverberation: convolve an utterance with the impulse response of a room, drawn from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.noise import SoundSource, mean_square
from asr_emapl.errors import UserError
from asr_emapl.settings import Share


@dataclass
class ReverberationConfig:
    """Impulse responses, and how many utterances are convolved with one."""

    manifests: list[str] = field(default_factory=list)
    """Manifests of impulse responses."""
    p: Share = 0.5
    """Probability that an utterance is convolved, drawn again in each pass."""


class Reverberation:
    """Puts utterances into rooms.

    Raises:
        UserError: no impulse responses.
    """

    def __init__(self, config: ReverberationConfig, responses: Sequence[SoundSource]) -> None:
        if not responses:
            raise UserError("perturb.reverberation.manifests name no impulse response")
        self.p, self.responses = config.p, responses

    def __call__(self, waveform: Tensor, seed: int) -> Tensor:
        """The waveform [samples] in a room, or as it is; see `reverberate`.

        Raises:
            UserError: the impulse response cannot be decoded.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.p:
            return waveform
        room = self.responses[int(rng.integers(len(self.responses)))]
        return reverberate(waveform, read_audio(room.source, offset=room.offset, duration=room.duration))


def reverberate(waveform: Tensor, response: Tensor) -> Tensor:
    """The convolution [samples] with an impulse response [R], as loud and as long as the waveform [samples].

    The response's strongest sample is taken for the direct path and put at time 0, so that no word moves;
    what rings on after the end is cut off.
    """
    direct = int(response.abs().argmax())
    size = len(waveform) + len(response) - 1
    padded = 1 << (size - 1).bit_length()  # powers of two are the fast lengths
    # numpy's: torch's differ in the last digit with the number of threads.
    spectrum = np.fft.rfft(waveform.numpy(), padded) * np.fft.rfft(response.numpy(), padded)
    wet = np.fft.irfft(spectrum, padded)[direct : direct + len(waveform)]
    wet_power = float(np.square(wet, dtype=np.float64).mean())
    if wet_power == 0.0:
        return waveform
    return torch.from_numpy(wet * (mean_square(waveform) / wet_power) ** 0.5).to(waveform.dtype)
