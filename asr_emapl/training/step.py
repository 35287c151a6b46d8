"""One optimizer step, as the algorithm reads: label, count, forward and backward, clip, step, teacher.

Axes: B utterances, T feature frames, F mel bands, V tokens.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import LogMel
from asr_emapl.data.loader import MicroBatch, StepBatch
from asr_emapl.distributed.fsdp import full_tensor
from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.ema import EmaTeacher, unwrap
from asr_emapl.pseudo_labels import Labels, PseudoLabelConfig, Strategy, Unlabelled, rejection
from asr_emapl.torch_private import foreach_add_
from asr_emapl.training.gradient_noise import GradientNoise, estimate, square_norm
from asr_emapl.training.phases import Phases


@dataclass
class Targets:
    """What the student is to learn in one micro-batch: augmented features and tokens on the device.

    What is known of each utterance without waiting for the device: `frames` of the student's output and
    `counts` of tokens, of which `tokens_BS` is padded with zeros.
    """

    features_BTF: Tensor
    lengths_B: Tensor
    tokens_BS: Tensor
    frames: list[int]
    counts: list[int]

    def take(self, rows: Sequence[int]) -> Targets:
        """Some of the utterances."""
        index = to_device(torch.tensor(rows, dtype=torch.long), self.features_BTF.device)
        return Targets(
            self.features_BTF.index_select(0, index),
            self.lengths_B.index_select(0, index),
            self.tokens_BS.index_select(0, index),
            [self.frames[i] for i in rows],
            [self.counts[i] for i in rows],
        )


@dataclass
class StepResult:
    """What became of a step, over all ranks."""

    loss: float
    gradient_norm: float
    utterances: int
    tokens: int
    # Why utterances were not trained on -> how many.
    dropped: Counter[str] = field(default_factory=Counter)
    # Mean confidence of the pseudo-labels and share of non-empty ones; None on a labelled step.
    confidence: float | None = None
    nonempty: float | None = None
    # Whether the optimizer and the teacher moved.
    taken: bool = True
    # If it was asked for and could be told.
    noise: GradientNoise | None = None


# Dropped utterances are reduced over ranks by this order.
REASONS = ("unalignable", "empty", "low_confidence", "too_few_tokens", "too_many_tokens", "undecodable")


class TrainStep:
    """Moves student, optimizer and teacher on by one global batch.

    Args:
        student: as `ProcessGroup.data_parallel` returned it.
        clip_norm: of the global gradient, already scaled; 0: none.
        bf16: run the student's forward pass in bfloat16 where autocast does.
    """

    def __init__(
        self,
        world: ProcessGroup,
        features: LogMel,
        student: nn.Module,
        teacher: EmaTeacher,
        optimizer: torch.optim.Optimizer,
        strategy: Strategy | None,
        pseudo_labels: PseudoLabelConfig,
        *,
        clip_norm: float,
        bf16: bool,
    ) -> None:
        self.world, self.features = world, features
        self.student, self.teacher, self.optimizer = student, teacher, optimizer
        self.strategy, self.pseudo_labels = strategy, pseudo_labels
        self.clip_norm, self.bf16 = clip_norm, bf16
        self.phases = Phases(world.device)

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
            teacher_seconds: of audio that the teacher is to count for this step; None: the batch's own.
            at_seconds: of audio on the run's clock, for a teacher whose half-life changes over the run.
        """
        result = StepResult(0.0, 0.0, 0, 0)
        if not batch.labelled:
            result.confidence = result.nonempty = 0.0
        passes = self.world.forward_passes(len(batch.micro_batches))
        self.phases.mark("communication")  # since the data came: until every process had its own
        if batch.skipped:
            result.dropped["undecodable"] = len(batch.skipped)
        work = self._targets(batch, result, passes)
        self._count(work, result)
        self.phases.mark("communication")
        if result.utterances == 0:
            result.taken = False
            return result
        work += [self._nothing()] * (passes - len(work))
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[tuple[float, int]] = []
        if measure_noise:
            total, parts = self._forward_backward_in_parts(work, result)
        else:
            total = self._forward_backward(work, result)
        result.taken = self._clip(total, result)
        if parts:
            squares, counts = zip(*parts, strict=True)
            result.noise = estimate(squares, counts, result.gradient_norm**2)
        if result.taken:
            seconds = batch.samples / SAMPLE_RATE_HZ if teacher_seconds is None else teacher_seconds
            self.teacher.before_step(seconds, at_seconds)
            self.optimizer.step()
            self.teacher.update(seconds, at_seconds)
        self.phases.mark("optimizer")
        return result

    def _targets(self, batch: StepBatch, result: StepResult, passes: int) -> list[Targets]:
        """What can and should be learned of each micro-batch; waits for the teacher once, for its counts."""
        labelled = [self._label(micro, batch.labelled) for micro in batch.micro_batches]
        if self.world.sharded and not batch.labelled:
            self._label_nothing(passes - len(labelled))
        if not labelled:
            return []
        numbers = self.world.to_list(torch.cat([_numbers(labels) for _, labels in labelled], dim=1))
        work, start = [], 0
        for micro, (targets, _) in zip(batch.micro_batches, labelled, strict=True):
            end = start + len(micro.ids)
            counts, needed, confidences = (row[start:end] for row in numbers)
            targets.counts = [int(count) for count in counts]
            keep = list(range(len(micro.ids)))
            if not batch.labelled:
                keep = self._trusted(micro, targets.counts, confidences, result)
            alignable = [i for i in keep if targets.frames[i] >= needed[i]]
            if len(alignable) < len(keep):
                result.dropped["unalignable"] += len(keep) - len(alignable)
            if alignable:
                work.append(targets if len(alignable) == len(micro.ids) else targets.take(alignable))
            start = end
        self.phases.mark("features" if batch.labelled else "teacher")
        return work

    def _label(self, micro: MicroBatch, labelled: bool) -> tuple[Targets, Labels]:
        """Features and labels of a micro-batch, queued on the device; their counts are not known yet."""
        device = self.world.device
        there = micro.to(device)
        features_BTF, lengths_B = self.features(there.waveforms_BN, there.samples_B)
        if labelled:
            assert micro.targets is not None
            labels = Labels.of(micro.targets)
        else:
            assert self.strategy is not None
            self.phases.mark("features")
            seconds = [n / SAMPLE_RATE_HZ for n in micro.samples_B.tolist()]
            labels = self.strategy.labels(
                Unlabelled(micro.ids, features_BTF, lengths_B, seconds, micro.targets)
            )
            self.phases.mark("teacher")
        samples_B = micro.samples_B
        if there.student_BN is not None and there.student_samples_B is not None:
            features_BTF, lengths_B = self.features(there.student_BN, there.student_samples_B)
            assert micro.student_samples_B is not None
            samples_B = micro.student_samples_B
        frames = unwrap(self.student).output_lengths(self.features.frames(samples_B))  # type: ignore[operator]
        if there.keep_BF is not None and there.keep_BT is not None:
            # Features have mean 0, so a masked band or frame becomes the utterance's mean.
            features_BTF = features_BTF * there.keep_BF[:, None, :] * there.keep_BT[:, :, None]
        self.phases.count(micro)
        tokens_BS = to_device(labels.tokens_BS, device)
        return Targets(features_BTF, lengths_B, tokens_BS, frames.tolist(), []), labels

    def _trusted(
        self, micro: MicroBatch, counts: list[int], confidences: list[float], result: StepResult
    ) -> list[int]:
        """The utterances whose pseudo-labels pass the filters."""
        seconds = [n / SAMPLE_RATE_HZ for n in micro.samples_B.tolist()]
        reasons = [
            rejection(count, sure, length, self.pseudo_labels)
            for count, sure, length in zip(counts, confidences, seconds, strict=True)
        ]
        result.dropped.update(r for r in reasons if r is not None)
        # Sums until `_count` divides them by the number of utterances over all ranks.
        assert result.confidence is not None
        assert result.nonempty is not None
        result.confidence += sum(confidences)
        result.nonempty += sum(1.0 for count in counts if count)
        return [i for i, reason in enumerate(reasons) if reason is None]

    def _count(self, work: list[Targets], result: StepResult) -> None:
        """Global counts, before the backward pass: the loss is divided by them, not by per-rank means."""
        kept = sum(len(targets.counts) for targets in work)
        tokens = sum(sum(targets.counts) for targets in work)
        mine = [kept, tokens, result.confidence or 0.0, result.nonempty or 0.0]
        sums = self.world.all_reduce_sum(mine + [result.dropped[reason] for reason in REASONS])
        result.utterances, result.tokens = int(sums[0]), int(sums[1])
        result.dropped = Counter({r: int(n) for r, n in zip(REASONS, sums[4:], strict=True) if n})
        seen = result.utterances + sum(result.dropped.values()) - result.dropped["undecodable"]
        if result.confidence is not None and seen:
            result.confidence, result.nonempty = sums[2] / seen, sums[3] / seen

    def _forward_backward(self, work: list[Targets], result: StepResult) -> Tensor:
        """Gradients of the global mean; returns this rank's sum of losses, still on the device."""
        total = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for i, targets in enumerate(work):
            # Ranks exchange gradients once, with each rank's last micro-batch.
            last = i == len(work) - 1
            with contextlib.nullcontext() if last else self.world.no_sync(self.student):
                loss = self._loss(targets)
                # DDP averages over ranks; the loss is a sum over the global batch by its global count.
                mean = loss * (self.world.size / result.utterances)
                self.phases.mark_backward(mean, "student")
                mean.backward()
            # All that the backward pass was still waiting for when its own work was done.
            self.phases.mark("communication")
            total += loss.detach()
        return total

    def _forward_backward_in_parts(
        self, work: list[Targets], result: StepResult
    ) -> tuple[Tensor, list[tuple[float, int]]]:
        """As `_forward_backward`; also the square norm and the utterances of each part, over all ranks."""
        if self.world.size == 1 and len(work) == 1:
            work = [half for half in _halves(work[0]) if half.counts]
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        total, parts = torch.zeros((), dtype=torch.float64, device=self.world.device), []
        whole = [torch.zeros_like(p) for p in parameters]
        touched = [False] * len(parameters)
        for targets in work:
            with self.world.no_sync(self.student):
                loss = self._loss(targets)
                (loss / result.utterances).backward()
            total += loss.detach()
            touched = [before or p.grad is not None for before, p in zip(touched, parameters, strict=True)]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            parts.append((square_norm(gradients), len(targets.counts)))
            foreach_add_(whole, gradients)
            self.optimizer.zero_grad(set_to_none=True)
        self.phases.mark("student")
        self.world.all_reduce_tensors(whole)
        for parameter, gradient, has_gradient in zip(parameters, whole, touched, strict=True):
            # None, not zeros: an optimizer decays what has a gradient.
            parameter.grad = gradient if has_gradient else None
        parts = [part for of_rank in self.world.gather(parts) for part in of_rank]
        self.phases.mark("communication")
        return total, parts

    def _loss(self, targets: Targets) -> Tensor:
        """Sum of CTC losses over the utterances of a micro-batch (Graves et al. 2006)."""
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            log_probs_BTV, _ = self.student(targets.features_BTF, targets.lengths_B)
        if not targets.counts:
            return 0.0 * log_probs_BTV.sum()
        # Tokens in int64 select torch's own kernel, for texts of any length; int32 may select cuDNN's.
        # It asks for the lengths on the CPU: there they are, so that nothing waits for the student.
        return F.ctc_loss(
            log_probs_BTV.float().transpose(0, 1),
            targets.tokens_BS,
            torch.tensor(targets.frames),
            torch.tensor(targets.counts),
            reduction="sum",
            zero_infinity=True,
        )

    def _nothing(self) -> Targets:
        """For a rank without utterances in this step: it must take part in the reduction all the same."""
        bands = self.features.mel.n_mels
        device = self.world.device
        lengths_B = torch.full((1,), 32, device=device)
        tokens_BS = torch.zeros(1, 0, dtype=torch.long, device=device)
        return Targets(torch.zeros(1, 32, bands, device=device), lengths_B, tokens_BS, [], [])

    def _label_nothing(self, times: int) -> None:
        """As often as others still label a micro-batch: a teacher that is sharded needs everybody."""
        assert self.strategy is not None
        for _ in range(times):
            nothing = self._nothing()
            self.strategy.labels(Unlabelled([], nothing.features_BTF, nothing.lengths_B, [], []))

    def _clip(self, total: Tensor, result: StepResult) -> bool:
        """Clip the gradient; False if it is not finite. The same on all ranks: the gradient is.

        Loss and norm come from the device together: until here nothing has waited for the backward pass.
        """
        limit = self.clip_norm if self.clip_norm > 0.0 else float("inf")
        norm = full_tensor(torch.nn.utils.clip_grad_norm_(self.student.parameters(), limit))
        loss, result.gradient_norm = self.world.to_list(torch.stack([total, norm.double()]))
        result.loss = self.world.all_reduce_sum([loss])[0] / result.utterances
        return math.isfinite(result.gradient_norm)


def _halves(targets: Targets) -> tuple[Targets, Targets]:
    """Every second utterance, so that both have the like lengths."""
    rows = range(len(targets.counts))
    return targets.take(rows[::2]), targets.take(rows[1::2])


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there; from the CPU to a GPU by page-locked memory, so that nothing waits."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _numbers(labels: Labels) -> Tensor:
    """Of each utterance, on the device of its labels: tokens, frames they need, confidence; [3, B]."""
    needed_B = frames_needed(labels.tokens_BS, labels.lengths_B)
    return torch.stack([labels.lengths_B.double(), needed_B.double(), labels.confidence_B.double()])


def frames_needed(tokens_BS: Tensor, lengths_B: Tensor) -> Tensor:
    """What `alignable` compares with the frames, [B], for padded tokens; waits for no device."""
    position = torch.arange(1, max(1, tokens_BS.shape[1]), device=tokens_BS.device)
    repeats_BS = (tokens_BS[:, 1:] == tokens_BS[:, :-1]) & (position < lengths_B[:, None])
    return lengths_B + repeats_BS.sum(dim=1)


def alignable(tokens: list[int], frames: int) -> bool:
    """Whether CTC can align the tokens: T >= S + repeats, since repeats need a blank between them."""
    repeats = sum(a == b for a, b in pairwise(tokens))
    return frames >= len(tokens) + repeats
