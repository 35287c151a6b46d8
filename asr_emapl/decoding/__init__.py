"""Decoding: from the model's log-probabilities to labels, greedily or by beam search with an LM."""

from asr_emapl.ctc import GreedyPaths, greedy

__all__ = ["GreedyPaths", "greedy"]
