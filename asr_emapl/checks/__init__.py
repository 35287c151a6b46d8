"""Checks before a run: scale, inspect, check-model."""
