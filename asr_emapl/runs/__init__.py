"""The files of a run directory: lock, logs, list of skipped utterances."""
