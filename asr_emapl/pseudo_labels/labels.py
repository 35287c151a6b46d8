"""Labels of a micro-batch, and the interface of what makes them.

Axes: B utterances, T frames (padded), F mel bands, S tokens (padded).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Label:
    """The label of one utterance.

    Attributes:
        confidence: of the labeller, in [0, 1].
        agreement: with a second label, in [0, 1]; 1 if there is none.
    """

    tokens: list[int]
    confidence: float = 1.0
    agreement: float = 1.0


@dataclass(frozen=True)
class Labels:
    """Labels of a micro-batch on any device. Reading them is the only wait for the device.

    Attributes:
        tokens_BS: long [B, S], zeros after the last token of each utterance; never the blank before that.
        lengths_B: long [B], tokens of each utterance.
        confidence_B: float32 [B], confidence of the labeller.
        agreement_B: float32 [B], agreement with a second label; None: there is none.
    """

    tokens_BS: Tensor
    lengths_B: Tensor
    confidence_B: Tensor
    agreement_B: Tensor | None = None

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
        )

    def packed(self) -> Tensor:
        """Lengths, confidence, agreement and tokens in one float64 tensor on the labels' device."""
        agreement_B = torch.ones_like(self.confidence_B) if self.agreement_B is None else self.agreement_B
        parts = (self.lengths_B, self.confidence_B, agreement_B.to(self.confidence_B.device), self.tokens_BS)
        return torch.cat([part.double().flatten() for part in parts])

    def to_list(self) -> list[Label]:
        """The label of each utterance; waits for the device."""
        return self.unpacked(self.packed().tolist())

    def unpacked(self, values: Sequence[float]) -> list[Label]:
        """The label of each utterance, from the values of `packed` on the CPU."""
        count, width = self.tokens_BS.shape
        lengths, confidences, agreements = (values[i * count : (i + 1) * count] for i in range(3))
        found = []
        for i, (length, confidence, agreement) in enumerate(
            zip(lengths, confidences, agreements, strict=True)
        ):
            start = 3 * count + i * width
            tokens = [int(token) for token in values[start : start + int(length)]]
            found.append(Label(tokens, confidence, agreement))
        return found


@dataclass(frozen=True)
class LabelRequest:
    """What a strategy sees of a micro-batch.

    Attributes:
        ids: of the utterances.
        features: float [B, T, F], clean.
        lengths: long [B], in frames.
        seconds: audio of each utterance.
        targets: true tokens, if they are known.
        rows: places of the utterances in their corpus.
        epoch: number of the pass, for random draws.
    """

    ids: list[str]
    features: Tensor
    lengths: Tensor
    seconds: list[float]
    targets: list[list[int]] | None = None
    rows: list[int] = field(default_factory=list)
    epoch: int = 0


class Strategy:
    """Makes the labels that unlabelled micro-batches are trained on.

    A strategy that makes new labels in each step overrides `labels` alone. One that keeps labels also
    overrides `keep`, `state_dict` and `load_state_dict`, and either `relabel`, for batches that are only
    labelled (see `data.label_plan`), or `previous`.
    """

    def labels(self, batch: LabelRequest) -> Labels:
        """The labels to train on, one row per utterance, in order; on any device, without waiting for it."""
        raise NotImplementedError

    def relabel(self, batch: LabelRequest) -> Labels:
        """The new labels of a batch that is only labelled."""
        raise NotImplementedError

    def previous(self, row: int) -> list[int] | None:
        """The label of an utterance in the pass before, if the strategy keeps it; None: not known.

        If a subclass overrides it, `keep` is called with the labels of each step.
        """
        return None

    def keep(self, labels: Mapping[int, Label]) -> None:
        """Keep new labels, by row. Called with those of all ranks, the same on each."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs, equal on all ranks."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
