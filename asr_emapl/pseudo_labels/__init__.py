"""Pseudo-labels: strategies that make them, filters, quality, and what ends a run that learns nothing."""
