"""Running mean of the weights, from which the average over any window can be computed later.

The half-life of an EMA has to be chosen beforehand. In contrast, two running means stored at different times
give the mean of the weights in between (as in icefall, but weighted by audio instead of steps).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asr_emapl.ema import unwrap
from asr_emapl.roster import Roster


class RunningMean:
    """The mean of the student over all audio so far: m <- m + (s / total) (theta - m) after a step on s.

    In float64, because a window is the difference of two almost equal means.

    Args:
        student: module to follow; wrappers (DDP, torch.compile) are removed.
    """

    def __init__(self, student: nn.Module) -> None:
        self._student = dict(unwrap(student).named_parameters(remove_duplicate=False))
        self._roster = Roster(unwrap(student))
        self.mean = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self._student.items()}
        self.audio = 0.0

    @torch.no_grad()
    def update(self, audio: float) -> None:
        """Add the student's weights after an optimizer step that consumed `audio` seconds.

        Raises:
            ValueError: audio is negative.
            RuntimeError: a parameter of the student was replaced.
        """
        changed = self._roster.changed()
        if changed is not None:
            raise RuntimeError(
                f"{changed} of the student was replaced (by another layer, or by "
                "load_state_dict(assign=True)); build a new RunningMean"
            )
        if audio < 0.0:
            raise ValueError(f"audio of a step must not be negative, got {audio}")
        if audio == 0.0:
            return
        self.audio += audio
        for name, mean in self.mean.items():
            mean.lerp_(self._student[name].to(torch.float64), audio / self.audio)

    def state_dict(self) -> dict[str, Any]:
        """The mean by parameter name, and its audio."""
        return {"mean": self.mean, "audio": self.audio}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a saved mean.

        Raises:
            ValueError: the names or shapes of the weights differ.
        """
        shapes = {name: mean.shape for name, mean in state["mean"].items()}
        if shapes != {name: mean.shape for name, mean in self.mean.items()}:
            raise ValueError("names or shapes of the running mean differ from those of the weights")
        for name, mean in self.mean.items():
            mean.copy_(state["mean"][name])
        self.audio = state["audio"]


def window(start: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, Tensor]:
    """The mean of the weights between two saved running means: (A_e m_e - A_s m_s) / (A_e - A_s).

    Args:
        start, end: from `RunningMean.state_dict` in one run; A is their audio.

    Returns:
        Float32 weights by parameter name.

    Raises:
        ValueError: `end` is not later than `start`, or they belong to different models.
    """
    audio = end["audio"] - start["audio"]
    if not audio > 0.0:
        raise ValueError(f"the window ends at {end['audio']:g} s of audio and starts at {start['audio']:g} s")
    if start["mean"].keys() != end["mean"].keys():
        raise ValueError("the two running means belong to different models")
    weights = {}
    for name, mean in end["mean"].items():
        before = start["mean"][name]
        if before.shape != mean.shape:
            raise ValueError(f"{name} has different shapes: {tuple(before.shape)} and {tuple(mean.shape)}")
        # This form avoids cancellation if the window is the whole run.
        weights[name] = (mean + (mean - before) * (start["audio"] / audio)).float()
    return weights
