"""What ends a run that no longer learns, while its last good checkpoints are still there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.filters import REASONS
from asr_emapl.pseudo_labels.quality import LabelCounts

# Consecutive steps of one kind without an utterance to train on that end a run.
BARREN_STEPS = 100
# Consecutive steps with a non-finite gradient that end a run.
BROKEN_STEPS = 100
# Fewer are enough if they are a whole pass over the labelled audio.
BROKEN_STEPS_OF_A_PASS = 10

_COLLAPSED = (
    "the teacher has collapsed to blanks or never left them; start from a better seed "
    "(pseudo_labels.start_hours), or lengthen teacher.half_life_hours"
)


@dataclass
class _Stretch:
    """Consecutive steps that taught nothing."""

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
    """Counts consecutive steps that taught nothing, by what was wrong.

    Its input is the same on all processes, so all raise at the same step.

    Args:
        labelled, unlabelled: utterances of one pass over the labelled and the unlabelled audio.
    """

    def __init__(self, labelled: int, unlabelled: int) -> None:
        self._pass = {True: labelled, False: unlabelled}
        self._barren = {True: _Stretch(), False: _Stretch()}
        self._broken = _Stretch()

    def step(self, number: int, labelled: bool, counts: LabelCounts, taken: bool) -> None:
        """Count step `number`; `taken`: whether the optimizer moved.

        Raises:
            UserError: the audio of a whole pass, or 100 steps, taught nothing.
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
        # A teacher that labels nothing yet may do so after another pass, if a pass is short.
        can_change = not labelled and reason == "empty"
        is_pass = barren.utterances >= self._pass[labelled] and not can_change
        if not is_pass and barren.steps < BARREN_STEPS:
            return
        what = "labelled utterance" if labelled else "pseudo-label"
        raise UserError(
            f"no {what} could be used in {barren.steps} steps (step {number}): {barren.dropped[reason]} of "
            f"{barren.utterances} utterances {REASONS[reason].description}: "
            f"{_COLLAPSED if can_change else REASONS[reason].remedy}"
        )
