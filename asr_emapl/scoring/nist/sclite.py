"""Alignments as NIST's sclite makes them: a substitution costs 4, a deletion or an insertion 3.

So sclite prefers a deletion and an insertion around a correct word to two substitutions, and may count more
errors than necessary. Among alignments of equal cost, it takes the one that, from the left, prefers a match
or substitution to an insertion, and an insertion to a deletion. This is not documented; the tests compare it
with sclite 2.10. sclite ignores case unless -s is given; here case counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

_SUBSTITUTION, _OTHER = 4, 3
_DIAGONAL, _INSERTION, _DELETION = range(3)


def sclite_steps(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[bool, bool]]:
    """The columns of the alignment: whether each has a word of the reference, and one of the hypothesis."""
    moves = _moves(reference, hypothesis)
    i, j = len(reference), len(hypothesis)
    steps = []
    while i or j:
        move = moves[i][j]
        steps.append((move != _INSERTION, move != _DELETION))
        i -= move != _INSERTION
        j -= move != _DELETION
    return steps[::-1]


def sclite_word_edits(references: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.int64]:
    """[U, 4], as `asr_emapl.scoring.edits.word_edits`, but of sclite's alignments."""
    rows = [
        _edits(reference.split(), hypothesis.split())
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 4)


def _edits(reference: list[str], hypothesis: list[str]) -> tuple[int, int, int, int]:
    n, m = len(reference), len(hypothesis)
    if reference == hypothesis:
        return 0, 0, 0, n
    # Costs so large that their remainder tells the substitutions; asked for once as many, once as few as
    # the least cost allows. Only where these differ does it matter which alignment sclite takes.
    unit = 2 * (n + m)
    fewest = _cost(reference, hypothesis, unit, 1)
    most = _cost(reference, hypothesis, unit, -1)
    substitutions = fewest % unit
    if substitutions == -most % unit:
        others = (fewest // unit - _SUBSTITUTION * substitutions) // _OTHER
        return substitutions, (others + n - m) // 2, (others + m - n) // 2, n
    steps = sclite_steps(reference, hypothesis)
    deletions, insertions = steps.count((True, False)), steps.count((False, True))
    i = j = substitutions = 0
    for wanted, given in steps:
        substitutions += wanted and given and reference[i] != hypothesis[j]
        i, j = i + wanted, j + given
    return substitutions, deletions, insertions, n


def _cost(reference: list[str], hypothesis: list[str], unit: int, extra: int) -> int:
    weights = (_OTHER * unit, _OTHER * unit, _SUBSTITUTION * unit + extra)
    return int(Levenshtein.distance(reference, hypothesis, weights=weights))


def _moves(reference: Sequence[str], hypothesis: Sequence[str]) -> list[bytearray]:
    """By which move each cell of the table of least costs is reached."""
    above = [_OTHER * j for j in range(len(hypothesis) + 1)]
    moves = [bytearray([_INSERTION]) * len(above)]
    for i, wanted in enumerate(reference, start=1):
        costs = [_OTHER * i]
        row = bytearray([_DELETION]) * len(above)
        for j, given in enumerate(hypothesis, start=1):
            diagonal = above[j - 1] + (0 if wanted == given else _SUBSTITUTION)
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
