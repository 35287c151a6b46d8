"""Alignments equal to those of NIST's sclite: a substitution costs 4, a deletion or an insertion 3.

A deletion and an insertion with a correct word between them cost less than two substitutions, so sclite may
count more errors than the minimum. Ties are broken in each cell of the cost table: match or substitution
before insertion, insertion before deletion. This is undocumented; tests verify it against sclite 2.10. Unlike
sclite without -s, this module is case-sensitive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

EditKind = Literal["correct", "substitution", "deletion", "insertion"]

_SUBSTITUTION, _OTHER = 4, 3
_DIAGONAL, _INSERTION, _DELETION = range(3)


def sclite_kinds(reference: Sequence[str], hypothesis: Sequence[str]) -> list[EditKind]:
    """Return the edit kinds of the alignment, left to right."""
    moves = _moves(reference, hypothesis)
    i, j = len(reference), len(hypothesis)
    kinds: list[EditKind] = []
    while i or j:
        move = moves[i][j]
        i -= move != _INSERTION
        j -= move != _DELETION
        if move == _DIAGONAL:
            kinds.append("correct" if reference[i] == hypothesis[j] else "substitution")
        else:
            kinds.append("insertion" if move == _INSERTION else "deletion")
    return kinds[::-1]


def sclite_word_edits(references: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.int64]:
    """Count the word errors of sclite's alignments: [U, 4], see `asr_emapl.scoring.wer.word_edits`."""
    pairs = zip(references, hypotheses, strict=True)
    return np.array([_edits(a.split(), b.split()) for a, b in pairs], np.int64).reshape(-1, 4)


def _edits(reference: list[str], hypothesis: list[str]) -> tuple[int, int, int, int]:
    n, m = len(reference), len(hypothesis)
    if reference == hypothesis:
        return 0, 0, 0, n
    # Costs are scaled so that cost % unit is the number of substitutions. Find the minimum and the maximum
    # number among minimum-cost alignments; the full alignment is needed only if they differ.
    unit = 2 * (n + m)
    fewest = _cost(reference, hypothesis, unit, 1)
    substitutions = fewest % unit
    if substitutions == -_cost(reference, hypothesis, unit, -1) % unit:
        others = (fewest // unit - _SUBSTITUTION * substitutions) // _OTHER
        return substitutions, (others + n - m) // 2, (others + m - n) // 2, n
    kinds = sclite_kinds(reference, hypothesis)
    return kinds.count("substitution"), kinds.count("deletion"), kinds.count("insertion"), n


def _cost(reference: list[str], hypothesis: list[str], unit: int, extra: int) -> int:
    weights = (_OTHER * unit, _OTHER * unit, _SUBSTITUTION * unit + extra)
    return int(Levenshtein.distance(reference, hypothesis, weights=weights))


def _moves(reference: Sequence[str], hypothesis: Sequence[str]) -> list[bytearray]:
    """Return the move that reaches each cell of the cost table."""
    above = [_OTHER * j for j in range(len(hypothesis) + 1)]
    moves = [bytearray([_INSERTION]) * len(above)]
    for i, wanted in enumerate(reference, start=1):
        costs = [_OTHER * i]
        row = bytearray([_DELETION]) * len(above)
        for j, recognised in enumerate(hypothesis, start=1):
            diagonal = above[j - 1] + (0 if wanted == recognised else _SUBSTITUTION)
            insertion, deletion = costs[j - 1] + _OTHER, above[j] + _OTHER
            least = min(diagonal, insertion, deletion)
            costs.append(least)
            if diagonal == least:
                row[j] = _DIAGONAL
            elif insertion == least:
                row[j] = _INSERTION
        moves.append(row)
        above = costs
    return moves
