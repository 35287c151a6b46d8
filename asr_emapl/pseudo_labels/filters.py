"""Filters of utterances, and the reasons for dropping one, with descriptions and remedies.

Does not import torch, because the report uses the table as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_emapl.pseudo_labels.config import PseudoLabelConfig

_START_LATER = "start later (pseudo_labels.start_hours)"


@dataclass(frozen=True)
class Reason:
    """A reason for dropping utterances.

    Attributes:
        description: completes the sentence "utterances ...".
        remedy: what to do if most utterances are dropped for this reason.
    """

    description: str
    remedy: str


# The numbers of dropped utterances are summed over ranks in this order.
REASONS = {
    "unalignable": Reason(
        "need more output frames for their text than the model has",
        "use a tokenizer with longer pieces or a model with a smaller stride, and check that the texts "
        "belong to their audio",
    ),
    "empty": Reason("have an empty label", f"the teacher is not ready: {_START_LATER}"),
    "low_confidence": Reason(
        "have a label less confident than pseudo_labels.min_confidence",
        f"{_START_LATER}, or lower pseudo_labels.min_confidence",
    ),
    "too_few_tokens": Reason(
        "have a label with fewer tokens than pseudo_labels.min_tokens_per_second",
        f"{_START_LATER}, or lower pseudo_labels.min_tokens_per_second",
    ),
    "too_many_tokens": Reason(
        "have a label with more tokens than pseudo_labels.max_tokens_per_second",
        f"{_START_LATER}, or raise pseudo_labels.max_tokens_per_second",
    ),
    "undecodable": Reason(
        "have audio that cannot be decoded",
        "fix or remove the files that skipped.jsonl in the run directory lists",
    ),
}


@dataclass(frozen=True)
class LabelCandidate:
    """Properties of an utterance and its label that the filters use.

    Attributes:
        tokens: number of tokens in the label.
        needed: frames that CTC needs to align it (`ctc.frames_needed`).
        frames: number of frames in the student's output.
        seconds: duration.
        confidence: confidence of the label, in [0, 1]; NaN if the model's output is not finite.
    """

    tokens: int
    needed: int
    frames: int
    seconds: float
    confidence: float = 1.0


def reason_to_drop(candidate: LabelCandidate, limits: PseudoLabelConfig | None) -> str | None:
    """The reason to drop an utterance, a key of `REASONS`; None: train on it.

    Args:
        limits: limits for pseudo-labels; None: the label is a transcript, which only has to be alignable.
    """
    if limits is not None:
        # Empty labels train the student, and so the teacher, to predict blanks for speech: collapse.
        if not candidate.tokens:
            return "empty"
        # NaN counts as low confidence.
        if not candidate.confidence >= limits.min_confidence:
            return "low_confidence"
        rate = candidate.tokens / candidate.seconds
        if rate < limits.min_tokens_per_second:
            return "too_few_tokens"
        if rate > limits.max_tokens_per_second:
            return "too_many_tokens"
    return "unalignable" if candidate.frames < candidate.needed else None
