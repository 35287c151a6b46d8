"""Greedy CTC decoding of a batch, and a check that labels can be aligned. Imports only torch.

Axes: B utterances, T frames (padded), S tokens (padded), V labels (blank included). Results are padded and
stay on the device, which avoids synchronization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class GreedyPaths:
    """The best path of each utterance, with repeats collapsed and blanks removed.

    Attributes:
        labels: long [B, T], without blanks; padded with zeros.
        label_lengths: long [B], number of labels of each utterance.
        confidence: float32 [B], mean over the valid frames of the highest probability, in (0, 1];
            0 for an utterance without frames.
        path: long [B, T], the most probable label of each frame, blanks included; any value in the padding.
    """

    labels: Tensor
    label_lengths: Tensor
    confidence: Tensor
    path: Tensor

    def to_lists(self) -> list[list[int]]:
        """Return one list of labels per utterance. Synchronizes with the device."""
        lengths = self.label_lengths.tolist()
        rows = self.labels[:, : max(lengths, default=0)].tolist()
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]


@torch.no_grad()
def greedy(log_probs: Tensor, lengths: Tensor, blank: int = 0) -> GreedyPaths:
    """Decode all utterances of a batch, without a Python loop.

    Frames from `lengths` on are ignored, even if they contain NaN. A NaN in a valid frame makes that
    utterance's confidence NaN. Ties are resolved in favour of the lowest label.

    Args:
        log_probs: float [B, T, V], log-probabilities in any float dtype, on any device.
        lengths: integer [B], valid frames of each utterance, in [0, T].
        blank: label of the CTC blank.

    Raises:
        ValueError: shapes do not match, or a length is outside [0, T]. Lengths on a GPU are not checked,
            because that would synchronize with it.
    """
    if log_probs.dim() != 3 or lengths.shape != log_probs.shape[:1]:
        raise ValueError(
            "expected log_probs [B, T, V] and lengths [B], "
            f"got {list(log_probs.shape)} and {list(lengths.shape)}"
        )
    batch, frames, _ = log_probs.shape
    if lengths.device.type == "cpu" and bool(((lengths < 0) | (lengths > frames)).any()):
        raise ValueError(f"lengths must be in [0, {frames}], the frames of log_probs; got {lengths.tolist()}")
    lengths = lengths.to(log_probs.device, non_blocking=True)
    best_log_prob_BT, best_BT = log_probs.max(dim=-1)
    valid_BT = torch.arange(frames, device=log_probs.device) < lengths.unsqueeze(1)

    keep_BT = valid_BT & (best_BT != blank)
    keep_BT[:, 1:] &= best_BT[:, 1:] != best_BT[:, :-1]  # a blank separates two equal labels
    # Move kept labels to the front. All others are written to an extra column, which is cut off.
    column_BT = torch.where(keep_BT, keep_BT.cumsum(dim=1) - 1, frames)
    labels = best_BT.new_zeros(batch, frames + 1).scatter_(1, column_BT, best_BT)[:, :frames]

    probability_BT = torch.where(valid_BT, best_log_prob_BT.float().exp(), 0.0)
    # Low-precision log-probabilities can round to slightly above 0.
    confidence = (probability_BT.sum(dim=1) / lengths.clamp(min=1)).clamp(max=1.0)
    return GreedyPaths(labels, keep_BT.sum(dim=1), confidence, best_BT)


def frames_needed(tokens_BS: Tensor, lengths_B: Tensor) -> Tensor:
    """Number of frames that CTC needs to align the tokens, long [B]. Does not synchronize.

    Args:
        tokens_BS: long [B, S], padded.
        lengths_B: long [B], number of tokens of each utterance.
    """
    position = torch.arange(1, max(1, tokens_BS.shape[1]), device=tokens_BS.device)
    repeats_BS = (tokens_BS[:, 1:] == tokens_BS[:, :-1]) & (position < lengths_B[:, None])
    return lengths_B + repeats_BS.sum(dim=1)


def blank_share(path_BT: Tensor, lengths_B: Tensor, blank: int = 0) -> Tensor:
    """Share of the frames that are blank, float32 [B]; NaN without frames. Does not synchronize.

    Args:
        path_BT: long [B, T], the label of each frame.
        lengths_B: integer [B], valid frames of each utterance.
    """
    lengths_B = lengths_B.to(path_BT.device, non_blocking=True)
    valid_BT = torch.arange(path_BT.shape[1], device=path_BT.device) < lengths_B.unsqueeze(1)
    return ((path_BT == blank) & valid_BT).sum(dim=1) / lengths_B


def alignable(tokens: Sequence[int], frames: int) -> bool:
    """Whether CTC can align the tokens: T >= S + repeats, because repeated tokens need a blank in between."""
    return frames >= len(tokens) + sum(a == b for a, b in pairwise(tokens))
