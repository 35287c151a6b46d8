"""Labels of a micro-batch, and the interface of pseudo-labelling strategies.

Axes: B utterances, T frames (padded), F mel bands, S tokens (padded), V labels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Label:
    """The label of one utterance.

    Attributes:
        confidence: of the labeller, in [0, 1].
        agreement: with a second label, in [0, 1]; 1 if there is none.
        blank_share: share of blank frames on the labeller's best path, in [0, 1]; None: unknown.
    """

    tokens: list[int]
    confidence: float = 1.0
    agreement: float = 1.0
    blank_share: float | None = None


@dataclass(frozen=True)
class Labels:
    """Labels of a micro-batch on any device. Reading them is the only wait for the device.

    Attributes:
        tokens_BS: long [B, S], zeros after the last token of each utterance; never the blank before that.
        lengths_B: long [B], tokens of each utterance.
        confidence_B: float32 [B], confidence of the labeller.
        agreement_B: float32 [B], agreement with a second label; None: there is none.
        known: the labels, if they are already on the host and need not be read from the device.
        blank_share_B: float32 [B], share of blank frames on the labeller's best path; None: unknown.
        soft_BTV: log-probabilities of the labeller, to train on frame by frame (strategy `soft`); None: only
            the tokens are trained on.
    """

    tokens_BS: Tensor
    lengths_B: Tensor
    confidence_B: Tensor
    agreement_B: Tensor | None = None
    known: Sequence[Label] | None = None
    blank_share_B: Tensor | None = None
    soft_BTV: Tensor | None = None

    @staticmethod
    def of(labels: Sequence[Label]) -> Labels:
        """From one label per utterance, on the CPU."""
        lengths = [len(label.tokens) for label in labels]
        tokens_BS = torch.zeros(len(labels), max(lengths, default=0), dtype=torch.long)
        for row, label in zip(tokens_BS, labels, strict=True):
            row[: len(label.tokens)] = torch.tensor(label.tokens, dtype=torch.long)
        return Labels(
            tokens_BS,
            torch.tensor(lengths, dtype=torch.long),
            torch.tensor([label.confidence for label in labels], dtype=torch.float32),
            torch.tensor([label.agreement for label in labels], dtype=torch.float32),
            labels,
        )

    def result(self) -> Labels:
        """These labels; see `PendingLabels.result`."""
        return self

    def to_list(self) -> Sequence[Label]:
        """The label of each utterance; waits for the device unless they are known."""
        return read_labels([self], Tensor.tolist)[0]

    def _packed(self) -> Tensor:
        """Lengths, confidence, agreement, share of blanks and tokens, float64, on the labels' device."""
        scores_B = [self.confidence_B]
        for one_B, unknown in ((self.agreement_B, 1.0), (self.blank_share_B, torch.nan)):
            scores_B.append(torch.full_like(self.confidence_B, unknown) if one_B is None else one_B)
        parts = (self.lengths_B, *scores_B, self.tokens_BS)
        return torch.cat([part.to(self.confidence_B.device).double().flatten() for part in parts])

    def _unpacked(self, values: Iterator[float]) -> list[Label]:
        """The label of each utterance, from the values of `_packed`."""
        count, width = self.tokens_BS.shape
        lengths, confidences, agreements, blanks = (list(islice(values, count)) for _ in range(4))
        tokens = ([int(token) for token in islice(values, width)][: int(length)] for length in lengths)
        shares = (None if math.isnan(share) else share for share in blanks)
        return [Label(*row) for row in zip(tokens, confidences, agreements, shares, strict=True)]


class PendingLabels:
    """Labels of a micro-batch whose searches have begun, for example in other processes.

    Args:
        finish: waits for the searches and returns the labels; called once at most.
    """

    def __init__(self, finish: Callable[[], Labels]) -> None:
        self._finish = finish
        self._labels: Labels | None = None

    def result(self) -> Labels:
        """The labels; waits for them."""
        if self._labels is None:
            self._labels = self._finish()
        return self._labels


def read_labels(labels: Sequence[Labels], to_list: Callable[[Tensor], list[float]]) -> list[Sequence[Label]]:
    """Read the labels of several micro-batches, waiting for their device once at most.

    Args:
        to_list: copies a tensor to the host.
    """
    packed = [one._packed() for one in labels if one.known is None]
    values = iter(to_list(torch.cat(packed)) if packed else [])
    return [one._unpacked(values) if one.known is None else one.known for one in labels]


@dataclass(frozen=True)
class LabelRequest:
    """The input of a strategy for one micro-batch.

    Attributes:
        ids: ids of the utterances.
        features: float [B, T, F], clean features.
        lengths: long [B], lengths in frames.
        seconds: audio of each utterance.
        targets: true tokens, if they are known.
        rows: indices of the utterances in their corpus.
        epoch: number of the pass, for random draws.
        waveforms_BN: float [B, N], the clean audio, on the device; None: only features are known.
    """

    ids: list[str]
    features: Tensor
    lengths: Tensor
    seconds: list[float]
    targets: list[list[int]] | None = None
    rows: list[int] = field(default_factory=list)
    epoch: int = 0
    waveforms_BN: Tensor | None = None


class Strategy(ABC):
    """Generates the labels for training on unlabelled micro-batches.

    Only `labels` is required. A strategy that keeps labels also overrides `keep`, `state_dict` and
    `load_state_dict`.
    """

    @abstractmethod
    def labels(self, batch: LabelRequest) -> Labels | PendingLabels:
        """The labels to train on, one row per utterance, in order; on any device, without waiting for it.

        Their searches may still run: `Labeller.begin` returns such labels.
        """

    def relabel(self, batch: LabelRequest) -> Labels | PendingLabels:
        """The new labels of a batch that is only labelled (see `data.label_plan`)."""
        return self.labels(batch)

    def previous(self, row: int) -> list[int] | None:
        """The label of an utterance in the previous pass, if the strategy keeps it; None: unknown.

        If a subclass overrides it, `keep` is called with the labels of each step.
        """
        return None

    def keep(self, labels: Mapping[int, Label]) -> None:  # noqa: B027 - optional
        """Keep new labels, by row. Called with those of all ranks, the same on each."""

    def state_dict(self) -> dict[str, Any]:
        """The state required for a resume, equal on all ranks."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - optional
        """The inverse of `state_dict`."""
