"""`rounds`: the whole corpus is labelled, trained on, and labelled again.

IPL (Xu et al. 2020) labels all utterances, or a random share of them, by beam search with a language model
every few epochs and trains the same model. TopIPL (2024) relabels with probability 0.2 and an average of the
best checkpoints. Noisy student training (Park et al. 2020) starts a new student after each round: a new run
with strategy `external`. `data.label_plan.RoundsPlan` decides when which utterances are labelled.
"""

from __future__ import annotations

from asr_emapl.pseudo_labels.strategies.kept import KeptLabels


class RoundLabels(KeptLabels):
    """Labels of the last round in which an utterance was labelled."""
