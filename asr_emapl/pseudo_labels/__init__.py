"""Pseudo-labels: strategies that make them, and the filters between them and the student."""

from asr_emapl.pseudo_labels.strategy import (
    EmaLabels,
    Labels,
    OracleLabels,
    PseudoLabelConfig,
    Strategy,
    Unlabelled,
    rejection,
)

__all__ = ["EmaLabels", "Labels", "OracleLabels", "PseudoLabelConfig", "Strategy", "Unlabelled", "rejection"]
