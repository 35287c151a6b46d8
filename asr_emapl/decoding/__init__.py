"""Decoding: from the model's log-probabilities to text, greedily or by beam search with a language model."""
