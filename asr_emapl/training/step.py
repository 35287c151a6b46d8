"""One optimizer step, as the algorithm reads: label, count, forward and backward, clip, step, teacher.

Axes: B utterances, T feature frames, F mel bands, V tokens.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr_emapl.audio import SAMPLE_RATE_HZ
from asr_emapl.audio.features import LogMel
from asr_emapl.data.loader import MicroBatch, StepBatch
from asr_emapl.ema import EmaTeacher, unwrap
from asr_emapl.pseudo_labels import PseudoLabelConfig, Strategy, Unlabelled, rejection
from asr_emapl.training.gradient_noise import GradientNoise, estimate, square_norm
from asr_emapl.training.world import World


@dataclass
class Targets:
    """What the student is to learn in one micro-batch: augmented features and tokens, filtered."""

    features_BTF: Tensor
    lengths_B: Tensor
    tokens: list[list[int]]


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
REASONS = ("unalignable", "empty", "unsure", "too_few_tokens", "too_many_tokens", "undecodable")


class TrainStep:
    """Moves student, optimizer and teacher on by one global batch.

    Args:
        student: as `World.wrap` returned it.
        clip_norm: of the global gradient, already scaled; 0: none.
        bf16: run the student's forward pass in bfloat16 where autocast does.
    """

    def __init__(
        self,
        world: World,
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
        if batch.skipped:
            result.dropped["undecodable"] = len(batch.skipped)
        work = [
            self._targets(micro.to(self.world.device), batch.labelled, result)
            for micro in batch.micro_batches
        ]
        work = [targets for targets in work if targets.tokens]
        self._count(work, result)
        if result.utterances == 0:
            result.taken = False
            return result
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._forward_backward_in_parts(work, result) if measure_noise else None
        if parts is None:
            self._forward_backward(work, result)
        result.taken = self._clip(result)
        if parts:
            squares, counts = zip(*parts, strict=True)
            result.noise = estimate(squares, counts, result.gradient_norm**2)
        if result.taken:
            seconds = batch.samples / SAMPLE_RATE_HZ if teacher_seconds is None else teacher_seconds
            self.teacher.before_step(seconds, at_seconds)
            self.optimizer.step()
            self.teacher.update(seconds, at_seconds)
        return result

    def _targets(self, micro: MicroBatch, labelled: bool, result: StepResult) -> Targets:
        """The student's features and tokens, without what cannot or should not be learned."""
        features_BTF, lengths_B = self.features(micro.waveforms_BN, micro.samples_B)
        if labelled:
            assert micro.targets is not None
            tokens: list[list[int] | None] = list(micro.targets)
        else:
            tokens = self._pseudo_labels(micro, features_BTF, lengths_B, result)
        if micro.student_BN is not None and micro.student_samples_B is not None:
            features_BTF, lengths_B = self.features(micro.student_BN, micro.student_samples_B)
        frames = unwrap(self.student).output_lengths(lengths_B).tolist()  # type: ignore[operator]
        keep = []
        for i, (labels, available) in enumerate(zip(tokens, frames, strict=True)):
            if labels is not None and not alignable(labels, available):
                result.dropped["unalignable"] += 1
            elif labels is not None:
                keep.append(i)
        if micro.keep_BF is not None and micro.keep_BT is not None:
            # Features have mean 0, so a masked band or frame becomes the utterance's mean.
            features_BTF = features_BTF * micro.keep_BF[:, None, :] * micro.keep_BT[:, :, None]
        kept = [labels for labels in (tokens[i] for i in keep) if labels is not None]
        if len(keep) < len(tokens):
            features_BTF, lengths_B = features_BTF[keep], lengths_B[keep]
        return Targets(features_BTF, lengths_B, kept)

    def _pseudo_labels(
        self, micro: MicroBatch, features_BTF: Tensor, lengths_B: Tensor, result: StepResult
    ) -> list[list[int] | None]:
        assert self.strategy is not None
        seconds = [n / SAMPLE_RATE_HZ for n in micro.samples_B.tolist()]
        labels = self.strategy.labels(Unlabelled(micro.ids, features_BTF, lengths_B, seconds, micro.targets))
        reasons = [rejection(a, s, self.pseudo_labels) for a, s in zip(labels, seconds, strict=True)]
        result.dropped.update(r for r in reasons if r is not None)
        # Sums until `_count` divides them by the number of utterances over all ranks.
        assert result.confidence is not None
        assert result.nonempty is not None
        result.confidence += sum(a.confidence for a in labels)
        result.nonempty += sum(1.0 for a in labels if a.tokens)
        return [a.tokens if r is None else None for a, r in zip(labels, reasons, strict=True)]

    def _count(self, work: list[Targets], result: StepResult) -> None:
        """Global counts, before the backward pass: the loss is divided by them, not by per-rank means."""
        kept = sum(len(targets.tokens) for targets in work)
        tokens = sum(len(t) for targets in work for t in targets.tokens)
        mine = [kept, tokens, result.confidence or 0.0, result.nonempty or 0.0]
        sums = self.world.sum(mine + [result.dropped[reason] for reason in REASONS])
        result.utterances, result.tokens = int(sums[0]), int(sums[1])
        result.dropped = Counter({r: int(n) for r, n in zip(REASONS, sums[4:], strict=True) if n})
        seen = result.utterances + sum(result.dropped.values()) - result.dropped["undecodable"]
        if result.confidence is not None and seen:
            result.confidence, result.nonempty = sums[2] / seen, sums[3] / seen

    def _forward_backward(self, work: list[Targets], result: StepResult) -> None:
        total = torch.zeros((), device=self.world.device)
        work = work or [self._nothing()]
        for i, targets in enumerate(work):
            # Ranks exchange gradients once, with each rank's last micro-batch.
            alone = self.world.size == 1 or i == len(work) - 1
            with contextlib.nullcontext() if alone else self.student.no_sync():  # type: ignore[operator]
                loss = self._loss(targets)
                # DDP averages over ranks; the loss is a sum over the global batch by its global count.
                (loss * (self.world.size / result.utterances)).backward()
            total += loss.detach()
        result.loss = self.world.sum([total.item()])[0] / result.utterances

    def _forward_backward_in_parts(self, work: list[Targets], result: StepResult) -> list[tuple[float, int]]:
        """As `_forward_backward`; returns the square norm and the utterances of each part, over all ranks."""
        if self.world.size == 1 and len(work) == 1:
            work = [half for half in _halves(work[0]) if half.tokens]
        work = work or [self._nothing()]  # DDP's forward pass is a collective: every rank has to make one
        parameters = [p for p in self.student.parameters() if p.requires_grad]
        total, parts = torch.zeros((), device=self.world.device), []
        whole = [torch.zeros_like(p) for p in parameters]
        touched = [False] * len(parameters)
        for targets in work:
            with contextlib.nullcontext() if self.world.size == 1 else self.student.no_sync():  # type: ignore[operator]
                loss = self._loss(targets)
                (loss / result.utterances).backward()
            total += loss.detach()
            touched = [before or p.grad is not None for before, p in zip(touched, parameters, strict=True)]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            parts.append((square_norm(gradients), len(targets.tokens)))
            torch._foreach_add_(whole, gradients)
            self.optimizer.zero_grad(set_to_none=True)
        self.world.sum_tensors(whole)
        for parameter, gradient, has_gradient in zip(parameters, whole, touched, strict=True):
            # None, not zeros: an optimizer decays what has a gradient.
            parameter.grad = gradient if has_gradient else None
        result.loss = self.world.sum([total.item()])[0] / result.utterances
        return [part for of_rank in self.world.gather(parts) for part in of_rank]

    def _loss(self, targets: Targets) -> Tensor:
        """Sum of CTC losses over the utterances of a micro-batch (Graves et al. 2006)."""
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            log_probs_BTV, lengths_B = self.student(targets.features_BTF, targets.lengths_B)
        if not targets.tokens:
            return 0.0 * log_probs_BTV.sum()
        # Concatenated targets and lengths in int32 on the CPU would select cuDNN's kernel, which is not
        # deterministic; int64 on the device selects torch's own.
        device = log_probs_BTV.device
        labels = torch.tensor([t for tokens in targets.tokens for t in tokens], device=device)
        label_lengths_B = torch.tensor([len(tokens) for tokens in targets.tokens], device=device)
        return F.ctc_loss(
            log_probs_BTV.float().transpose(0, 1),
            labels,
            lengths_B,
            label_lengths_B,
            reduction="sum",
            zero_infinity=True,
        )

    def _nothing(self) -> Targets:
        """For a rank without utterances in this step: it must take part in the reduction all the same."""
        bands = self.features.mel.n_mels
        device = self.world.device
        return Targets(torch.zeros(1, 32, bands, device=device), torch.tensor([32], device=device), [])

    def _clip(self, result: StepResult) -> bool:
        """Clip the gradient; False if it is not finite. The same on all ranks: the gradient is."""
        limit = self.clip_norm if self.clip_norm > 0.0 else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.student.parameters(), limit)
        result.gradient_norm = float(norm)
        return bool(torch.isfinite(norm))


def _halves(targets: Targets) -> tuple[Targets, Targets]:
    """Every second utterance, so that both have the like lengths."""
    return (
        Targets(targets.features_BTF[::2], targets.lengths_B[::2], targets.tokens[::2]),
        Targets(targets.features_BTF[1::2], targets.lengths_B[1::2], targets.tokens[1::2]),
    )


def alignable(tokens: list[int], frames: int) -> bool:
    """Whether CTC can align the tokens: T >= S + repeats, since repeats need a blank between them."""
    repeats = sum(a == b for a, b in pairwise(tokens))
    return frames >= len(tokens) + repeats
