"""Checkpoints: what is written, where, and when."""
