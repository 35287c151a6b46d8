"""What a train step did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from asr_emapl.pseudo_labels.labels import Label
from asr_emapl.pseudo_labels.quality import LabelCounts
from asr_emapl.scaling.gradient_noise import GradientNoise


@dataclass(frozen=True)
class StepResult(LabelCounts):
    """The result of a step, over all ranks.

    Attributes:
        loss: mean over the utterances trained on, or over their tokens (see `LossConfig.per`).
        gradient_norm: norm before clipping.
        taken: whether student and teacher were updated.
        noise: gradient noise, if requested and measurable.
        labels: the pseudo-labels of this process by row, including dropped ones.
        reasons: why pseudo-labels of this process are dropped, by row.
        statistics: other numbers of the objective for the log, by name.
    """

    loss: float = 0.0
    gradient_norm: float = 0.0
    taken: bool = True
    noise: GradientNoise | None = None
    labels: Mapping[int, Label] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)
