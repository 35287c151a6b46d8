"""Stop a run that no longer learns, before its last good checkpoints are removed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.filters import reason_of
from asr_emapl.pseudo_labels.quality import LabelCounts

# A run ends after this number of consecutive steps of one kind without an utterance to train on ...
BARREN_STEPS = 100
# ... or of consecutive steps with a non-finite gradient ...
BROKEN_STEPS = 100
# ... or of fewer such steps, if they are a whole pass over the labelled audio.
BROKEN_STEPS_OF_A_PASS = 10

_COLLAPSED = (
    "the teacher has collapsed to blanks or predicts only blanks so far; train longer before pseudo-labels "
    "(pseudo_labels.start_hours), or lengthen teacher.half_life_hours"
)


@dataclass
class _Stretch:
    """Consecutive steps without progress."""

    steps: int = 0
    utterances: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, counts: LabelCounts) -> None:
        self.steps += 1
        self.utterances += counts.seen
        self.dropped.update(counts.dropped)

    @property
    def main_reason(self) -> str:
        return self.dropped.most_common(1)[0][0]


class CollapseGuard:
    """Counts consecutive steps without progress, by cause.

    Its input is the same on all processes, so all raise at the same step.

    Args:
        labelled, unlabelled: number of utterances in one pass over the labelled and the unlabelled audio.
    """

    def __init__(self, labelled: int, unlabelled: int) -> None:
        self._pass = {True: labelled, False: unlabelled}
        self._barren = {True: _Stretch(), False: _Stretch()}
        self._broken = _Stretch()

    def step(self, number: int, labelled: bool, counts: LabelCounts, taken: bool) -> None:
        """Count step `number`; `taken`: whether the weights were updated.

        Raises:
            UserError: there was no progress in a whole pass or in 100 steps.
        """
        if counts.utterances == 0:
            self._barren[labelled].add(counts)
            self._require_labels(number, labelled)
            return
        self._barren[labelled] = _Stretch()
        if taken:
            self._broken = _Stretch()
            return
        self._broken.add(counts)
        self._require_gradients(number)

    def _require_gradients(self, number: int) -> None:
        broken = self._broken
        is_pass = broken.utterances >= self._pass[True] and broken.steps >= BROKEN_STEPS_OF_A_PASS
        if is_pass or broken.steps >= BROKEN_STEPS:
            raise UserError(
                f"the gradient has not been finite for {broken.steps} steps (step {number}): "
                "lower optimizer.lr, lengthen schedule.warmup_hours, or use device.precision=fp32"
            )

    def _require_labels(self, number: int, labelled: bool) -> None:
        barren = self._barren[labelled]
        reason = barren.main_reason
        # If a pass is short, a teacher that predicts only blanks may improve in the next pass.
        can_change = not labelled and reason == "empty"
        is_pass = barren.utterances >= self._pass[labelled] and not can_change
        if not is_pass and barren.steps < BARREN_STEPS:
            return
        what = "labelled utterance" if labelled else "pseudo-label"
        raise UserError(
            f"no {what} could be used in {barren.steps} steps (step {number}): {barren.dropped[reason]} of "
            f"{barren.utterances} utterances {reason_of(reason).description}: "
            f"{_COLLAPSED if can_change else reason_of(reason).remedy}"
        )
