"""The mean of the student's weights at its best validations, as the labeller of TopIPL (2025).

TopIPL labels with the mean of the N checkpoints that have the lowest WER, and refreshes each label with
probability 0.2 (`pseudo_labels.rounds.share`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class _Candidate:
    """The weights of the student at a validation, on the CPU."""

    wer: float
    step: int
    weights: dict[str, Tensor]


class BestAverage:
    """Keeps the weights of the best validations and their mean.

    Args:
        student: the module whose weights are kept.
        module: a module of the same class, which gets the mean.
        count: number of validations to keep.
    """

    def __init__(self, student: nn.Module, module: nn.Module, count: int) -> None:
        self.student, self.module, self.count = student, module, count
        self._best: list[_Candidate] = []
        self._loaded: list[int] = []  # steps of the weights whose mean the module has

    def validated(self, step: int, wer: float) -> None:
        """Keep the student's weights if its WER is among the lowest; one that is not finite is ignored."""
        worst = self._best[-1].wer if len(self._best) == self.count else math.inf
        if math.isfinite(wer) and wer < worst:
            weights = {n: t.detach().to("cpu", copy=True) for n, t in self.student.state_dict().items()}
            self._best = sorted([*self._best, _Candidate(wer, step, weights)], key=lambda c: (c.wer, c.step))
            self._best = self._best[: self.count]

    def refresh(self) -> None:
        """Give the module the mean; before the first validation, the student's weights.

        Integer buffers are those of the best validation.
        """
        steps = [candidate.step for candidate in self._best]
        if not steps:
            self.module.load_state_dict(self.student.state_dict())
        elif steps != self._loaded:
            self.module.load_state_dict({name: self._mean(name) for name in self._best[0].weights})
        self._loaded = steps

    def _mean(self, name: str) -> Tensor:
        tensors = [candidate.weights[name] for candidate in self._best]
        if not tensors[0].is_floating_point():
            return tensors[0]
        return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs, by rank of the validation."""
        return {
            str(place): {"wer": one.wer, "step": one.step, "weights": one.weights}
            for place, one in enumerate(self._best)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._best = [_Candidate(one["wer"], one["step"], one["weights"]) for one in state.values()]
