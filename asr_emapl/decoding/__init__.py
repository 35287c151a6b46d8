"""Decoding: from the model's log-probabilities to labels, greedily or by beam search with an LM."""

from asr_emapl.decoding.greedy import GreedyPaths, greedy

__all__ = ["GreedyPaths", "greedy"]
