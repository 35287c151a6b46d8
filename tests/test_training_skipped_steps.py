"""Lines about skipped steps: the first at once, then one in a while, and the total at the end."""

from __future__ import annotations

from collections import Counter

from asr_emapl.training.skipped_steps import SkippedSteps
from asr_emapl.training.step import StepResult

GOOD = StepResult(1.0, 1.0, utterances=4, tokens=20)
BROKEN = StepResult(1.0, float("nan"), utterances=4, tokens=20, taken=False)
BARREN = StepResult(0.0, 0.0, 0, 0, Counter(empty=3, low_confidence=1), taken=False)


def test_a_line_says_why_a_step_was_skipped():
    steps = SkippedSteps(every_seconds=10.0)
    assert steps.step(1, True, GOOD, now=0.0) is None
    assert steps.total() is None
    said = steps.step(2, False, BARREN, now=1.0)
    assert (
        said
        == "warning: step 2 was skipped: all 4 unlabelled utterances were dropped (3 empty, 1 low_confidence)"
    )
    said = steps.step(3, True, BROKEN, now=11.0)
    assert said == "warning: step 3 was skipped: its gradient is not finite"


def test_many_skipped_steps_are_few_lines_and_one_total():
    steps = SkippedSteps(every_seconds=10.0)
    said = [steps.step(number, True, BROKEN, now=float(number)) for number in range(100)]
    lines = [line for line in said if line is not None]
    assert len(lines) == 10
    assert all("(9 other steps since the last warning)" in line for line in lines[1:])
    steps.step(100, True, GOOD, now=100.0)
    assert "100 of 101 steps were skipped" in (steps.total() or "")
