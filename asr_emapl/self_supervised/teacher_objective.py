"""What the self-supervised objectives share: a student that learns from the teacher's outputs alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.self_supervised.spread import SpreadGuard


class TeacherObjective:
    """Base class of objectives; see `Objective`.

    Args:
        student: the result of `ProcessGroup.data_parallel` for a `SelfSupervisedModel`.
        teacher: of such a model.
        guard: judges the spread of the targets.
        mark: called with the phase that has ended; see `Phases.mark`.
        bf16: run both models with autocast to bfloat16.
    """

    reasons = ("undecodable",)

    def __init__(
        self,
        world: ProcessGroup,
        student: nn.Module,
        teacher: EmaTeacher,
        guard: SpreadGuard,
        mark: Callable[[str], None],
        *,
        bf16: bool = False,
    ) -> None:
        self.world, self.student, self.teacher = world, student, teacher
        self.guard, self.mark, self.bf16 = guard, mark, bf16

    def summed(self, counts: Sequence[float]) -> dict[str, float]:
        """See `Objective.summed`.

        Raises:
            UserError: the targets have collapsed.
        """
        return self.guard.check(list(counts))

    def autocast(self) -> torch.autocast:
        """The context of forward passes."""
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16)
