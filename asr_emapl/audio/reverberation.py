"""Reverberation: an utterance convolved with a room's impulse response; drawn by a seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.noise import Recording, mean_square
from asr_emapl.errors import UserError


@dataclass
class ReverberationConfig:
    """Which impulse responses, and for how many utterances."""

    manifests: list[str] = field(default_factory=list)
    # Share of the utterances that are convolved, drawn anew in each pass.
    share: float = field(default=0.5, metadata={"least": 0.0, "most": 1.0})


class Reverberation:
    """Puts utterances into rooms.

    Raises:
        UserError: no impulse responses, or a share outside 0 to 1.
    """

    def __init__(self, config: ReverberationConfig, responses: Sequence[Recording]) -> None:
        if not responses:
            raise UserError("perturb.reverberation.manifests name no impulse response")
        if not 0.0 <= config.share <= 1.0:
            raise UserError(f"perturb.reverberation.share: {config.share} does not lie between 0 and 1")
        self.share, self.responses = config.share, responses

    def __call__(self, waveform: Tensor, seed: int) -> Tensor:
        """The waveform [samples] in a room, or as it is; see `reverberate`.

        Raises:
            UserError: the impulse response cannot be decoded.
        """
        rng = np.random.default_rng(seed)
        if rng.random() >= self.share:
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
