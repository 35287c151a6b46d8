"""What is asked before a run: scale, inspect, check-model."""
