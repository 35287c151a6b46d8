"""One train step: targets, global counts, forward and backward pass, clipping, optimizer, teacher."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.data.step_batch import StepBatch
from asr_emapl.distributed.fsdp import full_tensor
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher
from asr_emapl.objectives.ctc import CtcObjective
from asr_emapl.objectives.objective import Objective, Prepared, Work
from asr_emapl.objectives.step_result import StepResult
from asr_emapl.pseudo_labels.quality import LabelCounts
from asr_emapl.runs.phases import Phases
from asr_emapl.scaling.gradient_noise import estimate_noise


class TrainStep:
    """Updates student, optimizer and teacher with one global batch.

    Args:
        student: the result of `ProcessGroup.data_parallel`.
        labelled: objective for labelled audio; None: self-supervised training.
        unlabelled: objective for unlabelled audio; None: supervised training.
        clip_norm: maximum norm of the global gradient, already scaled; None: no clipping.
        per: what the sum of the losses is divided by.
    """

    def __init__(
        self,
        world: ProcessGroup,
        student: nn.Module,
        teacher: EmaTeacher,
        optimizer: torch.optim.Optimizer,
        labelled: Objective[Any] | None,
        unlabelled: Objective[Any] | None,
        phases: Phases,
        *,
        clip_norm: float | None = None,
        per: Literal["utterance", "token"] = "utterance",
    ) -> None:
        self.world, self.phases, self.clip_norm, self.per = world, phases, clip_norm, per
        self.student, self.teacher, self.optimizer = student, teacher, optimizer
        self.labelled, self.unlabelled = labelled, unlabelled

    def __call__(
        self,
        batch: StepBatch,
        *,
        teacher_seconds: float | None = None,
        at_seconds: float | None = None,
        measure_noise: bool = False,
    ) -> StepResult:
        """Train on one global batch, of which `batch` is this rank's share.

        Args:
            teacher_seconds: audio of this step for the teacher; None: that of the batch.
            at_seconds: audio on the run's clock, for a variable half-life.
        """
        objective = self.labelled if batch.labelled else self.unlabelled
        assert objective is not None
        passes = self.world.forward_passes(len(batch.micro_batches))
        self.phases.mark("communication")  # since the data arrived: waiting for other ranks
        prepared = objective.prepare(batch.micro_batches, passes)
        for micro in batch.micro_batches:
            self.phases.count(micro)
        counts, statistics = self._count(objective, prepared, undecodable=len(batch.skipped))
        self.phases.mark("communication")
        seen: dict[str, Any] = {"labels": prepared.labels or {}, "reasons": prepared.reasons}
        seen["statistics"] = statistics
        if counts.utterances == 0:
            return StepResult(**vars(counts), taken=False, **seen)
        work = prepared.targets + [objective.nothing()] * (passes - len(prepared.targets))
        count = max(1, counts.tokens) if self.per == "token" else counts.utterances
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[tuple[float, int]] = []
        if measure_noise:
            total, parts = self._forward_backward_in_halves(objective, prepared.targets, count)
        else:
            total = self._forward_backward(objective, work, count)
        self._drop_frozen_gradients()
        loss, norm = self._clip(total, count)
        finite = math.isfinite(norm)
        if finite:
            seconds = batch.samples / SAMPLE_RATE_HZ if teacher_seconds is None else teacher_seconds
            self.teacher.before_step(seconds, at_seconds)
            self.optimizer.step()
            self.teacher.update(seconds, at_seconds)
        self.phases.mark("optimizer")
        noise = estimate_noise(parts, norm**2)
        return StepResult(
            **vars(counts),
            loss=loss,
            gradient_norm=norm,
            taken=finite,
            noise=noise,
            **seen,
        )

    def begin_labels(self, batch: StepBatch) -> None:
        """Begin the labels of the global batch that is trained on or labelled next; see `CtcObjective`."""
        assert isinstance(self.unlabelled, CtcObjective)
        passes = self.world.forward_passes(len(batch.micro_batches))
        self.unlabelled.begin(batch.micro_batches, passes, label_only=batch.label_only)
        self.phases.mark("teacher")

    def label(self, batch: StepBatch) -> int:
        """Label a global batch that is not trained on; returns the number of labels over all ranks."""
        assert isinstance(self.unlabelled, CtcObjective)
        passes = self.world.forward_passes(len(batch.micro_batches))
        labels = self.unlabelled.label(batch.micro_batches, passes)
        self.phases.mark("teacher")
        return labels

    def _count(
        self, objective: Objective[Any], prepared: Prepared[Any], undecodable: int
    ) -> tuple[LabelCounts, Mapping[str, float]]:
        """All-reduce the counts before the backward pass, because the loss is divided by the global count.

        Returns:
            The counts, and the objective's numbers for the log.
        """
        dropped = prepared.dropped + Counter(undecodable=undecodable)
        labels = (prepared.labels or {}).values()
        confidence, nonempty = sum(one.confidence for one in labels), sum(bool(one.tokens) for one in labels)
        mine = [prepared.utterances, prepared.tokens, confidence, nonempty]
        mine += [dropped[reason] for reason in objective.reasons]
        sums = self.world.all_reduce_sum([*mine, *prepared.counts])
        statistics = objective.summed(sums[len(mine) :])
        dropped = Counter({r: int(n) for r, n in zip(objective.reasons, sums[4:], strict=False) if n})
        utterances, tokens = int(sums[0]), int(sums[1])
        if prepared.labels is None:
            return LabelCounts(utterances, tokens, dropped), statistics
        labelled = max(1, utterances + dropped.total() - dropped["undecodable"])
        return LabelCounts(utterances, tokens, dropped, sums[2] / labelled, sums[3] / labelled), statistics

    def _forward_backward(self, objective: Objective[Any], work: Sequence[Work], count: int) -> Tensor:
        """Compute gradients of the global mean; return this rank's sum of losses, on the device."""
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for i, targets in enumerate(work):
            # Ranks exchange gradients once, with their last micro-batch.
            last = i == len(work) - 1
            with contextlib.nullcontext() if last else self.world.no_sync(self.student):
                loss = objective.loss(targets)
                # DDP averages over ranks, but the gradient must be the sum over ranks by the global count.
                mean = loss * (self.world.size / count)
                self.phases.mark_backward(mean, "student")
                mean.backward()
            # Time that the backward pass waited for other processes at its end.
            self.phases.mark("communication")
            total += loss.detach()
        return total

    def _forward_backward_in_halves(
        self, objective: Objective[Any], targets: Sequence[Work], count: int
    ) -> tuple[Tensor, list[tuple[float, int]]]:
        """Like `_forward_backward`; also return squared norm and count of each half of the global batch.

        The halves do not depend on ranks and micro-batches, so that what is measured does not either.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        halves: list[list[Tensor | None]] = []
        squares, sizes = [], []
        for which in (0, 1):
            mine = [half for one in targets if (half := one.half(which)).utterances]
            passes = self.world.forward_passes(len(mine))
            work = mine + [objective.nothing()] * (passes - len(mine))
            total += self._forward_backward(objective, work, count)
            self._drop_frozen_gradients()
            gradients = [p.grad for p in parameters]
            squares.append(_square_norm([g for g in gradients if g is not None]))
            counts = [half.tokens if self.per == "token" else half.utterances for half in mine]
            sizes.append(float(sum(counts)))
            # Copies, because data-parallel gradients are views of buffers that the next half overwrites.
            halves.append([None if g is None else g.clone() for g in gradients])
            self.optimizer.zero_grad(set_to_none=True)
        for parameter, first, second in zip(parameters, *halves, strict=True):
            # None, not zeros, because optimizers apply weight decay to parameters with a gradient.
            parameter.grad = second if first is None else first if second is None else first.add_(second)
        norms = self.world.to_list(torch.stack(squares))
        sizes = self.world.all_reduce_sum(sizes)
        self.phases.mark("communication")
        return total, [(norm, int(size)) for norm, size in zip(norms, sizes, strict=True)]

    def _drop_frozen_gradients(self) -> None:
        """Leave frozen parts of the model out of the gradient's norm and of the optimizer's moments.

        They still get gradients, because data-parallel training expects them for the same parameters always.
        """
        for group in self.optimizer.param_groups:
            if group.get("is_frozen", False):
                for parameter in group["params"]:
                    parameter.grad = None

    def _clip(self, total: Tensor, count: int) -> tuple[float, float]:
        """Clip the gradient; return the mean loss and the norm before clipping, the same on all ranks.

        Both are read from the device together, which is the first wait for the backward pass.
        """
        limit = math.inf if self.clip_norm is None else self.clip_norm
        norm = full_tensor(torch.nn.utils.clip_grad_norm_(self.student.parameters(), limit))
        loss, gradient_norm = self.world.to_list(torch.stack([total, norm.double()]))
        return self.world.all_reduce_sum([loss])[0] / count, gradient_norm


def _square_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The squared norm of all gradients together, the same on all ranks; float64, on their device."""
    return full_tensor(torch.nn.utils.get_total_norm(gradients)).double() ** 2
