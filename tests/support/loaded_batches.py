"""Corpora, datasets and plans of random audio, and comparison of steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

from asr_emapl.audio.augment import AugmentConfig, SpecAugment
from asr_emapl.audio.features import FrameCount
from asr_emapl.data.batch_plan import BatchPlan
from asr_emapl.data.corpus import Corpus
from asr_emapl.data.loader import StepDataset
from asr_emapl.data.mixture import DataCursor, DataPlan, GlobalBatch, Mixture
from asr_emapl.data.step_batch import MicroBatch, StepBatch
from asr_emapl.data.utterance import Utterance

SECOND = 16_000
BANDS = 20
COUNT = FrameCount(window=400, hop=160)


def frames(samples: int) -> int:
    """Feature frames of a waveform."""
    return int(COUNT(torch.tensor([samples])))


def make_utterances(folder: Path) -> list[Utterance]:
    """30 different utterances of 0.3 to 1.2 s."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(30):
        samples = int(rng.integers(round(0.3 * SECOND), round(1.2 * SECOND)))
        path = folder / f"u{i:02d}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), SECOND)
        made.append(Utterance(f"u{i:02d}", str(path), samples / SECOND))
    return made


def corpus(utterances: list[Utterance], *, with_targets: bool = True) -> Corpus:
    """A corpus whose targets are the numbers of the utterances, to detect mix-ups."""
    return Corpus(utterances, [[int(u.id[1:]) + 1] for u in utterances] if with_targets else None)


def dataset(
    utterances: list[Utterance],
    *,
    rank: int = 0,
    world_size: int = 1,
    max_seconds: float = 2.5,
    seed: int = 5,
    augmented: bool = True,
) -> StepDataset:
    config = AugmentConfig(frequency_masks=2, frequency_width=8, time_masks=2, time_width=20, time_share=0.5)
    return StepDataset(
        corpus(utterances),
        corpus(utterances, with_targets=False),
        frames=COUNT,
        augment=SpecAugment(config, BANDS) if augmented else None,
        two_views=True,
        max_samples=round(max_seconds * SECOND),
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def plan(utterances: list[Utterance], seconds: float = 6.0) -> DataPlan:
    one = BatchPlan(corpus(utterances).samples, round(seconds * SECOND), seed=1)
    return DataPlan(Mixture([one]), Mixture([BatchPlan(one.samples, one.batch_samples, seed=2)]))


def global_batches(utterances: list[Utterance], count: int) -> list[GlobalBatch]:
    mix, at, made = plan(utterances), DataCursor(), []
    for _ in range(count):
        made.append(mix.next(at))
        at = made[-1].after
    return made


def same_micro(left: MicroBatch, right: MicroBatch) -> bool:
    pairs = [
        (left.waveforms_BN, right.waveforms_BN),
        (left.samples_B, right.samples_B),
        (left.keep_BF, right.keep_BF),
        (left.keep_BT, right.keep_BT),
        (left.second_BF, right.second_BF),
        (left.second_BT, right.second_BT),
        (left.student_BN, right.student_BN),
        (left.student_samples_B, right.student_samples_B),
    ]
    return (
        left.ids == right.ids
        and left.targets == right.targets
        and all(a is b is None or torch.equal(a, b) for a, b in pairs)
    )


def same_step(left: StepBatch, right: StepBatch) -> bool:
    return (
        (left.labelled, left.samples, left.after) == (right.labelled, right.samples, right.after)
        and len(left.micro_batches) == len(right.micro_batches)
        and all(map(same_micro, left.micro_batches, right.micro_batches))
    )


def taken(iterator: Iterator[StepBatch], count: int) -> list[StepBatch]:
    return list(itertools.islice(iterator, count))
