"""Progressive Scaling (Busbridge et al. 2023, Algorithm 1): a batch that grows during training.

Early in training, the gradient changes too fast for one large batch to replace many small ones. A run can
start with the batch it was tuned at and switch to a larger one later. Hyper-parameters are always scaled from
the reference batch, not from the previous stage, so that errors do not accumulate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from asr_emapl.scaling.gradient_noise import NoiseAverage, gain
from asr_emapl.scaling.schedule import Schedule

# Measured steps before the first doubling of a batch that grows by need.
_LEAST_MEASURED = 5


@dataclass(frozen=True)
class BatchGrowth:
    """When a batch doubles: when the measured gradient noise says that a larger batch loses next to nothing.

    A step at twice the batch makes 2 / (2 - s) times the progress, where s is the share of noise at the batch
    in force (`gradient_noise.gain`): at s = 0.9, 1.82 times, which loses 9 % of the audio. Derived.

    Args:
        noise_share: least share of noise at which the batch doubles.
        most: padded seconds of the largest batch.
    """

    noise_share: float
    most: float

    def is_due(self, noise: NoiseAverage, kappa: float, since_seconds: float) -> bool:
        """Whether the batch should double now.

        At most once per half-life of the average, and not before a half-life has been measured.

        Args:
            kappa: kappa of the batch in force.
            since_seconds: audio consumed when this batch began.
        """
        share = noise.share(kappa)
        is_settled = noise.seconds - since_seconds >= noise.half_life and noise.steps >= _LEAST_MEASURED
        return is_settled and share is not None and share >= self.noise_share


@dataclass(frozen=True)
class BatchSchedule:
    """Padded seconds of a step over hours of audio consumed: `first`, then each of (from_hours, seconds).

    Args:
        growth: when the batch doubles after the last change; None: never.

    Raises:
        ValueError: hours are not positive and increasing, or seconds are not positive.
    """

    first: float
    changes: tuple[tuple[float, float], ...] = ()
    growth: BatchGrowth | None = None

    def __post_init__(self) -> None:
        before = 0.0
        for hours, seconds in self.changes:
            if not before < hours < math.inf:
                raise ValueError(f"{hours:g} h does not come after {before:g} h")
            if not 0.0 < seconds < math.inf:
                raise ValueError(f"a batch of {seconds:g} s from {hours:g} h on is not positive and finite")
            before = hours

    def seconds(self, hours: float) -> float:
        """The batch after `hours` of audio."""
        reached = [seconds for start, seconds in self.changes if hours >= start]
        return reached[-1] if reached else self.first

    def next_change(self, hours: float) -> float:
        """Hours at which the next stage starts; infinite in the last stage."""
        return min((start for start, _ in self.changes if start > hours), default=math.inf)

    def stages(self, hours: float) -> list[tuple[float, float, float]]:
        """(from_hours, to_hours, seconds) of each stage of a run of `hours`."""
        starts = [(0.0, self.first), *((start, seconds) for start, seconds in self.changes if start < hours)]
        ends = [start for start, _ in starts[1:]] + [hours]
        return [(start, end, seconds) for (start, seconds), end in zip(starts, ends, strict=True)]

    def doubled(self, hours: float) -> BatchSchedule:
        """The schedule that doubles its last batch after `hours`."""
        return replace(self, changes=(*self.changes, (hours, 2.0 * self.seconds(math.inf))))

    @property
    def candidates(self) -> tuple[float, ...]:
        """The batches that it may still grow to."""
        found, seconds = [], self.seconds(math.inf)
        while self.growth is not None and 2.0 * seconds <= self.growth.most:
            seconds *= 2.0
            found.append(seconds)
        return tuple(found)

    @property
    def all(self) -> tuple[float, ...]:
        """The batches in order, including those that it may still grow to."""
        return (self.first, *(seconds for _, seconds in self.changes), *self.candidates)

    @property
    def smallest(self) -> float:
        """The smallest batch, which is the maximum length of an utterance."""
        return min(self.all)


def double_with_decay(batches: BatchSchedule, schedule: Schedule, most: float) -> BatchSchedule:
    """Double the batch each time that a schedule has halved the learning rate, up to `most` padded seconds.

    Seesaw (Meterez et al. 2025, arXiv 2510.14717): where a schedule would halve the learning rate of Adam,
    multiply it by 1 / sqrt(2) and double the batch instead. The square-root rule multiplies it by sqrt(2) at
    twice the batch, so both together are the same schedule, with the rule at each batch: the loss over audio
    should not change, and there are fewer steps. For SGD, whose rule is linear, the learning rate then stays
    as it is (Smith et al. 2018, cited from memory). Between two halvings, the schedule decays as before (in
    the paper, the learning rate is constant there). Limitations: those of the rule; noise must dominate the
    gradient also at the largest batch.

    Args:
        batches: batches without the decay; each is multiplied.

    Raises:
        ValueError: `most` is below one of the batches.
    """
    if not most >= max(batches.all):
        raise ValueError(f"{most:g} s is below the batch of {max(batches.all):g} s")
    factor, starts = 1.0, []
    while (factor := 2.0 * factor) * min(batches.all) <= most:
        starts.append(schedule.falls_to(1.0 / factor))
    changes, before = [], batches.first
    for hours in sorted({start for start, _ in batches.changes} | {s for s in starts if 0.0 < s < math.inf}):
        doublings = sum(hours >= start for start in starts)
        # The last doubling that fits; a batch of another size would not be double.
        fitting = math.floor(math.log2(most / batches.seconds(hours)))
        seconds = batches.seconds(hours) * 2.0 ** min(doublings, fitting)
        if seconds != before:
            changes.append((hours, seconds))
            before = seconds
    return BatchSchedule(batches.first, tuple(changes))


def rescale_optimizer_state(
    optimizer: torch.optim.Optimizer,
    before: float,
    after: float,
    *,
    second_moments: bool = False,
    noise_share: float = 1.0,
) -> None:
    """Rescale an optimizer's state for another kappa, in place.

    Bias correction: torch divides by 1 - beta ** step. If betas are scaled as powers, the product of the
    betas of all steps so far is beta_after ** (step * before / after). With this number of steps, bias
    correction stays exact. Adagrad's lr_decay uses the same number of steps.

    Second moments: if noise dominates, squared gradients are smaller by after / before at the new batch, so
    the old moments make about 1 / (1 - beta2) steps too short. The paper appears to keep them unchanged;
    `second_moments` rescales them. First moments are averages of the gradient itself and are not scaled.
    Adagrad's sum of squares does not decay, so it is always rescaled: by (before / after) ** 2 if noise
    dominates, because it has fewer and smaller squares. All rules are derived here, not from the paper.

    Args:
        before, after: kappa of the previous steps and of the next step.
        noise_share: at the reference batch (see `scaling.gradient_noise`).
    """
    if before == after:
        return
    ratio = before / after
    fall = gain(noise_share, before) / gain(noise_share, after)
    for state in optimizer.state.values():
        if "step" in state and ("exp_avg_sq" in state or "sum" in state):
            state["step"] = state["step"] * ratio
        if "sum" in state:
            state["sum"].mul_(ratio * fall)
        if second_moments:
            for name in ("exp_avg_sq", "square_avg", "max_exp_avg_sq"):
                if name in state:
                    state[name].mul_(fall)
