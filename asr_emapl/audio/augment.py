"""SpecAugment (Park et al. 2019) for the student: which bands and frames are kept, drawn per utterance.

The draws are seeded by (seed, utterance, pass) and made where the audio is decoded, so that an utterance is
augmented alike in any batch, on any rank, before and after a resume.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class AugmentConfig:
    """SpecAugment; widths in mel bands and in frames of 10 ms. No time warping."""

    frequency_masks: int = 2
    frequency_width: int = 30
    time_masks: int = 10
    time_width: int = 50
    # A time mask covers at most this share of the utterance.
    time_share: float = 0.1


class SpecAugment:
    """Draws masks with torchaudio's transforms, on vectors of ones instead of whole spectrograms."""

    def __init__(self, config: AugmentConfig, mel_bands: int) -> None:
        from torchaudio.transforms import FrequencyMasking, TimeMasking

        self.config = config
        self.mel_bands = mel_bands
        self._frequency = FrequencyMasking(config.frequency_width)
        self._time = TimeMasking(config.time_width, p=config.time_share)

    def keep(self, frames: int, seed: int) -> tuple[Tensor, Tensor]:
        """What is kept of an utterance of `frames` frames: bands [F] and frames [T], 1.0 or 0.0."""
        bands, times = torch.ones(1, self.mel_bands, 1), torch.ones(1, 1, frames)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for _ in range(self.config.frequency_masks):
                bands = self._frequency(bands)
            for _ in range(self.config.time_masks):
                times = self._time(times)
        return bands[0, :, 0], times[0, 0]


def draw_seed(*parts: int | str) -> int:
    """A 63-bit seed from what names the draw, e.g. (run seed, utterance id, pass)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
