"""The plain mean of a run's weights, kept so that the average over any window can be taken afterwards.

An EMA has to know its half-life beforehand. A running mean from the beginning does not: two of them, stored
at two times, give the mean of what lies between (a device of icefall; here weighted by audio, not by steps)
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

    Float64, twice the student's size: a window is a difference of two means that have most digits in common.

    Args:
        student: the module to follow; wrappers (DDP, torch.compile) are seen through.
    """

    def __init__(self, student: nn.Module) -> None:
        self._student = dict(unwrap(student).named_parameters(remove_duplicate=False))
        self._roster = Roster(unwrap(student))
        self.mean = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in self._student.items()}
        self.audio = 0.0

    @torch.no_grad()
    def update(self, audio: float) -> None:
        """Take in the student after an optimizer step that consumed `audio` (seconds).

        Raises:
            ValueError: negative audio.
            RuntimeError: the student's parameters are no longer those of the beginning.
        """
        changed = self._roster.changed()
        if changed is not None:
            raise RuntimeError(
                f"{changed} of the student is not what the running mean was built with (a replaced layer, or "
                "load_state_dict(assign=True)); build a new RunningMean"
            )
        if audio < 0.0:
            raise ValueError(f"a step cannot consume {audio} of audio")
        if audio == 0.0:
            return
        self.audio += audio
        for name, mean in self.mean.items():
            mean.lerp_(self._student[name].to(torch.float64), audio / self.audio)

    def state_dict(self) -> dict[str, Any]:
        """The mean by parameter name, and the audio that it is over."""
        return {"mean": self.mean, "audio": self.audio}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved mean.

        Raises:
            ValueError: it is of another model.
        """
        shapes = {name: mean.shape for name, mean in state["mean"].items()}
        if shapes != {name: mean.shape for name, mean in self.mean.items()}:
            raise ValueError("the running mean has other names or shapes than the weights")
        for name, mean in self.mean.items():
            mean.copy_(state["mean"][name])
        self.audio = state["audio"]


def window(start: Mapping[str, Any], end: Mapping[str, Any]) -> dict[str, Tensor]:
    """The mean of the weights between two saved running means: (A_e m_e - A_s m_s) / (A_e - A_s).

    Args:
        start, end: as `RunningMean.state_dict` returned them in one run; A is their audio.

    Returns:
        Float32 weights by parameter name.

    Raises:
        ValueError: `end` is not later than `start`, or they are of different models.
    """
    left = end["audio"] - start["audio"]
    if not left > 0.0:
        raise ValueError(f"the window ends at {end['audio']:g} s of audio and begins at {start['audio']:g} s")
    if start["mean"].keys() != end["mean"].keys():
        raise ValueError("the two running means are of different models")
    weights = {}
    for name, mean in end["mean"].items():
        before = start["mean"][name]
        if before.shape != mean.shape:
            raise ValueError(
                f"{name} has shape {tuple(before.shape)} in one and {tuple(mean.shape)} in the other"
            )
        # As a step from the later mean: nothing cancels if the window is the whole run.
        weights[name] = (mean + (mean - before) * (start["audio"] / left)).float()
    return weights
