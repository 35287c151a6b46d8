"""Emit blanks in digital silence. Models that were trained without digital silence output words there.

Axes: B utterances, N samples (padded), T output frames (padded), V labels (including the CTC blank).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_emapl.audio import SAMPLE_RATE_HZ

PEAK = 1e-4
"""Largest absolute sample of digital silence (-80 dB re full scale); recorded silence is louder."""

SHORTEST_SECONDS = 0.1
"""Shorter silence may be part of a word, such as the closure of a plosive in processed audio."""


def blank_silence(log_probs_BTV: Tensor, waveforms_BN: Tensor, seconds_per_frame: float) -> Tensor:
    """Return the log-probabilities with blank probability 1 in frames of digital silence."""
    silent_BT = silent_frames(waveforms_BN, log_probs_BTV.shape[1], seconds_per_frame)
    only_blank = log_probs_BTV.new_full(log_probs_BTV.shape[2:], -torch.inf)
    only_blank[0] = 0.0
    return torch.where(silent_BT[..., None], only_blank, log_probs_BTV)


def silent_frames(waveforms_BN: Tensor, frames: int, seconds_per_frame: float) -> Tensor:
    """Return bool [B, T]: output frames in digital silence of at least `SHORTEST_SECONDS`."""
    loud_BN = waveforms_BN.abs() > PEAK
    counts_BN = F.pad(loud_BN.cumsum(1, dtype=torch.int32), (1, 0))  # half the time of int64
    edges_T = torch.arange(frames + 1, device=waveforms_BN.device) * (seconds_per_frame * SAMPLE_RATE_HZ)
    edges_T = edges_T.round().long().clamp(max=waveforms_BN.shape[1])
    quiet_BT = counts_BN[:, edges_T].diff(dim=1) == 0
    run = max(1, round(SHORTEST_SECONDS / seconds_per_frame))
    if frames < run:
        return torch.zeros_like(quiet_BT)
    starts_BT = quiet_BT.unfold(1, run, 1).all(-1)
    return F.pad(starts_BT, (run - 1, run - 1)).unfold(1, run, 1).any(-1)
