"""Small shards, their audio, and training steps on them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import soundfile
import torch

from asr_emapl.audio.decode import read_audio
from asr_emapl.audio.features import FrameCount
from asr_emapl.data.batch_plan import BatchPlan
from asr_emapl.data.corpus import Corpus
from asr_emapl.data.loader import StepDataset, steps
from asr_emapl.data.manifest_writer import write_manifest
from asr_emapl.data.mixture import DataCursor, DataPlan, Mixture
from asr_emapl.data.step_batch import StepBatch
from asr_emapl.data.utterance import Utterance

SECOND = 16_000
SMALL = 0.05


def waveform(utterance: Utterance) -> torch.Tensor:
    return read_audio(utterance.source, offset=utterance.offset, duration=utterance.duration)


def same_audio(left: list[Utterance], right: list[Utterance]) -> bool:
    return all(torch.equal(waveform(a), waveform(b)) for a, b in zip(left, right, strict=True))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def batches(utterances: list[Utterance], workers: int) -> list[StepBatch]:
    corpus = Corpus(utterances, [[1 + i] for i in range(len(utterances))])
    one = BatchPlan(corpus.samples, 2 * SECOND, seed=1)
    dataset = StepDataset(
        corpus, Corpus(utterances, None), frames=FrameCount(window=400, hop=160), augment=None,
        max_samples=2 * SECOND, seed=5, rank=0, world_size=1,
    )  # fmt: skip
    mix = DataPlan(Mixture([one]), Mixture([BatchPlan(one.samples, one.batch_samples, seed=2)]))
    return list(itertools.islice(steps(dataset, mix, DataCursor(), workers=workers, pin_memory=False), 12))


def same_step(left: StepBatch, right: StepBatch) -> bool:
    return (left.labelled, left.samples, left.after) == (right.labelled, right.samples, right.after) and all(
        (a.ids, a.targets) == (b.ids, b.targets)
        and torch.equal(a.samples_B, b.samples_B)
        and torch.equal(a.waveforms_BN, b.waveforms_BN)
        for a, b in zip(left.micro_batches, right.micro_batches, strict=True)
    )


def make_manifest(folder: Path) -> Path:
    """13 files of 0.3 to 0.9 s, and one of 3 s with three utterances, the last at the end of the manifest."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(13):
        samples = int(rng.integers(round(0.3 * SECOND), round(0.9 * SECOND)))
        path = folder / f"u{i:02d}.{'flac' if i % 2 else 'wav'}"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), SECOND, subtype="PCM_16")
        made.append(Utterance(path.stem, str(path), samples / SECOND, f"TEXT {i}", speaker="s"))
    soundfile.write(folder / "long.flac", 0.1 * rng.standard_normal(3 * SECOND), SECOND)
    parts = [Utterance(f"long/{i}", str(folder / "long.flac"), 0.7, "LONG", offset=0.9 * i) for i in range(3)]
    write_manifest(folder / "train.jsonl", [*made[:4], *parts[:2], *made[4:], parts[2]])
    return folder / "train.jsonl"
