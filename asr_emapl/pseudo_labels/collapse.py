"""Stops a run that no longer learns, while its last good checkpoints are still there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from asr_emapl.errors import UserError
from asr_emapl.report.usage import REMEDIES
from asr_emapl.training.step import StepResult

# Steps of one kind in a row without an utterance to train on, after which a run is stopped.
BARREN_STEPS = 100
# Steps in a row with a non-finite gradient, after which a run is stopped.
BROKEN_STEPS = 100
# So many are enough if they are a whole pass over the labelled audio.
BROKEN_STEPS_OF_A_PASS = 10

_WHY = {
    "unalignable": "need more output frames for their text than the model has",
    "empty": "have an empty label",
    "low_confidence": "have a label less confident than pseudo_labels.min_confidence",
    "too_few_tokens": "have a label with fewer tokens than pseudo_labels.min_tokens_per_second",
    "too_many_tokens": "have a label with more tokens than pseudo_labels.max_tokens_per_second",
    "undecodable": "have audio that cannot be decoded",
}


@dataclass
class _Stretch:
    """Steps in a row that taught nothing."""

    steps: int = 0
    utterances: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, result: StepResult) -> None:
        self.steps += 1
        self.utterances += result.utterances + result.dropped.total()
        self.dropped.update(result.dropped)

    @property
    def reason(self) -> str:
        """Why most of its utterances were dropped."""
        return self.dropped.most_common(1)[0][0]


class Guard:
    """Counts steps in a row that taught nothing, by what was wrong.

    What it sees is the same on all processes, and so is when it raises.

    Args:
        labelled, unlabelled: utterances of one pass over the labelled and the unlabelled audio.
    """

    def __init__(self, labelled: int, unlabelled: int) -> None:
        self._pass: Mapping[bool, int] = {True: labelled, False: unlabelled}
        self._barren = {True: _Stretch(), False: _Stretch()}
        self._broken = _Stretch()

    def step(self, number: int, labelled: bool, result: StepResult) -> None:
        """What became of a step.

        Raises:
            UserError: it was one too many: the audio of a whole pass, or 100 steps, taught nothing.
        """
        if result.utterances == 0:
            self._barren[labelled].add(result)
            self._require_labels(number, labelled)
            return
        self._barren[labelled] = _Stretch()
        if result.taken:
            self._broken = _Stretch()
            return
        self._broken.add(result)
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
        # A teacher that is not ready yet labels nothing; it may be once a short pass has come again.
        can_change = not labelled and barren.reason == "empty"
        is_pass = barren.utterances >= self._pass[labelled] and not can_change
        if not is_pass and barren.steps < BARREN_STEPS:
            return
        count = barren.dropped[barren.reason]
        remedy = REMEDIES[barren.reason]
        if can_change:
            remedy = (
                "the teacher has collapsed to blanks or never left them; start from a better seed "
                "(pseudo_labels.start_hours), or lengthen teacher.half_life_hours"
            )
        what = "labelled utterance" if labelled else "pseudo-label"
        raise UserError(
            f"no {what} could be used in {barren.steps} steps (step {number}): {count} of "
            f"{barren.utterances} utterances {_WHY[barren.reason]}: {remedy}"
        )
