"""Word and character error counts of a corpus; the rates are quotients of corpus sums, never means of means.

The counts are those of jiwer's `process_words` and `process_characters` with their default transforms, with
the same choice where several alignments are equally short (`asr_emapl.scoring.edits`). The spaces between
words are characters, one for any white space (jiwer counts a double space as two). Case and punctuation
count: normalise both sides first.

One difference from jiwer 4: of an all-empty reference jiwer's rate is the *number* of insertions; here it is
infinite (or 0 without errors), which no one can mistake for a rate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from asr_emapl.errors import UserError, listing
from asr_emapl.scoring.edits import Counts, character_edits, word_edits
from asr_emapl.scoring.written_forms import are_alike

_SHOWN_IDS = 10  # ids of each kind that an error lists
_ID_LETTERS = 200


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn references into hypotheses, in words or characters; they add up over a corpus.

    Attributes:
        substitutions, deletions, insertions: numbers of edits.
        reference_length: words or characters of the references.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0

    @property
    def errors(self) -> int:
        """Substitutions + deletions + insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """errors / reference_length (1.0 is 100 %, not the most). Empty reference: 0, or inf with errors."""
        if self.reference_length == 0:
            return math.inf if self.errors else 0.0
        return self.errors / self.reference_length

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference_length + other.reference_length,
        )

    def to_dict(self) -> dict[str, Any]:
        """The counts, `errors` and `rate`, JSON-ready: an infinite rate is None (JSON has no infinity)."""
        return {
            **asdict(self),
            "errors": self.errors,
            "rate": self.rate if math.isfinite(self.rate) else None,
        }


@dataclass(frozen=True)
class Score:
    """Error counts of a corpus. Scores of disjoint parts of a corpus add up to the score of the whole.

    Attributes:
        words, characters: the counts behind `words.rate` (WER) and `characters.rate` (CER).
        sentences_wrong: references whose words the hypothesis does not match exactly.
        sentences: references scored.
        missing: references without a hypothesis; each was scored as an empty hypothesis.
        extra: hypotheses without a reference; they were not scored.
    """

    words: ErrorCounts
    characters: ErrorCounts
    sentences_wrong: int
    sentences: int
    missing: int = 0
    extra: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.words + other.words,
            self.characters + other.characters,
            self.sentences_wrong + other.sentences_wrong,
            self.sentences + other.sentences,
            self.missing + other.missing,
            self.extra + other.extra,
        )

    def to_dict(self) -> dict[str, Any]:
        """All counts and rates in nested dicts of numbers, JSON-ready."""
        return {
            "words": self.words.to_dict(),
            "characters": self.characters.to_dict(),
            "sentences_wrong": self.sentences_wrong,
            "sentences": self.sentences,
            "missing": self.missing,
            "extra": self.extra,
        }


def score(
    references: Mapping[str, str], hypotheses: Mapping[str, str], *, allow_missing: bool = False
) -> Score:
    """Score hypotheses against references, matched by utterance id.

    Args:
        references: id -> true transcript.
        hypotheses: id -> recognised transcript.
        allow_missing: count a missing hypothesis as an empty one (all deletions) and leave out hypotheses
            without a reference, both noted in the result, instead of raising.

    Raises:
        UserError: no references; ids that only one side has, unless allowed.
    """
    missing, extra = match_ids(references, hypotheses, allow_missing=allow_missing)
    texts = list(references.values())
    spoken = [hypotheses.get(utterance, "") for utterance in references]
    return total(word_edits(texts, spoken), character_edits(texts, spoken), len(missing), len(extra))


def total(words: Counts, characters: Counts, missing: int = 0, extra: int = 0) -> Score:
    """The score of utterances whose edits are known, as `word_edits` and `character_edits` give them."""
    return Score(
        words=ErrorCounts(*words.sum(0).tolist()),
        characters=ErrorCounts(*characters.sum(0).tolist()),
        sentences_wrong=int(words[:, :3].any(1).sum()),
        sentences=len(words),
        missing=missing,
        extra=extra,
    )


def match_ids(
    references: Collection[str], hypotheses: Collection[str], *, allow_missing: bool
) -> tuple[list[str], list[str]]:
    """The ids that the references alone have, and those that the hypotheses alone have.

    Raises:
        UserError: there are no references; or there are such ids, and `allow_missing` is not set.
    """
    if not references:
        raise UserError("no reference transcripts: there is nothing to score against")
    missing = [utterance for utterance in references if utterance not in hypotheses]
    extra = [utterance for utterance in hypotheses if utterance not in references]
    if (missing or extra) and not allow_missing:
        raise _mismatch(missing, extra, len(references))
    return missing, extra


def _mismatch(missing: list[str], extra: list[str], references: int) -> UserError:
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {references} references have no hypothesis: {_listed(missing)}")
    if extra:
        parts.append(f"{len(extra)} hypotheses have no reference: {_listed(extra)}")
    if missing and extra and are_alike(missing, extra):
        parts.append(
            "some of these ids look alike and differ in Unicode (NFC and NFD, or invisible characters)"
        )
    return UserError(
        "; ".join(parts)
        + ". Score matching files, or allow missing ones (then a missing hypothesis counts as "
        "empty and one without a reference is left out)"
    )


def _listed(ids: list[str]) -> str:
    return listing([_told(id_) for id_ in ids], _SHOWN_IDS)


def _told(id_: str) -> str:
    """An id, or its begin where it is nothing to print."""
    return id_ if id_.isprintable() and len(id_) <= _ID_LETTERS else repr(id_[:_ID_LETTERS])
