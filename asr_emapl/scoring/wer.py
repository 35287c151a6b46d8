"""Word and character error counts of a corpus.

Rates are computed from corpus totals, not averaged over utterances. The counts equal those of jiwer's
`process_words` and `process_characters` with their default transforms: ties between minimum-error alignments
are resolved as in rapidfuzz's `Levenshtein.editops`. sclite uses different edit costs
(`asr_emapl.scoring.nist.sclite`). Words are separated by whitespace. Character errors are computed on the
words joined by single spaces (jiwer counts a double space as two). The comparison is sensitive to case and
punctuation. If the references are empty, the rate is infinite, or 0 if there are no errors; in jiwer 4 it is
the number of insertions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from asr_emapl.errors import UserError, listing
from asr_emapl.scoring.normalisation import are_alike
from asr_emapl.storage import finite_number

Counts = NDArray[np.int64]
"""[U, 4], one row per utterance: substitutions, deletions, insertions, reference length."""

_Sum = TypeVar("_Sum", "ErrorCounts", "Score")

_SHOWN_IDS = 10  # maximum number of ids of each kind in an error message
_ID_CHARACTERS = 200


@dataclass(frozen=True)
class ErrorCounts:
    """Numbers of word or character edits, and the total reference length. Use + to add counts."""

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
        """errors / reference_length; can exceed 1. For empty references: infinite, or 0 without errors."""
        if self.reference_length == 0:
            return math.inf if self.errors else 0.0
        return self.errors / self.reference_length

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return _sum(self, other)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, `errors` and `rate` as a JSON-serializable dict; an infinite rate is None."""
        return {**asdict(self), "errors": self.errors, "rate": finite_number(self.rate)}


@dataclass(frozen=True)
class Score:
    """Error counts of a corpus. The scores of disjoint parts can be added.

    Attributes:
        words, characters: error counts; `words.rate` is the WER and `characters.rate` the CER.
        sentences_wrong: number of references whose words the hypothesis does not match exactly.
        sentences: number of references.
        missing: number of references without a hypothesis; they are scored with an empty hypothesis.
        extra: number of hypotheses without a reference; they are not scored.
    """

    words: ErrorCounts
    characters: ErrorCounts
    sentences_wrong: int
    sentences: int
    missing: int = 0
    extra: int = 0

    def __add__(self, other: Score) -> Score:
        return _sum(self, other)

    def to_dict(self) -> dict[str, Any]:
        """Return all counts and rates as a nested, JSON-serializable dict."""
        return {**asdict(self), "words": self.words.to_dict(), "characters": self.characters.to_dict()}


def score(
    references: Mapping[str, str], hypotheses: Mapping[str, str], *, allow_missing: bool = False
) -> Score:
    """Score hypotheses against references, matched by utterance id.

    Args:
        references: id -> true transcript.
        hypotheses: id -> recognised transcript.
        allow_missing: score missing hypotheses as empty and ignore extra ones, instead of raising.

    Raises:
        UserError: there are no references, or an id occurs on one side only and `allow_missing` is not set.
    """
    missing, extra = match_ids(references, hypotheses, allow_missing=allow_missing)
    texts = list(references.values())
    recognised = [hypotheses.get(utterance, "") for utterance in references]
    return total(word_edits(texts, recognised), character_edits(texts, recognised), len(missing), len(extra))


def total(words: Counts, characters: Counts, missing: int = 0, extra: int = 0) -> Score:
    """Sum the edits of utterances returned by `word_edits` and `character_edits`."""
    return Score(
        words=ErrorCounts(*words.sum(0).tolist()),
        characters=ErrorCounts(*characters.sum(0).tolist()),
        sentences_wrong=int(words[:, :3].any(1).sum()),
        sentences=len(words),
        missing=missing,
        extra=extra,
    )


def word_edits(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Count the word errors of each pair of texts, `references[u]` and `hypotheses[u]`, both of length U."""
    return _edits(references, hypotheses, str.split)


def character_edits(references: Sequence[str], hypotheses: Sequence[str]) -> Counts:
    """Count the character errors of each pair of texts; see `word_edits`."""
    return _edits(references, hypotheses, lambda text: " ".join(text.split()))


def match_ids(
    references: Collection[str], hypotheses: Collection[str], *, allow_missing: bool
) -> tuple[list[str], list[str]]:
    """Return the ids that occur only in the references, and those that occur only in the hypotheses.

    Raises:
        UserError: there are no references, or such ids exist and `allow_missing` is not set.
    """
    if not references:
        raise UserError("no reference transcripts: there is nothing to score against")
    missing = [utterance for utterance in references if utterance not in hypotheses]
    extra = [utterance for utterance in hypotheses if utterance not in references]
    if not (missing or extra) or allow_missing:
        return missing, extra
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(references)} references have no hypothesis: {_listed(missing)}")
    if extra:
        parts.append(f"{len(extra)} hypotheses have no reference: {_listed(extra)}")
    if missing and extra and are_alike(missing, extra):
        parts.append("some ids look alike but differ in Unicode (NFC and NFD, or invisible characters)")
    raise UserError(
        f"{'; '.join(parts)}. Score matching files, or use --allow-missing to score missing hypotheses as "
        "empty and ignore extra ones"
    )


def _sum(first: _Sum, second: _Sum) -> _Sum:
    """Add two dataclasses field by field."""
    return type(first)(*(getattr(first, f.name) + getattr(second, f.name) for f in fields(first)))


def _listed(ids: list[str]) -> str:
    shown = (repr(n[:_ID_CHARACTERS]) if len(n) > _ID_CHARACTERS or not n.isprintable() else n for n in ids)
    return listing(list(shown), _SHOWN_IDS)


def _edits(
    references: Sequence[str], hypotheses: Sequence[str], split: Callable[[str], Sequence[str]]
) -> Counts:
    """Count the edits of each pair, in the units that `split` returns."""
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        wanted = split(reference)
        edits = [] if reference == hypothesis else Levenshtein.editops(wanted, split(hypothesis)).as_list()
        kinds = [kind for kind, _, _ in edits]
        rows.append((kinds.count("replace"), kinds.count("delete"), kinds.count("insert"), len(wanted)))
    return np.array(rows, np.int64).reshape(-1, 4)
