"""Error counts of each utterance of a corpus, and their sums by speaker and by duration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np

from asr_emapl.scoring.alignment import Alignment, Weights, align
from asr_emapl.scoring.nist.sclite import sclite_word_edits
from asr_emapl.scoring.transcripts import TranscriptEntry
from asr_emapl.scoring.wer import Counts, Score, character_edits, match_ids, total, word_edits

DURATION_EDGES_S = (5.0, 10.0, 15.0, 20.0, 30.0)
"""Boundaries between the duration buckets, in seconds."""


@dataclass(frozen=True)
class Tally:
    """Error counts of U utterances, in the order of the references.

    Attributes:
        ids: ids of the references.
        references, hypotheses: the texts; a missing hypothesis is empty.
        words, characters: [U, 4]: substitutions, deletions, insertions, reference length.
        speakers: speaker of each utterance, None if unknown.
        seconds: duration of each utterance, None if unknown.
        missing: ids of references without a hypothesis.
        extra: ids of hypotheses without a reference; they are not scored.
        weights: how words were aligned. Characters are always aligned with the fewest errors.
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
        """The score of the corpus."""
        return total(self.words, self.characters, len(self.missing), len(self.extra))

    @property
    def clusters(self) -> list[str] | None:
        """The speaker of each utterance; None unless all are known."""
        known = [speaker for speaker in self.speakers if speaker is not None]
        return known if len(known) == len(self.ids) else None

    def alignments(self) -> list[Alignment]:
        """Return the word alignments, in the order of the utterances."""
        fields = zip(self.references, self.hypotheses, self.ids, self.speakers, strict=True)
        return [align(*entry, self.weights) for entry in fields]

    def by_speaker(self) -> dict[str, Score]:
        """Return the score of each known speaker, sorted by name."""
        return dict(sorted(self._by(self.speakers).items()))

    def by_duration(self) -> dict[str, Score]:
        """Return the score of each non-empty bucket of `DURATION_EDGES_S`, shortest first.

        A bucket includes its lower edge.
        """
        edges = DURATION_EDGES_S
        names = [
            f"below {edges[0]:g} s",
            *(f"{low:g} to {high:g} s" for low, high in pairwise(edges)),
            f"from {edges[-1]:g} s",
        ]
        found = self._by(
            [
                None if seconds is None else names[int(np.searchsorted(edges, seconds, side="right"))]
                for seconds in self.seconds
            ]
        )
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
    """Count the errors of hypotheses against references, matched by id, as `asr_emapl.scoring.score` does.

    Args:
        references, hypotheses, allow_missing: as in `score`.
        weights: as in `align`.

    Raises:
        UserError: there are no references, or only one side has an id and `allow_missing` is not set.
    """
    missing, extra = match_ids(references, hypotheses, allow_missing=allow_missing)
    texts = [reference.text for reference in references.values()]
    recognised = [hypotheses.get(utterance, "") for utterance in references]
    return Tally(
        list(references),
        texts,
        recognised,
        (word_edits if weights == "levenshtein" else sclite_word_edits)(texts, recognised),
        character_edits(texts, recognised),
        [reference.speaker for reference in references.values()],
        [reference.seconds for reference in references.values()],
        missing,
        extra,
        weights,
    )


def joined(tallies: Mapping[str, Tally]) -> Tally:
    """Join splits to one corpus. Ids are prefixed with their split; equal speaker names are one speaker."""
    parts = tallies.values()

    def prefixed(ids: Iterable[Sequence[str]]) -> list[str]:
        return [f"{split}/{name}" for split, names in zip(tallies, ids, strict=True) for name in names]

    return Tally(
        prefixed(part.ids for part in parts),
        list(chain.from_iterable(part.references for part in parts)),
        list(chain.from_iterable(part.hypotheses for part in parts)),
        np.concatenate([part.words for part in parts]),
        np.concatenate([part.characters for part in parts]),
        list(chain.from_iterable(part.speakers for part in parts)),
        list(chain.from_iterable(part.seconds for part in parts)),
        prefixed(part.missing for part in parts),
        prefixed(part.extra for part in parts),
        next(iter(parts)).weights,
    )
