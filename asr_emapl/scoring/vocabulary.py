"""Out-of-vocabulary words of references, and the error rate on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import asdict, dataclass
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.scoring.alignment import Alignment
from asr_emapl.scoring.transcripts import read_transcripts
from asr_emapl.storage import BrokenLineError, parse_lines, read_lines

_SHOWN_WORDS = 20


@dataclass(frozen=True)
class OutOfVocabulary:
    """The words of references that a vocabulary lacks.

    Attributes:
        vocabulary: words in it.
        running: how many of the references' words are not in it.
        words: the references' words.
        distinct: different words among `running`.
        recognised: how many of `running` the hypotheses have right.
        most: the most frequent of them, with how often they occur.
    """

    vocabulary: int
    running: int
    words: int
    distinct: int
    recognised: int
    most: list[tuple[str, int]]

    @property
    def share(self) -> float:
        """running / words; 0 where there are no words."""
        return self.running / self.words if self.words else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The counts and `share`, JSON-ready."""
        return {**asdict(self), "most": [list(entry) for entry in self.most], "share": self.share}


def read_vocabulary(places: Iterable[str], normalise: Callable[[str], str]) -> frozenset[str]:
    """The words of word lists (one a line) and of the references of manifests (lines of JSON), all together.

    Raises:
        UserError: a file cannot be read or is empty; a line of a list has several words.
    """
    words: set[str] = set()
    for place in places:
        lines = list(read_lines(place))
        if not lines:
            raise UserError(f"{place}: no words in it: name a list, one word a line, or a manifest")
        if lines[0][1].lstrip().startswith("{"):
            texts = list(read_transcripts(place).values())
        else:
            texts = [word for _, word in parse_lines(place, lines, _word)]
        words.update(word for text in texts for word in normalise(text).split())
    return frozenset(words)


def out_of_vocabulary(alignments: Iterable[Alignment], vocabulary: Set[str]) -> OutOfVocabulary:
    """Count the reference words of alignments that `vocabulary` lacks."""
    unknown: Counter[str] = Counter()
    words = recognised = 0
    for alignment in alignments:
        for op in alignment.ops:
            if op.reference is None:
                continue
            words += 1
            if op.reference not in vocabulary:
                unknown[op.reference] += 1
                recognised += op.kind == "correct"
    most = sorted(unknown.items(), key=lambda entry: (-entry[1], entry[0]))[:_SHOWN_WORDS]
    return OutOfVocabulary(len(vocabulary), unknown.total(), words, len(unknown), recognised, most)


def _word(line: str) -> str:
    word, *others = line.split()
    if others:
        raise BrokenLineError(f"{len(others) + 1} words: a list has one word a line")
    return word
