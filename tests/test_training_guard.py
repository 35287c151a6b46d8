"""A run that no longer learns is stopped; one that stumbles is not."""

from __future__ import annotations

import pytest

from asr_emapl.errors import UserError
from asr_emapl.training.guard import BARREN_STEPS, BROKEN_STEPS, Guard
from asr_emapl.training.step import StepResult

GOOD = StepResult(1.0, 1.0, utterances=4, tokens=20)
BROKEN = StepResult(1.0, float("nan"), utterances=4, tokens=20, taken=False)
BARREN = StepResult(0.0, 0.0, utterances=0, tokens=0, taken=False)


@pytest.mark.parametrize(
    ("labelled", "bad", "most", "message"),
    [(True, BROKEN, BROKEN_STEPS, "not been finite"), (False, BARREN, BARREN_STEPS, "no pseudo-label")],
)
def test_so_many_bad_steps_in_a_row_and_not_one_fewer(labelled, bad, most, message):
    guard = Guard()
    for result in [bad] * (most - 1) + [GOOD] + [bad] * (most - 1):
        guard.step(7, labelled, result)
    with pytest.raises(UserError, match=rf"{message}.*step 8"):
        guard.step(8, labelled, bad)


def test_labelled_steps_between_barren_ones_make_nothing_good():
    guard = Guard()
    for _ in range(BARREN_STEPS - 1):
        guard.step(1, False, BARREN)
        guard.step(2, True, GOOD)
    with pytest.raises(UserError, match="no pseudo-label"):
        guard.step(3, False, BARREN)
