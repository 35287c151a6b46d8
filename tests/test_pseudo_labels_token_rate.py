"""The range of tokens per second that is learned from transcripts."""

from __future__ import annotations

import numpy as np
import pytest

from asr_emapl.errors import UserError
from asr_emapl.pseudo_labels.token_rate import MARGIN, learned_rates


def test_the_range_holds_almost_all_transcripts_with_a_margin() -> None:
    rates = np.linspace(10.0, 20.0, 1001)
    seconds = np.linspace(1.0, 30.0, 1001)
    low, high = learned_rates(rates * seconds, seconds)
    assert low * MARGIN == pytest.approx(10.1)
    assert high / MARGIN == pytest.approx(19.9)


def test_a_few_wrong_and_empty_transcripts_do_not_widen_it() -> None:
    tokens, seconds = np.full(1000, 15), np.ones(1000)
    tokens[:4], tokens[4:8], tokens[8:400] = 1, 90, 0
    assert learned_rates(tokens, seconds) == pytest.approx([15 / MARGIN, 15 * MARGIN])


def test_a_single_transcript_is_enough() -> None:
    assert learned_rates(np.array([10]), np.array([2.0])) == pytest.approx([5 / MARGIN, 5 * MARGIN])


def test_nothing_can_be_learned_from_empty_transcripts() -> None:
    with pytest.raises(UserError, match="tokens_per_second"):
        learned_rates(np.zeros(3, dtype=int), np.ones(3))
