"""Strategies that compute the labels of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from asr_emapl.ctc import frames_needed, greedy
from asr_emapl.ema import EmaTeacher


@dataclass(frozen=True)
class Labels:
    """Labels of a micro-batch, on any device. Only reading them synchronizes with the device.

    Attributes:
        tokens_BS: long [B, S], without blanks; padded with zeros.
        lengths_B: long [B], number of tokens of each utterance.
        confidence_B: float32 [B], confidence of each label.
    """

    tokens_BS: Tensor
    lengths_B: Tensor
    confidence_B: Tensor

    @staticmethod
    def of(tokens: Sequence[Sequence[int]], confidences: Sequence[float] | None = None) -> Labels:
        """Build labels on the CPU from one list of tokens per utterance; confidences are 1 by default."""
        lengths = [len(t) for t in tokens]
        tokens_BS = torch.zeros(len(tokens), max(lengths, default=0), dtype=torch.long)
        for row, text in zip(tokens_BS, tokens, strict=True):
            row[: len(text)] = torch.tensor(text, dtype=torch.long)
        confidence_B = torch.ones(len(tokens)) if confidences is None else torch.tensor(confidences)
        return Labels(tokens_BS, torch.tensor(lengths, dtype=torch.long), confidence_B.float())

    def numbers(self) -> Tensor:
        """Tokens, frames needed and confidence of each utterance, float64 [3, B] on the labels' device."""
        needed_B = frames_needed(self.tokens_BS, self.lengths_B)
        return torch.stack([self.lengths_B.double(), needed_B.double(), self.confidence_B.double()])


@dataclass(frozen=True)
class LabelRequest:
    """Input of a strategy: one micro-batch.

    Attributes:
        ids: ids of the utterances.
        features: float [B, T, F], clean.
        lengths: long [B], in frames.
        seconds: duration of each utterance.
        targets: true tokens, if known.
    """

    ids: list[str]
    features: Tensor
    lengths: Tensor
    seconds: list[float]
    targets: list[list[int]] | None = None


class Strategy(Protocol):
    """Computes labels."""

    def labels(self, batch: LabelRequest) -> Labels:
        """Return one row per utterance, in order."""
        ...


class TeacherLabels:
    """Hard labels from the EMA teacher's best CTC path on clean audio, computed for every batch.

    Eval mode, no SpecAugment, no dropout, as in slimIPL, MPL, Kaizen and AV-CPL.
    """

    def __init__(self, teacher: EmaTeacher, *, bf16: bool = False) -> None:
        self.teacher, self.bf16 = teacher, bf16

    def labels(self, batch: LabelRequest) -> Labels:
        """See `Strategy.labels`. The labels are on the teacher's device; does not synchronize."""
        with (
            # Not inference mode: its tensors cannot be saved for the CTC backward pass, and the gathered
            # weights of a sharded teacher could not be used outside of it.
            torch.no_grad(),
            torch.autocast(batch.features.device.type, torch.bfloat16, enabled=self.bf16),
        ):
            log_probs_BTV, lengths_B = self.teacher(batch.features, batch.lengths)
        paths = greedy(log_probs_BTV, lengths_B)
        return Labels(paths.labels, paths.label_lengths, paths.confidence)


class Transcripts:
    """The true tokens: for labelled audio, and for the oracle strategy, an upper bound of pseudo-labels."""

    def labels(self, batch: LabelRequest) -> Labels:
        """See `Strategy.labels`."""
        assert batch.targets is not None
        return Labels.of(batch.targets)


def build_strategy(name: str, teacher: EmaTeacher, *, bf16: bool) -> Strategy | None:
    """Build a strategy by name: "ema", "oracle" or "none" (supervised training), which returns None."""
    if name == "none":
        return None
    if name == "ema":
        return TeacherLabels(teacher, bf16=bf16)
    return Transcripts()
