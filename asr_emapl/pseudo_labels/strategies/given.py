"""`oracle` and `external`: labels that are given by a file.

The transcripts of the unlabelled audio are the oracle, the upper bound of pseudo-labelling. Hypotheses of
another recogniser are external labels. `training.corpora` reads both.
"""

from __future__ import annotations

from asr_emapl.pseudo_labels.labels import Label, LabelRequest, Labels, Strategy


class GivenLabels(Strategy):
    """The targets of the corpus, for labelled and unlabelled audio alike."""

    def labels(self, batch: LabelRequest) -> Labels:
        """See `Strategy.labels`."""
        assert batch.targets is not None
        return Labels.of([Label(tokens) for tokens in batch.targets])
