"""A random sample of the labels that were kept and of those that were dropped, by reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from asr_emapl.audio.augment import draw_seed
from asr_emapl.data.manifest_writer import as_record
from asr_emapl.data.utterance import Utterance
from asr_emapl.storage import finite_number

SIZE = 8
"""Labels in the sample of each reason."""


@dataclass(frozen=True, order=True)
class SampledLabel:
    """A label in the sample.

    Attributes:
        draw: random number that decides whether the label is in the sample.
        step: training step.
        row: place of the utterance in the unlabelled corpus.
        reason: why it was dropped, a key of `filters.REASONS`, or `filters.KEPT`.
    """

    draw: int
    step: int
    row: int
    reason: str
    tokens: tuple[int, ...]
    confidence: float = field(compare=False)  # copies of a NaN are not equal


class LabelSamples:
    """A uniform sample of the labels of each reason: those with the smallest draws.

    A draw depends on the utterance and the step alone, so that the sample is the same for any number of
    processes and after an interruption.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._kept: dict[str, list[SampledLabel]] = {}

    def draw(self, step: int, row: int) -> int:
        """The random number of a label."""
        return draw_seed(self.seed, "label sample", step, row)

    def may_enter(self, reason: str, draw: int) -> bool:
        """Whether a label with this number is in the sample, as far as this process knows."""
        held = self._kept.get(reason, [])
        return len(held) < SIZE or draw < held[-1].draw

    def add(self, labels: Iterable[SampledLabel]) -> None:
        """Add labels; those beyond the size of the sample leave it. Adding one twice changes nothing."""
        for label in labels:
            held = {*self._kept.get(label.reason, []), label}
            self._kept[label.reason] = sorted(held)[:SIZE]

    def all(self) -> list[SampledLabel]:
        """The labels in the sample, by reason."""
        return [label for reason in sorted(self._kept) for label in self._kept[reason]]


def label_record(utterance: Utterance, step: int, text: str, confidence: float) -> dict[str, Any]:
    """A manifest line with a label as text, and the transcript, if there is one, beside it.

    Args:
        step: training step in which the label was seen.
        confidence: of the label; null in the record if it is NaN.
    """
    transcript = {"transcript": utterance.text} if utterance.text else {}
    label = {"step": step, "text": text, "confidence": finite_number(confidence)}
    return as_record(utterance) | label | transcript
