"""`soft`: the student learns the labeller's distribution of each frame. Experimental: known to collapse.

Likhomanenko et al. 2022 ("Continuous soft pseudo-labeling in ASR") train on the frame-level cross-entropy to
the labeller's posteriors. Nothing in it requires a token, so that student and labeller drift to blanks
together. Their best remedies are a slow teacher and a share of 10 % of the CTC loss on the hard label
(`pseudo_labels.hard_share`); hard labels alone remained better. The labels are those of strategy `ema`, with
the log-probabilities that they come from (`Labels.soft_BTV`).
"""

from __future__ import annotations

import torch
from torch import Tensor


def soft_loss(log_probs_BTV: Tensor, soft_BTV: Tensor, lengths_B: Tensor) -> Tensor:
    """Cross-entropy [B] to the labeller's distributions, summed over frames; the mean over the views.

    Args:
        log_probs_BTV: of one or more views of the utterances, [views x B, T, V].
        soft_BTV: log-probabilities of the labeller, without gradient; its frames are those of the student.
        lengths_B: long [B], frames without padding.
    """
    views = len(log_probs_BTV) // len(soft_BTV)
    frames = torch.arange(log_probs_BTV.shape[1], device=log_probs_BTV.device)
    entropy_BT = -(soft_BTV.exp().repeat(views, 1, 1) * log_probs_BTV).sum(-1)
    return (entropy_BT * (frames < lengths_B.repeat(views)[:, None])).sum(-1).view(views, -1).mean(0)
