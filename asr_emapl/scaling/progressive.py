"""Progressive Scaling (Busbridge et al. 2023, Algorithm 1): a batch that grows during training.

Early in training the gradient changes too fast for a large batch to stand for many small ones. A run may
begin at the batch it was tuned at and take a larger one once that has passed. Hyper-parameters always follow
from the *reference* batch, never from the stage before, so that no error adds up over stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from asr_emapl.scaling.gradient_noise import gain


@dataclass(frozen=True)
class BatchSchedule:
    """Seconds of audio in a step over hours of audio consumed: `first`, then each of (from_hours, seconds).

    Raises:
        ValueError: hours that do not rise from above 0, or seconds that are not positive.
    """

    first: float
    changes: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        before = 0.0
        for hours, seconds in self.changes:
            if not before < hours < math.inf:
                raise ValueError(f"{hours:g} h does not come after {before:g} h")
            if not 0.0 < seconds < math.inf:
                raise ValueError(f"a batch of {seconds:g} s from {hours:g} h on is not positive and finite")
            before = hours

    def seconds(self, hours: float) -> float:
        """The batch in force once `hours` have been consumed."""
        reached = [seconds for start, seconds in self.changes if hours >= start]
        return reached[-1] if reached else self.first

    def next_change(self, hours: float) -> float:
        """Hours at which the next stage begins; infinite in the last."""
        return min((start for start, _ in self.changes if start > hours), default=math.inf)

    @property
    def all(self) -> tuple[float, ...]:
        """The batches in order."""
        return (self.first, *(seconds for _, seconds in self.changes))

    @property
    def smallest(self) -> float:
        """Of all batches: no utterance may be longer."""
        return min(self.all)


def rescale_optimizer_state(
    optimizer: torch.optim.Optimizer,
    before: float,
    after: float,
    *,
    second_moments: bool = False,
    noise_share: float = 1.0,
) -> None:
    """Fit an optimizer's state to another kappa, in place.

    Bias correction: torch divides by 1 - beta ** step. Where betas are powers of kappa, the product of the
    betas of all steps so far is beta_after ** (step before / after): with that many steps it stays exact.

    Second moments: where noise dominates, squared gradients are smaller by after / before at the new batch,
    and the old ones make about 1 / (1 - beta2) steps too short. The paper carries them over as they are, as
    far as is known; `second_moments` rescales them. Momentum is in units of the gradient's mean and stays.
    Adagrad's sum of squares never forgets, so it is rescaled always: over fewer and smaller squares, by
    (before / after) ** 2 where noise dominates. All are derived, not the paper's.

    lr_decay counts steps, as bias correction does.

    Args:
        before, after: kappa at which the state was gathered, and at which it is to be used.
        noise_share: of the gradient's mean square at the reference batch (see `scaling.noise`).
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
