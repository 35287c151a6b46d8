"""The range of tokens per second that transcripts have, as limits for pseudo-labels. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from asr_emapl.errors import UserError

QUANTILE = 0.01
"""Share of the transcripts that are ignored at each end, because some belong to other audio."""
MARGIN = 1.25
"""Factor by which the range is wider at each end: unlabelled audio has other speakers and pauses."""


def learned_rates(tokens: np.ndarray[Any, Any], seconds: np.ndarray[Any, Any]) -> list[float]:
    """Lowest and highest number of tokens per second: the 1 % and 99 % quantiles, widened by a quarter.

    Args:
        tokens: number of tokens of each transcript, [utterances].
        seconds: duration of each utterance, [utterances].

    Raises:
        UserError: all transcripts are empty.
    """
    rates = tokens[tokens > 0] / seconds[tokens > 0]
    if not len(rates):
        raise UserError(
            "pseudo_labels.tokens_per_second=learned: no labelled utterance has tokens; give two numbers"
        )
    low, high = np.quantile(rates, [QUANTILE, 1.0 - QUANTILE]).tolist()
    return [low / MARGIN, high * MARGIN]
