"""SpecAugment's draws: repeatable, within their limits, and torchaudio's own."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torchaudio.transforms import FrequencyMasking, TimeMasking

from asr_emapl.audio.augment import AugmentConfig, SpecAugment, draw_seed


def holes(keep: Tensor) -> list[int]:
    """Lengths of the runs of zeros."""
    return [len(run) for run in "".join("1" if k else "0" for k in keep.tolist()).split("1") if run]


def test_same_seed_same_mask() -> None:
    augment = SpecAugment(AugmentConfig(), 80)
    masks = [torch.cat(augment.keep(700, seed)) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    other = SpecAugment(AugmentConfig(), 80)
    torch.manual_seed(5)
    assert torch.equal(torch.cat(other.keep(700, 1)), masks[0])


def test_shapes_and_values() -> None:
    bands, times = SpecAugment(AugmentConfig(), 40).keep(123, 0)
    assert (bands.shape, times.shape) == ((40,), (123,))
    assert bands.dtype == times.dtype == torch.float32
    assert set(torch.cat([bands, times]).tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("frames", [100, 250, 2_000])
def test_one_mask_is_within_width_and_share(frames: int) -> None:
    augment = SpecAugment(AugmentConfig(frequency_masks=1, time_masks=1), 80)
    widths = [[sum(holes(keep)) for keep in augment.keep(frames, seed)] for seed in range(300)]
    of_bands, of_times = zip(*widths, strict=True)
    # torchaudio draws below the limit, and nearly reaches it.
    assert 25 < max(of_bands) < 30
    limit = min(50, frames // 10)
    assert 0.8 * limit < max(of_times) < limit
    assert min(of_bands) == min(of_times) == 0


def test_a_mask_is_one_interval_at_any_place() -> None:
    augment = SpecAugment(AugmentConfig(frequency_masks=1, time_masks=1), 80)
    kept = [augment.keep(500, seed) for seed in range(300)]
    assert all(len(holes(keep)) <= 1 for both in kept for keep in both)
    bands, times = (torch.stack(keeps).mean(0) for keeps in zip(*kept, strict=True))
    assert ((bands[10:-10] > 0.6) & (bands[10:-10] < 0.95)).all()
    assert ((times[50:-50] > 0.85) & (times[50:-50] < 1.0)).all()


def test_masks_together_are_within_their_sum() -> None:
    augment = SpecAugment(AugmentConfig(), 80)
    for seed in range(100):
        bands, times = augment.keep(600, seed)
        assert (1.0 - bands).sum() < 2 * 30
        assert (1.0 - times).sum() < 10 * 50


def test_no_masks_keep_everything() -> None:
    bands, times = SpecAugment(AugmentConfig(frequency_masks=0, time_masks=0), 80).keep(100, 0)
    assert bands.all()
    assert times.all()


@pytest.mark.parametrize("frames", [1, 2, 9, 18])
def test_short_utterances(frames: int) -> None:
    augment = SpecAugment(AugmentConfig(), 80)
    for seed in range(20):
        times = augment.keep(frames, seed)[1]
        # 0.1 of 18 frames is at most one frame, and torchaudio draws fewer than the limit.
        assert times.all()


def test_global_random_states_are_untouched() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    SpecAugment(AugmentConfig(), 80).keep(400, 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_global_random_state_is_restored_after_an_error() -> None:
    augment = SpecAugment(AugmentConfig(), 80)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError):
        augment.keep(-1, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("frames", [37, 400])
@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_equals_torchaudio_on_the_whole_spectrogram(frames: int, seed: int) -> None:
    config = AugmentConfig()
    spectrogram_FT = torch.randn(80, frames)
    bands, times = SpecAugment(config, 80).keep(frames, seed)
    masked = spectrogram_FT[None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(config.frequency_masks):
            masked = FrequencyMasking(config.frequency_width)(masked)
        for _ in range(config.time_masks):
            masked = TimeMasking(config.time_width, p=config.time_share)(masked)
    # == and not equal bits: times 0.0 may leave a minus sign.
    assert (spectrogram_FT * bands[:, None] * times == masked[0]).all()


SEED = 3_897_782_188_091_980_792


def test_draw_seed_is_pinned() -> None:
    """Another value would change the draws of every run and every resumed run."""
    assert draw_seed(17, "1272-128104-0000", 3) == SEED


def test_draw_seed_is_the_same_in_another_process() -> None:
    code = "from asr_emapl.audio.augment import draw_seed; print(draw_seed(17, '1272-128104-0000', 3))"
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert int(printed.stdout) == SEED


def test_draw_seed_tells_its_parts_apart() -> None:
    parts = [(1, 2), (12,), ("1", 2), (1, "2"), ("1, 2",), (2, 1), (1, 2, 0), ()]
    seeds = [draw_seed(*p) for p in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    for seed in seeds:
        torch.Generator().manual_seed(seed)
