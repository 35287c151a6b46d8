"""Counts of substituted, deleted and inserted words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from asr_emapl.scoring.alignment import Alignment


@dataclass(frozen=True)
class Confusions:
    """Counts, the most frequent first and equal ones in the order of the alphabet.

    Attributes:
        substitutions: (reference word, hypothesis word, times).
        deletions: (reference word, times).
        insertions: (hypothesis word, times).
    """

    substitutions: list[tuple[str, str, int]]
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "substitutions": [list(entry) for entry in self.substitutions],
            "deletions": [list(entry) for entry in self.deletions],
            "insertions": [list(entry) for entry in self.insertions],
        }


def confusions(alignments: Iterable[Alignment], most: int) -> Confusions:
    """The `most` most frequent ones of each kind."""
    substituted: Counter[tuple[str, str]] = Counter()
    deleted: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    for alignment in alignments:
        for op in alignment.ops:
            if op.kind == "substitution":
                substituted[op.reference or "", op.hypothesis or ""] += 1
            elif op.kind == "deletion":
                deleted[op.reference or ""] += 1
            elif op.kind == "insertion":
                inserted[op.hypothesis or ""] += 1
    pairs = sorted(substituted.items(), key=lambda entry: (-entry[1], entry[0]))[:most]
    return Confusions(
        [(*pair, times) for pair, times in pairs], _ranked(deleted, most), _ranked(inserted, most)
    )


def _ranked(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:most]
