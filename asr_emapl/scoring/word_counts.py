"""Word counts over alignments: the most frequent confusions, and out-of-vocabulary words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from asr_emapl.errors import UserError
from asr_emapl.scoring.alignment import Alignment
from asr_emapl.scoring.transcripts import read_transcripts
from asr_emapl.storage import BrokenLineError, parse_lines, read_lines

_Key = TypeVar("_Key", str, tuple[str, str])

_SHOWN_WORDS = 20


@dataclass(frozen=True)
class Confusions:
    """Confused words with their counts, sorted by descending count, then alphabetically.

    A substitution is (reference word, hypothesis word, count).
    """

    substitutions: list[tuple[str, str, int]]
    deletions: list[tuple[str, int]]
    insertions: list[tuple[str, int]]


@dataclass(frozen=True)
class OutOfVocabulary:
    """The reference words that are not in a vocabulary.

    Attributes:
        vocabulary: number of words in the vocabulary.
        running: number of out-of-vocabulary reference words (tokens).
        words: number of all reference words.
        distinct: number of distinct out-of-vocabulary words.
        recognised: number of out-of-vocabulary tokens that are recognised correctly.
        most: the most frequent out-of-vocabulary words, with their counts.
    """

    vocabulary: int
    running: int
    words: int
    distinct: int
    recognised: int
    most: list[tuple[str, int]]

    @property
    def share(self) -> float:
        """running / words; 0 if there are no words."""
        return self.running / self.words if self.words else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and `share` as a JSON-serializable dict."""
        return {**asdict(self), "share": self.share}


def confusions(alignments: Iterable[Alignment], most: int) -> Confusions:
    """Return the `most` most frequent confusions of each kind."""
    ops = [op for alignment in alignments for op in alignment.ops]
    substituted = Counter(
        (op.reference or "", op.hypothesis or "") for op in ops if op.kind == "substitution"
    )
    deleted = Counter(op.reference or "" for op in ops if op.kind == "deletion")
    inserted = Counter(op.hypothesis or "" for op in ops if op.kind == "insertion")
    pairs = [(*pair, times) for pair, times in _most_frequent(substituted, most)]
    return Confusions(pairs, _most_frequent(deleted, most), _most_frequent(inserted, most))


def read_vocabulary(places: Iterable[str], normalise: Callable[[str], str]) -> frozenset[str]:
    """Return the words of word lists (one word per line) and of the references of manifests (JSON lines).

    Raises:
        UserError: a file cannot be read or is empty, or a line of a list has several words.
    """
    words: set[str] = set()
    for place in places:
        lines = list(read_lines(place))
        if not lines:
            raise UserError(f"{place}: no words; pass a list with one word per line, or a manifest")
        if lines[0][1].lstrip().startswith("{"):
            texts = list(read_transcripts(place).values())
        else:
            texts = [word for _, word in parse_lines(place, lines, _word)]
        words.update(word for text in texts for word in normalise(text).split())
    return frozenset(words)


def out_of_vocabulary(alignments: Iterable[Alignment], vocabulary: Set[str]) -> OutOfVocabulary:
    """Count the reference words of alignments that are not in `vocabulary`."""
    words = [(op.reference, op.kind) for a in alignments for op in a.ops if op.reference is not None]
    unknown = Counter(word for word, _ in words if word not in vocabulary)
    recognised = sum(kind == "correct" and word not in vocabulary for word, kind in words)
    most = _most_frequent(unknown, _SHOWN_WORDS)
    return OutOfVocabulary(len(vocabulary), unknown.total(), len(words), len(unknown), recognised, most)


def _most_frequent(counts: Counter[_Key], most: int) -> list[tuple[_Key, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:most]


def _word(line: str) -> str:
    word, *others = line.split()
    if others:
        raise BrokenLineError(f"{len(others) + 1} words; a word list has one word per line")
    return word
