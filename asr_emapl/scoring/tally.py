"""Error counts of each utterance of a corpus, and their sums by speaker and by duration."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from asr_emapl.errors import UserError
from asr_emapl.scoring.alignment import Alignment, Weights, align
from asr_emapl.scoring.nist.sclite import sclite_word_edits
from asr_emapl.scoring.transcripts import TranscriptEntry
from asr_emapl.scoring.wer import Counts, Score, character_edits, match_ids, total, word_edits

DURATION_EDGES_S = (5.0, 10.0, 15.0, 20.0, 30.0)
"""Boundaries between the duration buckets, in seconds. A bucket includes its lower edge."""


@dataclass(frozen=True)
class ScoringConfig:
    """Scoring options.

    Attributes:
        allow_missing: score missing hypotheses as empty, and ignore extra ones.
        speaker_in_id: if no speaker is given, use the part of the id before the first - or _.
        weights: edit costs for word alignment, see `align`.
        resamples: number of bootstrap resamples; 0 disables intervals.
        seed: bootstrap seed.
    """

    allow_missing: bool = False
    speaker_in_id: bool = False
    weights: Weights = "levenshtein"
    resamples: int = 1000
    seed: int = 0


class ScoredPair(NamedTuple):
    """Reference and hypothesis of one utterance.

    A missing hypothesis is empty; an unknown speaker or duration is None.
    """

    reference: str
    hypothesis: str
    id: str
    speaker: str | None
    seconds: float | None


@dataclass(frozen=True)
class Tally:
    """Error counts of U utterances, in the order of the references.

    Attributes:
        pairs: the U utterances.
        words, characters: [U, 4]: substitutions, deletions, insertions, reference length.
        missing: ids of references without a hypothesis.
        extra: ids of hypotheses without a reference; they are not scored.
        weights: edit costs of the word alignment. Characters are always aligned with uniform costs.
    """

    pairs: Sequence[ScoredPair]
    words: Counts
    characters: Counts
    missing: Sequence[str] = ()
    extra: Sequence[str] = ()
    weights: Weights = "levenshtein"

    @property
    def score(self) -> Score:
        """The total score of the corpus."""
        return total(self.words, self.characters, len(self.missing), len(self.extra))

    @property
    def clusters(self) -> list[str] | None:
        """The speaker of each utterance; None if any speaker is unknown."""
        known = [pair.speaker for pair in self.pairs if pair.speaker is not None]
        return known if len(known) == len(self.pairs) else None

    @cached_property
    def alignments(self) -> list[Alignment]:
        """The word alignments, in the order of the utterances."""
        return [align(*pair[:4], self.weights) for pair in self.pairs]

    def by_speaker(self) -> dict[str, Score]:
        """Return the score of each known speaker, sorted by name."""
        return dict(sorted(self._by(pair.speaker for pair in self.pairs).items()))

    def by_duration(self) -> dict[str, Score]:
        """Return the score of each non-empty bucket of `DURATION_EDGES_S`, shortest first."""
        first, *_, last = DURATION_EDGES_S
        inner = [f"{low:g} to {high:g} s" for low, high in pairwise(DURATION_EDGES_S)]
        names = [f"below {first:g} s", *inner, f"from {last:g} s"]
        durations = [pair.seconds for pair in self.pairs]
        found = self._by(None if s is None else names[bisect(DURATION_EDGES_S, s)] for s in durations)
        return {name: found[name] for name in names if name in found}

    def _by(self, labels: Iterable[str | None]) -> dict[str, Score]:
        members: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            if label is not None:
                members.setdefault(label, []).append(i)
        return {label: total(self.words[rows], self.characters[rows]) for label, rows in members.items()}


def tally(
    references: Mapping[str, TranscriptEntry],
    hypotheses: Mapping[str, str],
    config: ScoringConfig,
    name: str = "",
) -> Tally:
    """Count the errors of hypotheses against references, matched by id as in `asr_emapl.scoring.score`.

    `name` identifies the hypotheses in error messages.

    Raises:
        UserError: there are no references, or an id occurs on one side only and `config.allow_missing` is
            not set.
    """
    try:
        missing, extra = match_ids(references, hypotheses, allow_missing=config.allow_missing)
    except UserError as error:
        raise UserError(f"{name}: {error}" if name else str(error)) from None
    pairs = [
        ScoredPair(entry.text, hypotheses.get(utterance, ""), utterance, entry.speaker, entry.seconds)
        for utterance, entry in references.items()
    ]
    texts, recognised = [pair.reference for pair in pairs], [pair.hypothesis for pair in pairs]
    edits = word_edits if config.weights == "levenshtein" else sclite_word_edits
    words, characters = edits(texts, recognised), character_edits(texts, recognised)
    return Tally(pairs, words, characters, missing, extra, config.weights)


def joined(tallies: Mapping[str, Tally]) -> Tally:
    """Join splits into one corpus. Ids get the split as prefix; equal speaker names are one speaker."""
    parts = list(tallies.values())
    return Tally(
        [pair._replace(id=f"{split}/{pair.id}") for split, part in tallies.items() for pair in part.pairs],
        np.concatenate([part.words for part in parts]),
        np.concatenate([part.characters for part in parts]),
        [f"{split}/{name}" for split, part in tallies.items() for name in part.missing],
        [f"{split}/{name}" for split, part in tallies.items() for name in part.extra],
        parts[0].weights,
    )
