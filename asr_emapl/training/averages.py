"""Averages of the student that are kept for evaluation only, apart from the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from asr_emapl.bias_corrected import BiasCorrectedAverage
from asr_emapl.checkpoints.manager import CheckpointConfig
from asr_emapl.distributed.fsdp import shard_state
from asr_emapl.running_mean import RunningMean


class EvaluationAverages:
    """The averages that the config asks for, by their entry in a checkpoint.

    Args:
        reference_seconds: audio of a reference step.
    """

    ENTRIES = ("running_mean", "bias_corrected")

    def __init__(self, student: nn.Module, config: CheckpointConfig, reference_seconds: float) -> None:
        self.averages: dict[str, RunningMean | BiasCorrectedAverage] = {}
        if config.running_mean:
            self.averages["running_mean"] = RunningMean(student)
        if config.bias_corrected:
            self.averages["bias_corrected"] = BiasCorrectedAverage(student, reference_seconds)

    def update(self, seconds: float) -> None:
        """Add the student after an optimizer step on this much audio."""
        for average in self.averages.values():
            average.update(seconds)

    def state_dict(self) -> dict[str, Any]:
        """Entries of a checkpoint; an average that is not kept is {}."""
        return {name: {} for name in self.ENTRIES} | {n: a.state_dict() for n, a in self.averages.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages that the checkpoint has; another one starts now."""
        for name, average in self.averages.items():
            if state.get(name):
                average.load_state_dict(shard_state(state[name], average.state_dict()))
