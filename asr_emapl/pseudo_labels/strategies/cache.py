"""`cache`: labels that stay in a cache until they are replaced.

This is slimIPL (Likhomanenko et al. 2021, algorithm 1). `data.label_plan.CachePlan` decides which batches
enter and leave the cache, and which one is trained on.
"""

from __future__ import annotations

from asr_emapl.pseudo_labels.strategies.kept import KeptLabels


class CachedLabels(KeptLabels):
    """Labels made when a batch entered the cache."""
