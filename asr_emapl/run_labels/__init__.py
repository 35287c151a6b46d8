"""The pseudo-labels of a run: built from the settings, monitored, saved in checkpoints."""
