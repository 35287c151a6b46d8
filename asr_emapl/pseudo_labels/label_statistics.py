"""Numbers that describe a set of labels: how long and how varied they are, and how often they loop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from asr_emapl.pseudo_labels.filters import repeats
from asr_emapl.pseudo_labels.labels import Label

LOOP = 4
"""A label loops if a part of it, of up to 8 tokens, follows itself so often."""

_GROUPS = 10


def label_statistics(
    labels: Sequence[Sequence[int]], texts: Sequence[str], seconds: Sequence[float]
) -> dict[str, float]:
    """Describe labels of different utterances.

    Args:
        labels: tokens of each label; there is at least one.
        texts: the same labels as texts.
        seconds: audio of each utterance.

    Returns:
        nonempty: share of labels that are not empty; tokens_per_second, words_per_second: of audio; entropy:
        of the distribution of tokens, in nats; most_frequent: share of the most frequent label that is not
        empty; looping: share of labels that repeat a part `LOOP` times or more.
    """
    tokens, whole = Counter(chain.from_iterable(labels)), Counter(text for text in texts if text)
    count, audio = tokens.total(), sum(seconds)
    return {
        "nonempty": sum(bool(label) for label in labels) / len(labels),
        "tokens_per_second": count / audio,
        "words_per_second": sum(len(text.split()) for text in texts) / audio,
        "entropy": math.fsum(n / count * math.log(count / n) for n in tokens.values()),
        "most_frequent": max(whole.values(), default=0) / len(labels),
        "looping": sum(repeats(label) >= LOOP for label in labels) / len(labels),
    }


def label_scores(labels: Sequence[Label], *, has_second: bool) -> dict[str, float]:
    """Mean scores of labels, of which there is at least one.

    Args:
        has_second: whether they are compared with second labels.

    Returns:
        blank_share: share of blank frames, if it is known; agreement: with the second labels, if there are.
    """
    blanks = [label.blank_share for label in labels if label.blank_share is not None]
    found = {"blank_share": sum(blanks) / len(blanks)} if blanks else {}
    if has_second:
        found["agreement"] = sum(label.agreement for label in labels) / len(labels)
    return found


def errors_by_confidence(
    edits: np.ndarray[Any, np.dtype[np.int64]], confidences: Sequence[float]
) -> dict[str, list[int]]:
    """Errors and words in tenths of the labels, from the least to the most confident ones.

    Args:
        edits: int [N, 4], substitutions, deletions, insertions and words of each label.
        confidences: of each label; a NaN is the lowest.

    Returns:
        decile_errors, decile_words: ten numbers each, which can be added over sets of labels; nothing for
        fewer than ten labels.
    """
    if len(confidences) < _GROUPS:
        return {}
    order = np.argsort(np.nan_to_num(confidences, nan=-np.inf), kind="stable")
    groups = np.array_split(edits[order], _GROUPS)
    return {
        "decile_errors": [int(group[:, :3].sum()) for group in groups],
        "decile_words": [int(group[:, 3].sum()) for group in groups],
    }
