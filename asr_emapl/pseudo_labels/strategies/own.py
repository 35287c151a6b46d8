"""A strategy of your own: a class at an import path, built with parts of the run and its options."""

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
    """What a strategy can use of a run.

    Attributes:
        teacher, student: called with features [B, T, F] and lengths [B]; the student is in training mode.
        labeller: as the settings of pseudo_labels describe it.
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
