"""The model that the checks test, and its two test utterances.

Axes: B utterances, T feature frames, F features, T' output frames, V tokens (blank 0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LONG_FRAMES, SHORT_FRAMES = 64, 41
"""Lengths in frames of the two test utterances used by most checks."""

LEAST_FRAMES = 18
"""Frames in 0.2 s, the default data.min_seconds."""

TOLERANCE = 1e-4
"""Tolerance when comparing log-probabilities: different shapes may use different kernels."""

SEED = 0
"""Seed of the model's random initialisation."""

SHOWN_NAMES = 5  # maximum number of parameter names listed in a message


@dataclass(frozen=True)
class Subject:
    """The model under test, and a factory for further instances.

    Attributes:
        features_BTF: two utterances of `LONG_FRAMES` and `SHORT_FRAMES`, or their waveforms [B, N].
        unit: input frames per frame of this module: 1, or the samples of 10 ms.
    """

    model: nn.Module
    build: Callable[[], nn.Module]
    vocabulary_size: int
    features_BTF: Tensor
    lengths_B: Tensor
    unit: int = 1

    def evaluate(
        self, features_BTF: Tensor | None = None, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the model in eval mode, by default on the two test utterances."""
        return evaluate(
            self.model,
            self.features_BTF if features_BTF is None else features_BTF,
            self.lengths_B if lengths_B is None else lengths_B,
        )


def evaluate(model: nn.Module, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    model.eval()
    with torch.no_grad():
        return model(features_BTF, lengths_B)


def distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def backward(subject: Subject, seed: int = 0) -> Tensor:
    """Run one CTC backward pass in training mode with a fixed seed; return log-probabilities [B, T', V]."""
    torch.manual_seed(seed)
    subject.model.train().zero_grad(set_to_none=True)
    log_probs_BTV, lengths_B, *_ = subject.model(subject.features_BTF, subject.lengths_B)
    # One token per utterance can be aligned at any stride.
    labels_BS, label_lengths_B = torch.tensor([[1], [subject.vocabulary_size - 1]]), torch.tensor([1, 1])
    F.ctc_loss(log_probs_BTV.transpose(0, 1), labels_BS, lengths_B, label_lengths_B).backward()
    return log_probs_BTV.detach()
