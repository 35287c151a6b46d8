"""CTC paths of a batch: greedy or searched, with confidence; can labels be aligned? Imports only torch.

Axes: B utterances, T frames (padded), S tokens (padded), V labels (blank included). Results are padded and
stay on the device, which avoids synchronization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Confidence = Literal["frames", "tokens"]
"""frames: mean over the valid frames of the highest probability; tokens: `token_confidence`."""

Search = Callable[[Tensor], Tensor]
"""Log-probabilities [T, V] on the CPU to the label of each frame, long [T]."""


@dataclass(frozen=True)
class Paths:
    """A path of each utterance, and its labels with repeats collapsed and blanks removed.

    Attributes:
        labels: long [B, T], without blanks; padded with zeros.
        label_lengths: long [B], number of labels of each utterance.
        confidence: float32 [B], see `Confidence`; in (0, 1], or 0 for an utterance without frames.
        path: long [B, T], the label of each frame, blanks included; any value in the padding.
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
def greedy(log_probs: Tensor, lengths: Tensor, blank: int = 0) -> Paths:
    """The best path of each utterance, with the confidence of its frames, without a Python loop.

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
    frames = log_probs.shape[1]
    if lengths.device.type == "cpu" and bool(((lengths < 0) | (lengths > frames)).any()):
        raise ValueError(f"lengths must be in [0, {frames}], the frames of log_probs; got {lengths.tolist()}")
    lengths = lengths.to(log_probs.device, non_blocking=True)
    best_log_prob_BT, best_BT = log_probs.max(dim=-1)
    valid_BT = torch.arange(frames, device=log_probs.device) < lengths.unsqueeze(1)
    labels, label_lengths = collapse(best_BT, lengths, blank)
    probability_BT = torch.where(valid_BT, best_log_prob_BT.float().exp(), 0.0)
    # Low-precision log-probabilities can round to slightly above 0.
    confidence = (probability_BT.sum(dim=1) / lengths.clamp(min=1)).clamp(max=1.0)
    return Paths(labels, label_lengths, confidence, best_BT)


def search_path(search: Search, log_probs_BTV: Tensor, lengths_B: Tensor) -> Tensor:
    """The path of each utterance by a search on the CPU, long [B, T], on the device of the log-probabilities.

    Synchronizes with the device.
    """
    path_BT = torch.zeros(log_probs_BTV.shape[:2], dtype=torch.long)
    log_probs = log_probs_BTV.float().cpu()
    for row, log_probs_TV, frames in zip(path_BT, log_probs, lengths_B.tolist(), strict=True):
        if frames:
            row[:frames] = search(log_probs_TV[:frames])
    return path_BT.to(log_probs_BTV.device)


def labels_of_path(
    path_BT: Tensor, best: Paths, log_probs_BTV: Tensor, lengths_B: Tensor, confidence: Confidence = "frames"
) -> Paths:
    """The labels of a path, with their confidence. Does not synchronize.

    Training and `asr-emapl label` both make labels with it, so that they are the same.

    Args:
        path_BT: long [B, T], a path that was searched or drawn, or that of `best`.
        best: the result of `greedy`.
    """
    found = best
    if path_BT is not best.path:
        labels = collapse(path_BT, lengths_B.to(path_BT.device))
        found = Paths(*labels, best.confidence, path_BT)
    if confidence == "tokens":
        return replace(found, confidence=token_confidence(log_probs_BTV, lengths_B, path_BT))
    return found


def collapse(path_BT: Tensor, lengths_B: Tensor, blank: int = 0) -> tuple[Tensor, Tensor]:
    """Collapse repeats of a path and remove blanks; does not synchronize.

    Args:
        path_BT: long [B, T], the label of each frame.
        lengths_B: integer [B], valid frames of each utterance, on the same device.

    Returns:
        Labels, long [B, T], padded with zeros, and their numbers, long [B].
    """
    _, begins_BT = _emissions(path_BT, lengths_B, blank)
    batch, frames = path_BT.shape
    # Move the first frame of each label to the front; others go to an extra column, which is cut off.
    column_BT = torch.where(begins_BT, begins_BT.cumsum(dim=1) - 1, frames)
    labels = path_BT.new_zeros(batch, frames + 1).scatter_(1, column_BT, path_BT)[:, :frames]
    return labels, begins_BT.sum(dim=1)


def _emissions(path_BT: Tensor, lengths_B: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Whether each frame is valid and not blank, and whether it begins a label; bool [B, T] each."""
    frames = torch.arange(path_BT.shape[1], device=path_BT.device)
    emits_BT = (frames < lengths_B.unsqueeze(1)) & (path_BT != blank)
    begins_BT = emits_BT.clone()
    begins_BT[:, 1:] &= path_BT[:, 1:] != path_BT[:, :-1]  # a blank separates two equal labels
    return emits_BT, begins_BT


@torch.no_grad()
def token_confidence(log_probs_BTV: Tensor, lengths_B: Tensor, path_BT: Tensor) -> Tensor:
    """Geometric mean of the probabilities of the tokens of a path, float32 [B]; does not synchronize.

    The probability of a token is that of its best frame: the flanks of a CTC spike say nothing of the token,
    and a maximum, unlike a mean, does not depend on the order in which a GPU adds. Blanks do not count, so
    the confidence does not rise with silence or fall with the length of the label. It is 0 without tokens,
    and NaN for an utterance with a NaN on its path.

    Args:
        log_probs_BTV: float [B, T, V], log-probabilities; blank 0.
        lengths_B: long [B], valid frames of each utterance.
        path_BT: long [B, T], the label of each frame, on the device of the log-probabilities.
    """
    batch, frames = path_BT.shape
    lengths_B = lengths_B.to(path_BT.device, non_blocking=True)
    log_prob_BT = log_probs_BTV.gather(2, path_BT.unsqueeze(2)).squeeze(2).float()
    emits_BT, begins_BT = _emissions(path_BT, lengths_B, blank=0)
    # The place of the frame's token; frames without one are written to an extra column, which is cut off.
    place_BT = torch.where(emits_BT, begins_BT.cumsum(dim=1) - 1, frames)
    best_BS = log_prob_BT.new_full((batch, frames + 1), -torch.inf)
    best_BS = best_BS.scatter_reduce_(1, place_BT, log_prob_BT, "amax")[:, :frames]
    counts_B = begins_BT.sum(dim=1)
    place_BS = torch.arange(frames, device=path_BT.device).expand_as(best_BS)
    is_token_BS = place_BS < counts_B.unsqueeze(1)
    mean_B = torch.where(is_token_BS, best_BS, 0.0).sum(dim=1) / counts_B.clamp(min=1)
    confidence_B = torch.where(counts_B > 0, mean_B.exp().clamp(max=1.0), 0.0)
    is_broken_B = (log_prob_BT.isnan() & (place_BS < lengths_B.unsqueeze(1))).any(dim=1)
    return confidence_B.masked_fill(is_broken_B, torch.nan)


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
