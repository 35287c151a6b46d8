"""Word alignments of a hypothesis and its reference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rapidfuzz.distance import Levenshtein

from asr_emapl.scoring.nist.sclite import EditKind, sclite_kinds
from asr_emapl.scoring.wer import ErrorCounts

Weights = Literal["levenshtein", "sclite"]
"""Costs of errors when words are aligned: all equal (as in jiwer), or those of sclite."""

_KINDS: dict[str, EditKind] = {
    "equal": "correct",
    "replace": "substitution",
    "delete": "deletion",
    "insert": "insertion",
}


class Op(NamedTuple):
    """One column of an alignment. `reference` is None for an insertion, `hypothesis` for a deletion."""

    kind: EditKind
    reference: str | None
    hypothesis: str | None


@dataclass(frozen=True, slots=True)
class Alignment:
    """The texts of an utterance as aligned columns of words, from left to right."""

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
    """Align the words of two texts of an utterance, with the least cost under `weights`."""
    words, recognised = reference.split(), hypothesis.split()
    if weights == "sclite":
        kinds = sclite_kinds(words, recognised)
    else:
        kinds = [
            _KINDS[code.tag]
            for code in Levenshtein.opcodes(words, recognised)
            for _ in range(max(code.src_end - code.src_start, code.dest_end - code.dest_start))
        ]
    left, right = iter(words), iter(recognised)
    ops = tuple(
        Op(kind, None if kind == "insertion" else next(left), None if kind == "deletion" else next(right))
        for kind in kinds
    )
    return Alignment(id, ops, speaker)
