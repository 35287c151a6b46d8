"""Error counts of each utterance of a corpus, and their sums by speaker and by duration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np

from asr_emapl.scoring.alignment import Alignment, Weights, align
from asr_emapl.scoring.edits import Counts, character_edits, word_edits
from asr_emapl.scoring.nist.sclite import sclite_word_edits
from asr_emapl.scoring.transcripts import TranscriptEntry
from asr_emapl.scoring.wer import Score, match_ids, total

_Entry = TypeVar("_Entry")

DURATION_EDGES_S = (5.0, 10.0, 15.0, 20.0, 30.0)
"""Where one bucket of durations ends and the next begins, in seconds."""


@dataclass(frozen=True)
class Tally:
    """Error counts utterance by utterance, U of them, in the order of the references.

    Attributes:
        ids: of the references.
        references, hypotheses: the texts; a missing hypothesis is empty.
        words, characters: substitutions, deletions, insertions, reference length.
        speakers: None where nobody knows.
        seconds: how long each utterance lasts; None where nobody knows.
        missing: ids of references without a hypothesis.
        extra: ids of hypotheses without a reference; they are not scored.
        weights: how words were aligned; characters are always with as few errors as can be.
    """

    ids: Sequence[str]
    references: Sequence[str]
    hypotheses: Sequence[str]
    words: Counts
    characters: Counts
    speakers: Sequence[str | None]
    seconds: Sequence[float | None]
    missing: Sequence[str] = ()
    extra: Sequence[str] = ()
    weights: Weights = "levenshtein"

    @property
    def score(self) -> Score:
        """Of the whole corpus."""
        return total(self.words, self.characters, len(self.missing), len(self.extra))

    @property
    def clusters(self) -> list[str] | None:
        """Who speaks each utterance; None unless that is known of all."""
        known = [speaker for speaker in self.speakers if speaker is not None]
        return known if len(known) == len(self.ids) else None

    def alignments(self) -> list[Alignment]:
        """Word by word, in the order of the utterances."""
        fields = zip(self.references, self.hypotheses, self.ids, self.speakers, strict=True)
        return [align(*entry, self.weights) for entry in fields]

    def by_speaker(self) -> dict[str, Score]:
        """A score for each speaker, by name; utterances of unknown ones have none."""
        return dict(sorted(self._by(self.speakers).items()))

    def by_duration(self, edges_s: Sequence[float] = DURATION_EDGES_S) -> dict[str, Score]:
        """A score for each bucket that is not empty, shortest first; an edge belongs to the bucket above."""
        names = [f"below {edges_s[0]:g} s"]
        names += [f"{low:g} to {high:g} s" for low, high in pairwise(edges_s)]
        names.append(f"from {edges_s[-1]:g} s")
        labels = [
            None if seconds is None else names[int(np.searchsorted(edges_s, seconds, side="right"))]
            for seconds in self.seconds
        ]
        found = self._by(labels)
        return {name: found[name] for name in names if name in found}

    def _by(self, labels: Sequence[str | None]) -> dict[str, Score]:
        members: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            if label is not None:
                members.setdefault(label, []).append(i)
        return {label: total(self.words[rows], self.characters[rows]) for label, rows in members.items()}


def tally(
    references: Mapping[str, TranscriptEntry],
    hypotheses: Mapping[str, str],
    *,
    allow_missing: bool = False,
    weights: Weights = "levenshtein",
) -> Tally:
    """Count the errors of hypotheses against references, matched by id, as `score` does.

    Args:
        references, hypotheses, allow_missing: as `score` takes them.
        weights: how words are aligned, as `align` takes it.

    Raises:
        UserError: no references; ids that only one side has, unless allowed.
    """
    missing, extra = match_ids(references, hypotheses, allow_missing=allow_missing)
    texts = [reference.text for reference in references.values()]
    spoken = [hypotheses.get(utterance, "") for utterance in references]
    return Tally(
        list(references),
        texts,
        spoken,
        (word_edits if weights == "levenshtein" else sclite_word_edits)(texts, spoken),
        character_edits(texts, spoken),
        [reference.speaker for reference in references.values()],
        [reference.seconds for reference in references.values()],
        missing,
        extra,
        weights,
    )


def joined(tallies: Mapping[str, Tally]) -> Tally:
    """All splits as one corpus. Ids get their split before them; a speaker of that name is one speaker."""
    return Tally(
        [f"{split}/{name}" for split, part in tallies.items() for name in part.ids],
        _chained(part.references for part in tallies.values()),
        _chained(part.hypotheses for part in tallies.values()),
        np.concatenate([part.words for part in tallies.values()]),
        np.concatenate([part.characters for part in tallies.values()]),
        _chained(part.speakers for part in tallies.values()),
        _chained(part.seconds for part in tallies.values()),
        [f"{split}/{name}" for split, part in tallies.items() for name in part.missing],
        [f"{split}/{name}" for split, part in tallies.items() for name in part.extra],
        next(iter(tallies.values())).weights,
    )


def _chained(parts: Iterable[Sequence[_Entry]]) -> list[_Entry]:
    return [entry for part in parts for entry in part]
