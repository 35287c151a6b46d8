"""Where the labels of untranscribed audio come from, and which of them are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from asr_emapl.ctc import greedy
from asr_emapl.ema import EmaTeacher


@dataclass
class PseudoLabelConfig:
    """Labels for untranscribed audio. Times in hours of audio consumed."""

    # none: a supervised run; ema: the teacher's greedy labels; oracle: the true texts, the upper bound.
    strategy: str = "none"
    start_hours: float = field(default=0.0, metadata={"least": 0.0, "most": 1e9})
    # Ratio in audio once they have begun.
    unlabelled_per_labelled: float = field(default=1.0, metadata={"least": 0.0, "most": 1e6})
    # Mean over frames of the teacher's highest probability, below which labels are dropped.
    min_confidence: float = field(default=0.0, metadata={"least": 0.0, "most": 1.0})
    # Tokens a second of audio outside of which labels are dropped.
    min_tokens_per_second: float = field(default=0.0, metadata={"least": 0.0, "most": 1e6})
    max_tokens_per_second: float = field(default=100.0, metadata={"least": 0.0, "most": 1e6})
    # The student's dropout from there on; None: unchanged.
    dropout: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})
    layerdrop: float | None = field(default=None, metadata={"least": 0.0, "most": 1.0})


@dataclass(frozen=True)
class Labels:
    """What the student is to learn of a batch, wherever it was made: nothing here waits for a device.

    Attributes:
        tokens_BS: long [B, S], zeros after each utterance's last; before that never the blank.
        lengths_B: long [B], tokens of each utterance.
        confidence_B: float32 [B], how sure the labeller is.
    """

    tokens_BS: Tensor
    lengths_B: Tensor
    confidence_B: Tensor

    @staticmethod
    def of(tokens: Sequence[Sequence[int]], confidences: Sequence[float] | None = None) -> Labels:
        """From one list of tokens an utterance, on the CPU; sure of all without `confidences`."""
        lengths = [len(t) for t in tokens]
        tokens_BS = torch.zeros(len(tokens), max(lengths, default=0), dtype=torch.long)
        for row, text in zip(tokens_BS, tokens, strict=True):
            row[: len(text)] = torch.tensor(text, dtype=torch.long)
        sure = torch.ones(len(tokens)) if confidences is None else torch.tensor(confidences)
        return Labels(tokens_BS, torch.tensor(lengths, dtype=torch.long), sure.float())


@dataclass(frozen=True)
class Unlabelled:
    """What a strategy sees: clean features [B, T, F], lengths [B] in frames and in seconds of audio."""

    ids: list[str]
    features: Tensor
    lengths: Tensor
    seconds: list[float]
    # The true tokens, if they are known; for the oracle only.
    targets: list[list[int]] | None = None


class Strategy(Protocol):
    """Labels for a batch. State is what a resume needs."""

    def labels(self, batch: Unlabelled) -> Labels:
        """A row an utterance, in order."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        ...


class EmaLabels:
    """Hard labels of the EMA teacher's best CTC path on clean audio, made anew for every batch.

    Eval mode, no SpecAugment, no dropout: as in slimIPL, MPL, Kaizen and AV-CPL alike.
    """

    def __init__(self, teacher: EmaTeacher, *, autocast: bool = False) -> None:
        self.teacher, self.autocast = teacher, autocast

    def labels(self, batch: Unlabelled) -> Labels:
        """See `Strategy.labels`; on the teacher's device, where they are made without waiting for it."""
        with (
            # Not in inference mode: CTC's backward pass may not hold on to labels made there, nor a sharded
            # teacher's weights, gathered there, be used outside.
            torch.no_grad(),
            torch.autocast(batch.features.device.type, torch.bfloat16, enabled=self.autocast),
        ):
            log_probs_BTV, lengths_B = self.teacher(batch.features, batch.lengths)
        paths = greedy(log_probs_BTV, lengths_B)
        return Labels(paths.labels, paths.label_lengths, paths.confidence)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the teacher has its own state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take."""


class OracleLabels:
    """The true texts: what perfect pseudo-labels would give with the same audio and schedule."""

    def labels(self, batch: Unlabelled) -> Labels:
        """See `Strategy.labels`."""
        assert batch.targets is not None
        return Labels.of(batch.targets)

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take."""


def rejection(tokens: int, confidence: float, seconds: float, config: PseudoLabelConfig) -> str | None:
    """Why a label of so many tokens is not to be trained on, or None.

    An empty label teaches blanks on speech, and a student that has learned them teaches the teacher: the
    way to collapse. It is dropped always.
    """
    if not tokens:
        return "empty"
    # So written that a NaN, the mark of a broken utterance, is low_confidence as well.
    if not confidence >= config.min_confidence:
        return "low_confidence"
    rate = tokens / seconds
    if rate < config.min_tokens_per_second:
        return "too_few_tokens"
    if rate > config.max_tokens_per_second:
        return "too_many_tokens"
    return None
