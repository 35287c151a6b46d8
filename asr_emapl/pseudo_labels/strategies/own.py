"""User-defined strategies: a class at an import path, constructed with parts of the run and its options."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from asr_emapl.ema import EmaTeacher
from asr_emapl.models.target import Wanted
from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import Strategy
from asr_emapl.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class StrategyParts:
    """The parts of a run that a strategy can use.

    Attributes:
        teacher, student: called with features [B, T, F] and lengths [B]; the student is in training mode.
        labeller: the labeller that is configured in pseudo_labels.
        utterances: number of unlabelled utterances.
    """

    teacher: EmaTeacher
    student: nn.Module
    labeller: Labeller
    tokenizer: Tokenizer
    utterances: int


OWN_STRATEGY = Wanted(
    "pseudo_labels.strategy",
    Strategy,
    "strategy; specify a subclass of asr_emapl.pseudo_labels.labels.Strategy",
)
