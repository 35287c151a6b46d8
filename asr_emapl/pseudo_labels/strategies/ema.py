"""`ema`: labels of the EMA teacher, generated in each step.

Kaizen (Manohar et al. 2021), Momentum Pseudo-Labeling (Higuchi et al. 2021), the EMA variant of slimIPL
(Likhomanenko et al. 2021) and AV-CPL (Rouditchenko et al. 2023) state the average in different ways: see
`TeacherConfig`.
"""

from __future__ import annotations

from asr_emapl.pseudo_labels.labeller import Labeller
from asr_emapl.pseudo_labels.labels import LabelRequest, Labels, PendingLabels, Strategy


class FreshLabels(Strategy):
    """Labels that are made for each batch and not kept."""

    def __init__(self, labeller: Labeller) -> None:
        self.labeller = labeller

    def labels(self, batch: LabelRequest) -> Labels | PendingLabels:
        """See `Strategy.labels`."""
        return self.labeller.begin(batch)
