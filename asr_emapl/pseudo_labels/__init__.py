"""Pseudo-labels: strategies, filters, quality, and detection of collapse."""
