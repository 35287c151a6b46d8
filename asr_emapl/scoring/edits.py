"""Word and character edits of many pairs, exactly and with little Python for each of them.

Of equally short alignments the one is taken that rapidfuzz's `Levenshtein.editops` finds, the same that jiwer
reports: so substitutions, deletions and insertions agree with jiwer's, not the errors alone. Those of sclite
differ, since it weighs errors: `asr_emapl.scoring.nist.sclite`.
Words are separated by whitespace; characters are counted over the words joined by single spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

Counts = NDArray[np.int64]
"""[U, 4], a row an utterance: substitutions, deletions, insertions, reference length."""


def word_edits(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Word errors of each pair of texts, `references[u]` with `hypotheses[u]`, both of length U."""
    return _edits(references, hypotheses, str.split)


def character_edits(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Character errors of each pair of texts, as `word_edits`."""
    return _edits(references, hypotheses, _spaced)


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _edits(
    references: Sequence[str], hypotheses: Sequence[str], parts: Callable[[str], Sequence[str]]
) -> Counts:
    """The edits of each pair, in what `parts` makes of a text.

    deletions - insertions is what the lengths differ by, so that an alignment can hold a deletion and an
    insertion beside these only if it has two errors more: most need not be looked at.
    """
    lengths: list[int] = []
    surplus: list[int] = []  # of the hypothesis
    errors: list[int] = []
    both: list[int] = []  # deletions that are made up for by insertions
    find = Levenshtein.editops
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        wanted = parts(reference)
        n = len(wanted)
        lengths.append(n)
        if reference == hypothesis:
            surplus.append(0)
            errors.append(0)
            both.append(0)
            continue
        given = parts(hypothesis)
        more = len(given) - n
        edits = find(wanted, given)
        e = len(edits)
        surplus.append(more)
        errors.append(e)
        if e - abs(more) < 2:
            both.append(0)
        else:
            hits = sum([block.size for block in edits.as_matching_blocks()])
            both.append(e + hits - (n if more < 0 else n + more))
    length, over, error, paired = np.array([lengths, surplus, errors, both], np.int64)
    deletions = np.maximum(-over, 0) + paired
    insertions = np.maximum(over, 0) + paired
    return np.stack([error - deletions - insertions, deletions, insertions, length], 1)
