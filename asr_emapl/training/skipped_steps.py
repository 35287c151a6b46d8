"""Steps that moved neither the student nor the teacher, told to whoever watches."""

from __future__ import annotations

from asr_emapl.training.step import StepResult


class SkippedSteps:
    """Counts skipped steps, and words lines about them, at most one in `every_seconds`."""

    def __init__(self, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self.steps = self.skipped = self._untold = 0
        self._told_at: float | None = None

    def step(self, number: int, labelled: bool, result: StepResult, now: float) -> str | None:
        """Count a step; the line to print about it, if it was skipped and one is due.

        Args:
            now: seconds on a clock that only goes forward.
        """
        self.steps += 1
        if result.taken:
            return None
        self.skipped += 1
        if self._told_at is not None and now - self._told_at < self.every_seconds:
            self._untold += 1
            return None
        others = f" ({self._untold} other steps since the last warning)" if self._untold else ""
        self._told_at, self._untold = now, 0
        return f"warning: step {number} was skipped: {_why(labelled, result)}{others}"

    def total(self) -> str | None:
        """The line to print at the end; None if no step was skipped."""
        if not self.skipped:
            return None
        return f"warning: {self.skipped} of {self.steps} steps were skipped; asr-emapl report says why"


def _why(labelled: bool, result: StepResult) -> str:
    if result.utterances:
        return "its gradient is not finite"
    kind = "labelled" if labelled else "unlabelled"
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.dropped.most_common())
    return f"all {result.dropped.total()} {kind} utterances were dropped ({reasons})"
