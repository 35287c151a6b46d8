"""Word alignments of a hypothesis with its reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rapidfuzz.distance import Levenshtein

from asr_emapl.scoring.nist.sclite import sclite_steps
from asr_emapl.scoring.wer import ErrorCounts

Weights = Literal["levenshtein", "sclite"]
"""What errors cost in the choice of an alignment."""

Kind = Literal["correct", "substitution", "deletion", "insertion"]


class Op(NamedTuple):
    """One column of an alignment. `reference` is None at an insertion, `hypothesis` at a deletion."""

    kind: Kind
    reference: str | None
    hypothesis: str | None


@dataclass(frozen=True, slots=True)
class Alignment:
    """A pair of texts as columns of words.

    Attributes:
        id: of the utterance.
        ops: the columns from left to right.
        speaker: who speaks, if known.
    """

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
        """The word errors; what `word_edits` or `sclite_word_edits` counts."""
        kinds = [op.kind for op in self.ops]
        substitutions, deletions = kinds.count("substitution"), kinds.count("deletion")
        insertions = kinds.count("insertion")
        return ErrorCounts(substitutions, deletions, insertions, len(kinds) - insertions)

    @property
    def correct(self) -> int:
        """Words of the reference that were recognised."""
        return sum(op.kind == "correct" for op in self.ops)


def align(
    reference: str,
    hypothesis: str,
    id: str = "",
    speaker: str | None = None,
    weights: Weights = "levenshtein",
) -> Alignment:
    """Align the words of two texts.

    Args:
        reference, hypothesis: the texts.
        id, speaker: of the utterance.
        weights: "levenshtein" for as few errors as can be, of equally short alignments the one that jiwer
            takes; "sclite" for sclite's own.
    """
    ops = _ops if weights == "levenshtein" else _sclite_ops
    return Alignment(id, tuple(ops(reference.split(), hypothesis.split())), speaker)


def _ops(reference: list[str], hypothesis: list[str]) -> Iterator[Op]:
    for code in Levenshtein.opcodes(reference, hypothesis):
        lost, new = reference[code.src_start : code.src_end], hypothesis[code.dest_start : code.dest_end]
        if code.tag == "insert":
            yield from (Op("insertion", None, word) for word in new)
        elif code.tag == "delete":
            yield from (Op("deletion", word, None) for word in lost)
        else:
            kind: Kind = "correct" if code.tag == "equal" else "substitution"
            yield from (Op(kind, wanted, given) for wanted, given in zip(lost, new, strict=True))


def _sclite_ops(reference: list[str], hypothesis: list[str]) -> Iterator[Op]:
    i = j = 0
    for wanted, given in sclite_steps(reference, hypothesis):
        if not wanted:
            yield Op("insertion", None, hypothesis[j])
        elif not given:
            yield Op("deletion", reference[i], None)
        else:
            kind: Kind = "correct" if reference[i] == hypothesis[j] else "substitution"
            yield Op(kind, reference[i], hypothesis[j])
        i, j = i + wanted, j + given
