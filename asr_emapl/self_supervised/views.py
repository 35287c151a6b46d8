"""Random views of crops for BYOL. Axes: B crops, N samples, T frames, F features.

All draws are seeded by (seed of the run, crop, pass, view). A crop therefore gets the same views on any rank,
and after a resume. Mixing also depends on the other crops in the pass, which do not depend on the ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.augment import SpecAugment, draw_seed
from asr_emapl.audio.features import FeatureExtractor
from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.objectives.objective import to_device
from asr_emapl.self_supervised.config import ByolConfig
from asr_emapl.self_supervised.networks import VIEWS


class Views:
    """Draws two views of each window of a micro-batch: shift, gain, mixing, noise, masks.

    Args:
        seed: seed of the run.
    """

    def __init__(
        self, config: ByolConfig, features: FeatureExtractor, device: torch.device, seed: int
    ) -> None:
        self.config, self.features, self.device, self.seed = config, features, device, seed
        self.samples = max(1, round(config.crop_seconds * SAMPLE_RATE_HZ))
        self.masks = (
            SpecAugment(config.masks, features.size, features.frame_seconds) if config.masks else None
        )

    def __call__(self, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Features [V B, T, F] of the first views, then of the second ones, and their lengths [V B]."""
        seeds = [
            [draw_seed(self.seed, "view", view, name, micro.epoch) for name in micro.ids]
            for view in range(VIEWS)
        ]
        waveforms_BN = to_device(
            torch.cat([self.waveforms(micro, of_view) for of_view in seeds]), self.device
        )
        samples_B = torch.full((len(waveforms_BN),), self.samples, device=self.device)
        features_BTF, lengths_B = self.features(waveforms_BN, samples_B)
        return self._masked(features_BTF, [seed for of_view in seeds for seed in of_view]), lengths_B

    def waveforms(self, micro: MicroBatch, seeds: list[int]) -> Tensor:
        """One view of each window [B, N], before the masks."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        draws_B5 = torch.stack([torch.rand(5, generator=generator) for generator in generators])
        start, gain, mix, noise, other = draws_B5.unbind(1)
        crops_BN = self._crops(micro, start)
        crops_BN = crops_BN * _factor((2.0 * gain - 1.0) * self.config.gain_db)[:, None]
        clean_BN, count = crops_BN, len(seeds)
        if self.config.mix_db is not None and count > 1:
            steps = 1 + (other * (count - 1)).long().clamp(max=count - 2)
            partners = (torch.arange(count) + steps) % count
            crops_BN = crops_BN + _scaled(clean_BN[partners], clean_BN, _between(self.config.mix_db, mix))
        if self.config.noise_db is not None:
            white = torch.stack([torch.randn(self.samples, generator=g) for g in generators])
            crops_BN = crops_BN + _scaled(white, clean_BN, _between(self.config.noise_db, noise))
        return crops_BN

    def _crops(self, micro: MicroBatch, start: Tensor) -> Tensor:
        """A part of each window; a window that is shorter than a crop is padded with zeros."""
        spare_B = (micro.samples_B - self.samples).clamp(min=0)
        starts_B = torch.minimum((start * (spare_B + 1)).long(), spare_B)
        missing = max(0, self.samples + int(spare_B.max()) - micro.waveforms_BN.shape[1])
        waveforms_BN = torch.nn.functional.pad(micro.waveforms_BN, (0, missing))
        return waveforms_BN.gather(1, starts_B[:, None] + torch.arange(self.samples))

    def _masked(self, features_BTF: Tensor, seeds: list[int]) -> Tensor:
        """Set masked bands and frames to 0, the mean of log-mel features."""
        if self.masks is None:
            return features_BTF
        kept = [self.masks.keep(features_BTF.shape[1], seed) for seed in seeds]
        keep_BT = to_device(torch.stack([times for _, times in kept]), self.device)
        if self.features.size is None:
            return features_BTF * keep_BT
        keep_BF = to_device(torch.stack([bands for bands, _ in kept]), self.device)
        return features_BTF * keep_BF[:, None, :] * keep_BT[:, :, None]


def _between(limits: list[float], draws: Tensor) -> Tensor:
    low, high = limits
    return low + (high - low) * draws


def _factor(decibels: Tensor) -> Tensor:
    return 10.0 ** (decibels / 20.0)


def _scaled(added_BN: Tensor, clean_BN: Tensor, ratio_db: Tensor) -> Tensor:
    """`added_BN` with a level of `ratio_db` below that of `clean_BN`."""
    level = clean_BN.square().mean(1).sqrt() / added_BN.square().mean(1).sqrt().clamp(min=1e-8)
    return added_BN * (level / _factor(ratio_db))[:, None]
