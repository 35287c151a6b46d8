"""Stops a run that no longer learns, while its last good checkpoints are still there."""

from __future__ import annotations

from asr_emapl.errors import UserError
from asr_emapl.training.step import StepResult

# Unlabelled steps in a row without one usable label, after which a run is stopped: it has collapsed.
BARREN_STEPS = 100
# Steps in a row with a non-finite gradient, after which a run is stopped.
BROKEN_STEPS = 100


class Guard:
    """Counts steps in a row that taught nothing, by what was wrong."""

    def __init__(self) -> None:
        self._broken, self._barren = 0, 0

    def step(self, number: int, labelled: bool, result: StepResult) -> None:
        """What became of a step.

        Raises:
            UserError: it was one too many.
        """
        broken = not result.taken and result.utterances > 0
        self._broken = self._broken + 1 if broken else 0
        if not labelled:
            self._barren = self._barren + 1 if result.utterances == 0 else 0
        if self._broken >= BROKEN_STEPS:
            raise UserError(
                f"the gradient has not been finite for {BROKEN_STEPS} steps (step {number}): "
                "lower optimizer.lr, lengthen schedule.warmup_hours, or use device.precision=fp32"
            )
        if self._barren >= BARREN_STEPS:
            raise UserError(
                f"no pseudo-label could be used for {BARREN_STEPS} steps (step {number}): the teacher has "
                "collapsed to blanks or never left them; start from a better seed "
                "(pseudo_labels.start_hours), lengthen teacher.half_life_hours, or loosen the filters"
            )
