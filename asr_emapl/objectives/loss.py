"""The student's loss on labels: CTC on one or two views of each utterance, and on intermediate layers.

Axes: B utterances, T output frames, V tokens, S tokens of a label. Two views are stacked along B: rows B to
2B - 1 are the second view of rows 0 to B - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from asr_emapl.settings import Share


@dataclass
class LossConfig:
    """The student's loss on labels."""

    consistency: Annotated[float, Ge(0.0), Le(100.0)] = 0.0
    """Weight of the consistency between two views of each utterance (CR-CTC, Yao et al. 2024, who use 0.2);
    0: one view. The views differ in their masks (augment) and dropout. Each step takes twice the time and
    memory, so halve device.max_seconds if memory is short; the audio counts once. The paper uses 2.5 times
    as many time masks with it."""
    per: Literal["utterance", "token"] = "utterance"
    """Divide the sum of the losses of a batch by its utterances or by its tokens, counted over all ranks. Per
    token, a batch of long utterances has no larger gradient than one of short utterances."""
    intermediate: Share = 0.3
    """Share of the CTC loss on the outputs of intermediate layers, if the model has such outputs in training
    (intermediate_layers of the TransformerCtc); the rest is on the last layer (Lee and Watanabe 2021)."""


def ctc_loss(
    log_probs_BTV: Tensor, tokens_BS: Tensor, frames: tuple[int, ...], counts: tuple[int, ...]
) -> Tensor:
    """CTC loss (Graves et al. 2006), mean over the views and sum over the utterances.

    Args:
        log_probs_BTV: of one or more views of the utterances, float32 [views x B, T, V].
        tokens_BS: long [B, S], padded.
        frames, counts: output frames and tokens of each utterance. They are on the CPU, as the kernel
            requires, so nothing waits for the student.
    """
    views = len(log_probs_BTV) // len(tokens_BS)
    # int64 tokens select torch's kernel, which supports texts of any length; int32 may select cuDNN's.
    loss = F.ctc_loss(
        log_probs_BTV.transpose(0, 1),
        tokens_BS.repeat(views, 1),
        torch.tensor(frames * views),
        torch.tensor(counts * views),
        reduction="sum",
        zero_infinity=True,
    )
    return loss / views


def consistency_loss(log_probs_BTV: Tensor, lengths_B: Tensor) -> Tensor:
    """Symmetric divergence between two views, summed over their frames (CR-CTC, equation 3).

    Half of the sum of D(b || a) and D(a || b), where the first distribution of each is a constant target.

    Args:
        log_probs_BTV: of two views, float32 [2B, T, V].
        lengths_B: long [B], output frames of each utterance.
    """
    targets_BTV = log_probs_BTV.detach().roll(len(lengths_B), 0)
    divergence_BT = F.kl_div(log_probs_BTV, targets_BTV, reduction="none", log_target=True).sum(-1)
    valid_BT = torch.arange(divergence_BT.shape[1], device=lengths_B.device) < lengths_B.repeat(2)[:, None]
    return 0.5 * (divergence_BT * valid_BT).sum()
