"""Strategies of pseudo-labelling, one per file."""
