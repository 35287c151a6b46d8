"""The interface of an objective: it prepares what micro-batches are trained on, and computes their loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.pseudo_labels.labels import Label


class Work(Protocol):
    """Input and targets of the student in one forward and backward pass."""

    @property
    def utterances(self) -> int:
        """Number of utterances trained on."""
        ...

    @property
    def tokens(self) -> int:
        """Number of tokens in their labels, or of masked frames."""
        ...

    def half(self, which: int) -> Work:
        """Every second utterance of the global batch, from the first (0) or the second (1) one on.

        The gradients of the halves are independent samples of that of the batch; see `GradientNoise`.
        """
        ...


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Prepared(Generic[W]):
    """What this rank trains on in a step, and counts.

    Attributes:
        targets: one per micro-batch with utterances to train on.
        dropped: number of utterances not trained on, by reason.
        labels: the pseudo-labels by row, including dropped ones; None: there are none.
        reasons: why pseudo-labels are dropped, by row.
        counts: numbers that the objective needs summed over ranks (see `Objective.summed`).
    """

    targets: list[W]
    dropped: Counter[str] = field(default_factory=Counter)
    labels: Mapping[int, Label] | None = None
    reasons: Mapping[int, str] = field(default_factory=dict)
    counts: Sequence[float] = ()

    @property
    def utterances(self) -> int:
        """Number of utterances trained on."""
        return sum(targets.utterances for targets in self.targets)

    @property
    def tokens(self) -> int:
        """See `Work.tokens`."""
        return sum(targets.tokens for targets in self.targets)


class Objective(Protocol[W]):
    """A part of training with its own loss. The train step divides the sum by the global count."""

    @property
    def reasons(self) -> Sequence[str]:
        """Why utterances are dropped, in the order in which their numbers are summed over ranks."""
        ...

    def prepare(self, micro_batches: Sequence[MicroBatch], passes: int) -> Prepared[W]:
        """Targets of the micro-batches of this rank; each rank prepares at least `passes` of them."""
        ...

    def summed(self, counts: Sequence[float]) -> Mapping[str, float]:
        """Take note of `Prepared.counts`, summed over ranks; called once after each `prepare`.

        Returns:
            Numbers for the log, by name.
        """
        ...

    def nothing(self) -> W:
        """Targets without utterances, for a rank that only participates in collective operations."""
        ...

    def loss(self, targets: W) -> Tensor:
        """Sum of the losses of the utterances, a differentiable scalar."""
        ...


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to `device`, asynchronously from pinned memory if it is a GPU."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
