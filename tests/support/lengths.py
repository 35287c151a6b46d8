"""Utterance lengths as in LibriSpeech, and their padding."""

from __future__ import annotations

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ


def librispeech_like(count, seed=0):
    """Lengths in samples as in train-clean-*: mostly about 14.5 s, with a flat tail; mean 12.5 s."""
    rng = np.random.default_rng(seed)
    long, short = rng.normal(14.5, 1.2, count), rng.uniform(1.4, 14.5, count)
    seconds = np.where(rng.uniform(size=count) < 0.7, long, short).clip(1.4, 24.5)
    return (seconds * SAMPLE_RATE_HZ).astype(np.int64)


def padded(lengths):
    """Padded samples of a batch."""
    return int(max(lengths)) * len(lengths) if len(lengths) else 0


def as_lists(batches):
    """Convert batches to lists."""
    return [batch.tolist() for batch in batches]
