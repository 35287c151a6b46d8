"""Bias-corrected moving average (BEMA): an average for evaluation that does not lag behind the student.

Block and Zhang 2025 (arXiv 2508.00180; form and defaults as documented for TRL's BEMACallback). An EMA lags
behind a student that moves. BEMA adds a share of the way that the student has moved since the start:

    ema <- (1 - beta) ema + beta theta,    beta = (lag + t) ** -ema_power
    average = ema + alpha (theta - theta_0),    alpha = (lag + t) ** -bias_power

t counts reference steps of audio, and at kappa the momentum is (1 - beta) ** kappa (the EMA Scaling Rule), so
that the average does not depend on the batch. It is not a teacher: labels that depend on the current student
would lose what an average is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asr_emapl.ema import unwrap
from asr_emapl.scaling.averages import scale_momentum


class BiasCorrectedAverage:
    """BEMA of a student, by parameter name, in float32.

    Args:
        student: module to follow; wrappers (DDP, torch.compile) are removed. Its weights are theta_0.
        reference: audio of a reference step, in the unit passed to `update`.
        ema_power, bias_power, lag: see the module; in reference steps.

    Raises:
        ValueError: the reference or the lag is not positive, or a power is not in [0, 1].
    """

    def __init__(
        self,
        student: nn.Module,
        reference: float,
        *,
        ema_power: float = 0.5,
        bias_power: float = 0.2,
        lag: float = 10.0,
    ) -> None:
        if not (reference > 0.0 and lag > 0.0):
            raise ValueError(f"reference {reference} and lag {lag} must be positive")
        if not (0.0 <= ema_power <= 1.0 and 0.0 <= bias_power <= 1.0):
            raise ValueError(f"powers {ema_power} and {bias_power} must be in [0, 1]")
        self.reference, self.lag = reference, lag
        self.ema_power, self.bias_power = ema_power, bias_power
        self._student = dict(unwrap(student).named_parameters(remove_duplicate=False))
        self.start = {name: p.detach().float().clone() for name, p in self._student.items()}
        self.ema = {name: weight.clone() for name, weight in self.start.items()}
        self.audio = 0.0

    def rho(self, audio: float) -> float:
        """Momentum of the next step if it consumes `audio`; beta is that of the middle of the step."""
        middle = (self.audio + audio / 2.0) / self.reference
        beta = min(1.0, (self.lag + middle) ** -self.ema_power)
        return 1.0 if audio == 0.0 else scale_momentum(1.0 - beta, audio / self.reference)

    @torch.no_grad()
    def update(self, audio: float) -> None:
        """Add the student's weights after an optimizer step that consumed `audio`.

        Raises:
            ValueError: audio is negative.
        """
        if audio < 0.0:
            raise ValueError(f"audio of a step must not be negative, got {audio}")
        weight = 1.0 - self.rho(audio)
        self.audio += audio
        for name, ema in self.ema.items():
            ema.lerp_(self._student[name].float(), weight)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The average now: new float32 tensors by parameter name."""
        alpha = min(1.0, (self.lag + self.audio / self.reference) ** -self.bias_power)
        return {
            name: ema + alpha * (self._student[name].float() - self.start[name])
            for name, ema in self.ema.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Moving average, first weights and the average now by parameter name, and the audio."""
        return {"ema": self.ema, "start": self.start, "average": self.weights(), "audio": self.audio}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a saved average.

        Raises:
            ValueError: the names or shapes of the weights differ.
        """
        for mine, saved in ((self.ema, state["ema"]), (self.start, state["start"])):
            if {n: w.shape for n, w in mine.items()} != {n: w.shape for n, w in saved.items()}:
                raise ValueError("names or shapes of the saved average differ from those of the weights")
            for name, weight in mine.items():
                weight.copy_(saved[name])
        self.audio = state["audio"]
