"""Lengths of utterances as LibriSpeech has them, and what padding makes of them."""

from __future__ import annotations

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ


def librispeech_like(count, seed=0):
    """Samples as in train-clean-*: most about 14.5 s, a flat tail of short ones, 12.5 s on average."""
    rng = np.random.default_rng(seed)
    long, short = rng.normal(14.5, 1.2, count), rng.uniform(1.4, 14.5, count)
    seconds = np.where(rng.uniform(size=count) < 0.7, long, short).clip(1.4, 24.5)
    return (seconds * SAMPLE_RATE_HZ).astype(np.int64)


def padded(lengths):
    """Samples of a batch of these."""
    return int(max(lengths)) * len(lengths) if len(lengths) else 0


def as_lists(batches):
    """To compare and to count."""
    return [batch.tolist() for batch in batches]
