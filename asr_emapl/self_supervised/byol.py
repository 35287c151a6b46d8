"""BYOL on speech: each view of a crop predicts the teacher's projection of the other view.

Axes: B crops, T frames, F features, E size of the embedding, V = 2 views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.data.step_batch import MicroBatch
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.objectives.objective import Prepared
from asr_emapl.self_supervised.networks import VIEWS
from asr_emapl.self_supervised.spread import SpreadGuard, spread
from asr_emapl.self_supervised.teacher_objective import TeacherObjective
from asr_emapl.self_supervised.views import Views


@dataclass(frozen=True)
class ByolTargets:
    """The views of the crops of one forward pass, and the teacher's projections.

    Attributes:
        features_BTF: [V B, T, F]; see `ByolModel.forward`.
        lengths_B: long [V B], in feature frames.
        target_VBE: projections of unit length.
        utterances: number of crops, B.
        number: of the pass in the global batch.
    """

    features_BTF: Tensor
    lengths_B: Tensor
    target_VBE: Tensor | None
    utterances: int
    number: int = 0
    tokens: int = 0

    def half(self, which: int) -> ByolTargets:
        """See `Work.half`. Whole passes, because batch norm couples the crops of a pass."""
        return self if self.number % 2 == which else replace(self, target_VBE=None, utterances=0)


class ByolObjective(TeacherObjective):
    """The symmetric loss of Grill et al. 2020, section 3.1, equation 2: 4 - 2 cos - 2 cos for each crop.

    Student and teacher are a `ByolModel`; see `TeacherObjective` for the other arguments.
    """

    def __init__(
        self,
        world: ProcessGroup,
        views: Views,
        student: nn.Module,
        teacher: EmaTeacher,
        guard: SpreadGuard,
        mark: Callable[[str], None],
        *,
        bf16: bool = False,
    ) -> None:
        super().__init__(world, student, teacher, guard, mark, bf16=bf16)
        self.views = views

    def prepare(self, micro_batches: Sequence[MicroBatch], passes: int) -> Prepared[ByolTargets]:
        """See `Objective.prepare`. Synchronizes with the device once, to read the statistics."""
        targets = [self._targets(micro) for micro in micro_batches]
        # All ranks must gather the weights of a sharded teacher equally often.
        for _ in range(passes - len(targets) if self.world.sharded else 0):
            nothing = self.nothing()
            self._project(nothing.features_BTF, nothing.lengths_B, 0)
        sums = torch.zeros(3, device=self.world.device)
        for one in targets:
            assert one.target_VBE is not None
            counts = torch.full((VIEWS,), one.utterances, device=self.world.device)
            sums += spread(one.target_VBE - one.target_VBE.mean(1, keepdim=True), counts)
        prepared = Prepared(targets, counts=self.world.to_list(sums))
        self.mark("teacher")
        return prepared

    def nothing(self) -> ByolTargets:
        """See `Objective.nothing`."""
        samples_B = torch.full((VIEWS,), self.views.samples, device=self.world.device)
        silence_BN = torch.zeros(VIEWS, self.views.samples, device=self.world.device)
        features_BTF, lengths_B = self.views.features(silence_BN, samples_B)
        return ByolTargets(features_BTF, lengths_B, None, 0)

    def loss(self, targets: ByolTargets) -> Tensor:
        """See `Objective.loss`."""
        with self.autocast():
            _, predicted_VBE = self.student(targets.features_BTF, targets.lengths_B)
        if targets.target_VBE is None:
            return 0.0 * predicted_VBE.sum()
        # Each view predicts the other one.
        cosine_VB = (F.normalize(predicted_VBE, dim=-1) * targets.target_VBE.flip(0)).sum(-1)
        return (2.0 - 2.0 * cosine_VB).sum()

    def _targets(self, micro: MicroBatch) -> ByolTargets:
        # Passes have equal sizes but for one crop and for undecodable ones, so that their numbers alternate.
        crops = len(micro.ids)
        return replace(self._project(*self.views(micro), crops), number=micro.places[0] // crops)

    def _project(self, features_BTF: Tensor, lengths_B: Tensor, crops: int) -> ByolTargets:
        with self.autocast():
            projection_VBE, _ = self.teacher(features_BTF, lengths_B)
        return ByolTargets(features_BTF, lengths_B, F.normalize(projection_VBE, dim=-1), crops)
