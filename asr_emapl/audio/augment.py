"""SpecAugment (Park et al. 2019) for the student: masks of bands and frames, drawn per utterance.

The masks are seeded by (seed of the run, utterance, pass). An utterance therefore gets the same augmentation
in any batch, on any rank, and after a resume.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from asr_emapl.settings import Share


@dataclass
class AugmentConfig:
    """SpecAugment without time warping."""

    frequency_masks: Annotated[int, Ge(0), Le(1000)] = 2
    """Frequency masks per utterance."""
    frequency_width: Annotated[int, Ge(0), Le(4096)] = 30
    """Largest width of a frequency mask in mel bands, or in features of another extractor."""
    time_masks: Annotated[int, Ge(0), Le(1000)] = 10
    """Time masks per utterance."""
    time_width: Annotated[int, Ge(0), Le(1_000_000)] = 50
    """Largest width of a time mask in frames of 10 ms."""
    time_share: Share = 0.1
    """Largest share of an utterance that one time mask covers."""


class SpecAugment:
    """Draws the masks of torchaudio's FrequencyMasking and TimeMasking, all masks of an utterance at once.

    Args:
        size: number of features per frame; None: the input is the waveform, and only the time is masked.
        frame_seconds: audio per frame in seconds.

    Produces the same random numbers as torchaudio (`iid_masks=False`), but in one draw: one mask at a time
    would take longer than decoding the utterance.
    """

    def __init__(self, config: AugmentConfig, size: int | None, frame_seconds: float = 0.01) -> None:
        self.config, self.size = config, size
        # A frame of a waveform is a sample.
        self.time_width = round(config.time_width * 0.01 / frame_seconds)

    def keep(self, frames: int, seed: int) -> tuple[Tensor, Tensor]:
        """Masks of bands [F] and frames [T] for an utterance of `frames` frames: 1.0 keeps, 0.0 masks."""
        config, generator = self.config, torch.Generator().manual_seed(seed)
        time_width = self.time_width
        if config.time_share < 1.0:
            time_width = min(time_width, int(frames * config.time_share))
        bands = _keep(self.size or 0, config.frequency_masks, config.frequency_width, generator)
        return bands, _keep(frames, config.time_masks, time_width, generator)


def _keep(length: int, masks: int, width: int, generator: torch.Generator) -> Tensor:
    """A mask [length] with zeros in `masks` intervals, each shorter than `width`."""
    if width < 1 or masks < 1:
        return torch.ones(length)
    draws = torch.rand(masks, 2, generator=generator)
    widths = draws[:, 0] * width
    starts = (draws[:, 1] * (length - widths)).long()[:, None]
    at = torch.arange(length)
    masked = (at >= starts) & (at < starts + widths.long()[:, None])
    return (~masked.any(0)).float()


def draw_seed(*parts: int | str) -> int:
    """A 63-bit seed from the values that identify a random draw, e.g. (run seed, utterance id, pass)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
