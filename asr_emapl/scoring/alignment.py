"""Word alignments of a hypothesis and its reference."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rapidfuzz.distance import Levenshtein

from asr_emapl.scoring.nist.sclite import EditKind, sclite_kinds
from asr_emapl.scoring.wer import ErrorCounts

Weights = Literal["levenshtein", "sclite"]
"""Edit costs for word alignment: uniform (as in jiwer) or sclite's."""

_MAX_PAIRS = 1 << 16  # (reference word, hypothesis word) pairs in a stretch without correct words


class Op(NamedTuple):
    """One column of an alignment. `reference` is None for an insertion, `hypothesis` for a deletion."""

    kind: EditKind
    reference: str | None
    hypothesis: str | None


@dataclass(frozen=True, slots=True)
class Alignment:
    """A word alignment of one utterance: aligned word pairs, left to right."""

    id: str
    ops: tuple[Op, ...]
    speaker: str | None = None

    @property
    def reference(self) -> list[str]:
        """The words of the reference."""
        return [op.reference for op in self.ops if op.reference is not None]

    @property
    def hypothesis(self) -> list[str]:
        """The words of the hypothesis."""
        return [op.hypothesis for op in self.ops if op.hypothesis is not None]

    @property
    def counts(self) -> ErrorCounts:
        """The word errors, equal to those of `word_edits` or `sclite_word_edits`."""
        kinds = Counter(op.kind for op in self.ops)
        insertions = kinds["insertion"]
        return ErrorCounts(kinds["substitution"], kinds["deletion"], insertions, len(self.ops) - insertions)


def align(
    reference: str,
    hypothesis: str,
    id: str = "",
    speaker: str | None = None,
    weights: Weights = "levenshtein",
) -> Alignment:
    """Align the words of a reference and a hypothesis with minimum cost under `weights`.

    With "levenshtein", the error counts equal jiwer's, and substitutions pair the most similar words.
    """
    words, recognised = reference.split(), hypothesis.split()
    find_kinds = sclite_kinds if weights == "sclite" else _levenshtein_kinds
    kinds = find_kinds(words, recognised)
    left, right = iter(words), iter(recognised)
    ops = tuple(
        Op(kind, None if kind == "insertion" else next(left), None if kind == "deletion" else next(right))
        for kind in kinds
    )
    return Alignment(id, ops, speaker)


def _levenshtein_kinds(words: list[str], recognised: list[str]) -> list[EditKind]:
    """Return the edit kinds of a minimum-error alignment, left to right."""
    kinds: list[EditKind] = []
    row = column = 0
    for block in Levenshtein.editops(words, recognised).as_matching_blocks():
        kinds += _error_kinds(words[row : block.a], recognised[column : block.b])
        kinds += ["correct"] * block.size
        row, column = block.a + block.size, block.b + block.size
    return kinds


def _error_kinds(words: list[str], recognised: list[str]) -> list[EditKind]:
    """Return the edit kinds for a stretch without correct words, with the most similar words paired.

    best[j] is the minimum distance between the first i words of the shorter side and an ordered subset of i
    of the first j words of the longer side.
    """
    extra: EditKind = "deletion" if len(words) > len(recognised) else "insertion"
    few, many = sorted((words, recognised), key=len)
    spare = len(many) - len(few)
    if not few or not spare or len(few) * len(many) > _MAX_PAIRS:
        substitutions: list[EditKind] = ["substitution"] * len(few)
        return substitutions + [extra] * spare
    best = [0.0] * (len(many) + 1)
    chosen: list[list[bool]] = []
    for i, word in enumerate(few):
        # Leave enough words on the longer side for the remaining words of the shorter side.
        before, best = best, [math.inf] * (len(many) + 1)
        chosen.append([False] * (len(many) + 1))
        for j in range(i, i + spare + 1):
            paired = before[j] + Levenshtein.normalized_distance(word, many[j])
            chosen[i][j + 1] = paired < best[j]
            best[j + 1] = min(paired, best[j])
    kinds: list[EditKind] = []
    i = len(few)
    for j in range(len(many), 0, -1):
        is_paired = i > 0 and chosen[i - 1][j]
        kinds.append("substitution" if is_paired else extra)
        i -= is_paired
    return kinds[::-1]
