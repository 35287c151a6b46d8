"""Mean unpadded audio of a step, for a batch stated in padded seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.batch_plan import BatchPlan
from asr_emapl.data.mixture import DataPlan, Mixture

# Number of chunks of each corpus that are planned. Chunks are random, so a few are representative.
_CHUNKS = 4


def mean_step_audio(mix: DataPlan, batch_seconds: float) -> float:
    """Mean unpadded seconds of a step over the corpora of `mix`, at a batch of `batch_seconds`.

    The mean is over labelled and unlabelled steps, in their ratio after the start of pseudo-labels. It
    depends on the lengths of the utterances, their weights and the batch, but not on the run's seed, length
    or position, nor on the world size. It takes at most a few seconds, regardless of the size of the corpora.
    Utterances longer than the batch are excluded, as in a run at that batch, and so are those that the plan
    does not use.

    Raises:
        ValueError: every utterance is longer than the batch.
    """
    limit = round(batch_seconds * SAMPLE_RATE_HZ)
    parts = [(mix.labelled, 1.0), (mix.unlabelled, 1.0 if mix.labelled is None else mix.ratio)]
    # Harmonic mean, because weights are in audio, not in steps.
    audio = sum(weight for part, weight in parts if part is not None)
    steps = sum(weight / _mean_over_blend(part, limit) for part, weight in parts if part is not None)
    return audio / steps / SAMPLE_RATE_HZ


def _mean_over_blend(blend: Mixture, batch_samples: int) -> float:
    audio = steps = 0.0
    for plan, weight in zip(blend.plans, blend.weights, strict=True):
        is_fitting = plan.samples <= batch_samples
        if plan.used is not None:
            is_fitting &= plan.used
        if is_fitting.any():
            fitting = plan.samples if is_fitting.all() else plan.samples[is_fitting]
            measured = replace(
                plan, samples=fitting, batch_samples=batch_samples, seed=0, curriculum_epochs=0, used=None
            )
            audio += weight
            steps += weight / _mean(measured)
    if not steps:
        raise ValueError(f"every utterance is longer than {batch_samples / SAMPLE_RATE_HZ:g} s")
    return audio / steps


def _mean(plan: BatchPlan) -> float:
    """Mean samples of a batch over some chunks, for small corpora over several passes."""
    samples = [
        int(plan.samples[batch].sum())
        for epoch, number in _places(plan.chunks)
        for batch in plan.chunk(epoch, number).batches
    ]
    return float(np.mean(samples))


def _places(chunks: int) -> Iterator[tuple[int, int]]:
    for i in range(_CHUNKS):
        yield divmod(i, chunks)
