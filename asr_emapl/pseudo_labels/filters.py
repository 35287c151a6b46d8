"""Reasons to drop an utterance, each with its filter, description and remedy.

Does not import torch, because the report also uses the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr_emapl.pseudo_labels.config import PseudoLabelConfig
from asr_emapl.pseudo_labels.kept_share import KeptShare

if TYPE_CHECKING:
    from asr_emapl.pseudo_labels.labels import Label
    from asr_emapl.text.tokenizer import Tokenizer

_START_LATER = "start later (pseudo_labels.start_hours)"
_LONGEST_LOOP = 8  # tokens of a repeated part that are looked for


@dataclass(frozen=True)
class Reason:
    """Attributes:
    description: completes the sentence "utterances ...".
    remedy: what to do if most utterances are dropped for this reason.
    """

    description: str
    remedy: str


def _limit(description: str, setting: str, change: str) -> Reason:
    return Reason(
        f"{description} pseudo_labels.{setting}", f"{_START_LATER}, or {change} pseudo_labels.{setting}"
    )


REASONS = {
    "unalignable": Reason(
        "need more output frames for their text than the model has",
        "use a tokenizer with longer pieces or a model with a smaller stride, and check that the texts "
        "belong to their audio",
    ),
    "empty": Reason("have an empty label", f"the teacher is not ready: {_START_LATER}"),
    "silent": _limit("have audio with a lower level than", "min_level_db", "lower"),
    "low_confidence": _limit("have a label less confident than", "min_confidence", "lower"),
    "least_confident": _limit("have a label that is not in the most confident", "keep_share", "raise"),
    "disagreement": _limit("have labels that agree less than", "min_agreement", "lower"),
    "too_few_tokens": _limit("have a label with fewer tokens than", "tokens_per_second", "widen"),
    "too_many_tokens": _limit("have a label with more tokens than", "tokens_per_second", "widen"),
    "loop": _limit("have a label that repeats a part more often than", "max_repeats", "raise"),
    "changed": _limit("have a label that changed more than", "max_change", "raise"),
    "undecodable": Reason(
        "have audio that cannot be decoded",
        "fix or remove the files that skipped.jsonl in the run directory lists",
    ),
}

KEPT = "kept"
"""Stands beside the reasons for labels that are not dropped."""


def reason_of(name: str) -> Reason:
    """The reason of this name, which may be that of a filter of the user's own."""
    own = f"the filter {name} (pseudo_labels.filters)"
    return REASONS.get(name) or Reason(f"have a label that is dropped by {own}", f"change {own}")


@dataclass(frozen=True)
class LabelCandidate:
    """Input of the filters for one utterance and its label.

    Attributes:
        tokens: tokens of the label.
        frames: number of output frames of the student.
        seconds: seconds of audio.
        confidence: confidence of the labeller, in [0, 1]; NaN marks a broken utterance.
        agreement: agreement with a second label, in [0, 1]; 1 if there is none.
        level_db: root mean square of the audio in dB re full scale.
        previous: label of the previous pass; None: unknown.
        id: of the utterance.
        tokenizer: that spells the label; None: it cannot be spelled.
    """

    tokens: Sequence[int]
    frames: int
    seconds: float
    confidence: float = 1.0
    agreement: float = 1.0
    level_db: float = 0.0
    previous: Sequence[int] | None = None
    id: str = ""
    tokenizer: Tokenizer | None = None

    @property
    def text(self) -> str:
        """The label as text."""
        assert self.tokenizer is not None
        return self.tokenizer.decode(self.tokens)

    @property
    def needed(self) -> int:
        """Frames that CTC needs to align the label: a blank separates equal tokens."""
        return len(self.tokens) + sum(a == b for a, b in pairwise(self.tokens))

    @property
    def rate(self) -> float:
        """Tokens per second of audio."""
        return len(self.tokens) / self.seconds

    @property
    def change(self) -> float:
        """Share of the tokens that changed since the previous pass, in [0, 1]; 0 in the first pass."""
        return 0.0 if self.previous is None else 1.0 - similarity(self.previous, self.tokens)


Filter = Callable[[LabelCandidate, PseudoLabelConfig], bool]
"""Whether a label is dropped."""

# In the order in which they are checked; the first that applies is counted.
FILTERS: dict[str, Filter] = {
    # An empty label trains the student to output blanks on speech, and the teacher follows: a collapse.
    "empty": lambda c, limits: not c.tokens,
    "silent": lambda c, limits: limits.min_level_db is not None and c.level_db < limits.min_level_db,
    # A NaN confidence is low too.
    "low_confidence": lambda c, limits: not c.confidence >= limits.min_confidence,
    "disagreement": lambda c, limits: c.agreement < limits.min_agreement,
    "too_few_tokens": lambda c, limits: c.rate < limits.token_rates[0],
    "too_many_tokens": lambda c, limits: c.rate > limits.token_rates[1],
    "loop": lambda c, limits: limits.max_repeats is not None and repeats(c.tokens) > limits.max_repeats,
    "changed": lambda c, limits: limits.max_change is not None and c.change > limits.max_change,
}

# Filters that need the audio or an earlier label. The others judge a label as soon as it is known.
_OF_THE_STEP = {"silent", "changed"}


def reason_to_drop_label(candidate: LabelCandidate, limits: PseudoLabelConfig) -> str | None:
    """The reason to drop a label by its tokens, scores and duration alone; None: there is none."""
    for reason, is_dropped in FILTERS.items():
        if reason not in _OF_THE_STEP and is_dropped(candidate, limits):
            return reason
    return None


class LabelFilters:
    """The filters of pseudo-labels.

    Args:
        limits: with `tokens_per_second` as numbers, or not set.
        own: filters of the user's own by name, asked after all others.
        tokenizer: that spells labels for them, and knows which labels are only spaces; None: no label is.

    Attributes:
        reasons: why labels can be dropped; the numbers of dropped utterances are summed over ranks in this
            order.

    Raises:
        UserError: a limit is invalid.
    """

    def __init__(
        self,
        limits: PseudoLabelConfig,
        own: Mapping[str, Callable[[LabelCandidate], bool]] | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.limits, self.own, self.tokenizer = limits, dict(own or {}), tokenizer
        self.reasons = (*REASONS, *self.own)
        self._kept_share = None if limits.keep_share is None else KeptShare(limits.keep_share)
        _ = limits.token_rates  # an empty range is an error before training

    @property
    def needs_level(self) -> bool:
        """Whether a filter needs the level of the audio."""
        return self.limits.min_level_db is not None

    def without_spaces_alone(self, label: Label) -> Label:
        """The label; empty if its tokens are only spaces between words, which have no text."""
        if self.tokenizer is None or self.tokenizer.has_word(label.tokens):
            return label
        return replace(label, tokens=[])

    def reason_to_drop(self, candidate: LabelCandidate) -> str | None:
        """The reason not to train on a pseudo-label, one of `reasons`; None: train on it."""
        for reason, is_dropped in FILTERS.items():
            if is_dropped(candidate, self.limits):
                return reason
        if self._kept_share is not None and not self._kept_share.keeps(candidate.confidence):
            return "least_confident"
        for reason, is_dropped_by in self.own.items():
            if is_dropped_by(candidate):
                return reason
        return reason_to_drop_transcript(candidate)

    def counts(self, labels: Iterable[Label]) -> list[float]:
        """Numbers that `update` needs of the labels of this rank in a step, to be summed over ranks."""
        if self._kept_share is None:
            return []
        return self._kept_share.counts(label.confidence for label in labels if label.tokens)

    def update(self, counts: Sequence[float]) -> None:
        """Adapt the filters to the labels of a step: the result of `counts`, summed over ranks."""
        if self._kept_share is not None:
            self._kept_share.update(counts)

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs, equal on all ranks."""
        return {} if self._kept_share is None else self._kept_share.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; if it is of other filters, they start anew."""
        if self._kept_share is not None and state:
            self._kept_share.load_state_dict(state)


def reason_to_drop_transcript(candidate: LabelCandidate) -> str | None:
    """The reason not to train on a transcript, which is only required to be alignable; None: train on it."""
    return "unalignable" if candidate.frames < candidate.needed else None


def similarity(one: Sequence[int], other: Sequence[int]) -> float:
    """1 - the token edit distance by the length of the longer label; 1 of two empty labels."""
    return Levenshtein.normalized_similarity(list(one), list(other))


def repeats(tokens: Sequence[int]) -> int:
    """Maximum number of consecutive repetitions of a sequence of up to 8 tokens."""
    values = np.asarray(tokens, dtype=np.int64)
    longest = 1 if len(values) else 0
    for size in range(1, min(_LONGEST_LOOP, len(values) - 1) + 1):
        equal = (values[:-size] == values[size:]).tobytes()
        # On short arrays, methods of bytes are the fastest. Few texts have any repetition.
        if b"\1" * size in equal:
            longest = max(longest, 1 + max(map(len, equal.split(b"\0"))) // size)
    return longest
