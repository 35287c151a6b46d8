"""Estimate the noise share of a run's gradients from its log: `asr-emapl gradient-noise`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from asr_emapl.config import load_config
from asr_emapl.errors import UserError
from asr_emapl.planning import build_batches
from asr_emapl.runs.reader import read_log
from asr_emapl.scaling import scale_noise_share
from asr_emapl.scoring.intervals import student_quantile

# The share is the mean over parts of the audio: at most _MAX_PARTS parts, each with at least
# _MIN_STEPS_PER_PART measured steps.
_MAX_PARTS, _MIN_STEPS_PER_PART = 10, 5


@dataclass(frozen=True)
class NoiseSummary:
    """Gradient noise of a run, averaged over its measured steps.

    Attributes:
        share: share of noise in the mean square of the gradient at the run's batch. It is the mean over equal
            parts of the audio, so that the large initial gradients do not dominate.
        interval: Student's 95 % interval over these parts; None with fewer than two parts.
    """

    share: float
    interval: tuple[float, float] | None
    batch_seconds: float
    reference_seconds: float
    steps: int

    @property
    def noise_scale_seconds(self) -> float:
        """Batch size at which noise and signal have equal power; larger batches gain little."""
        return math.inf if self.share >= 1.0 else self.batch_seconds * self.share / (1.0 - self.share)

    @property
    def reference_share(self) -> float:
        """The share at the reference batch, which is the value for `optimizer.noise_share`."""
        return scale_noise_share(self.share, self.reference_seconds / self.batch_seconds)


def read_gradient_noise(run: Path, from_hours: float | None = None) -> tuple[NoiseSummary, float]:
    """The noise summary of a run directory, and the hours of audio after which steps are counted.

    Args:
        from_hours: hours of audio to ignore at the start; None: the warm-up.

    Raises:
        UserError: config or log cannot be read, the batch size changes during the run, or no step was
            measured.
    """
    config = load_config(run / "config.yaml")
    batch = config.batch
    if batch.progressive or batch.growth != "none" or batch.seconds == "auto":
        raise UserError(f"{run}: gradient noise is defined for one batch; train with a fixed batch.seconds")
    begin = config.schedule.warmup_hours if from_hours is None else from_hours
    steps = [r for r in read_log(run / "log.jsonl") if r.get("event") == "step" and r["hours"] >= begin]
    seconds, reference_seconds = build_batches(config, 1).first, config.batch.reference_seconds
    # The run's kappa counts unpadded audio; with audio_per_step=actual, the log contains the kappa of each
    # step instead.
    if steps and "kappa" in steps[-1] and config.optimizer.audio_per_step == "nominal":
        reference_seconds = seconds / steps[-1]["kappa"]
    return summarise_noise(steps, seconds, reference_seconds), begin


def summarise_noise(
    steps: Iterable[Mapping[str, Any]], batch_seconds: float, reference_seconds: float
) -> NoiseSummary:
    """Summarise gradient noise over the measured steps in log records.

    Raises:
        UserError: no step was measured.
    """
    pairs = [step["gradient_noise"] for step in steps if step.get("gradient_noise")]
    parts = max(1, min(_MAX_PARTS, len(pairs) // _MIN_STEPS_PER_PART))
    ends = [i * len(pairs) // parts for i in range(parts + 1)]
    shares = [share for a, b in pairwise(ends) if (share := _share(pairs[a:b])) is not None]
    if not shares:
        raise UserError("no step has measured gradient noise; train with optimizer.noise_every_steps=50")
    mean = sum(shares) / len(shares)
    return NoiseSummary(mean, _interval(shares, mean), batch_seconds, reference_seconds, len(pairs))


def _share(pairs: Sequence[Sequence[float]]) -> float | None:
    """Mean variance over mean square, clipped to [0, 1]; None if all gradients are zero."""
    mean_square = sum(square for _, square in pairs)
    if not mean_square > 0.0:
        return None
    return min(1.0, max(0.0, sum(variance for variance, _ in pairs) / mean_square))


def _interval(shares: Sequence[float], mean: float) -> tuple[float, float] | None:
    if len(shares) < 2:
        return None
    half = student_quantile(0.95, len(shares) - 1) * statistics.stdev(shares) / math.sqrt(len(shares))
    return max(0.0, mean - half), min(1.0, mean + half)
