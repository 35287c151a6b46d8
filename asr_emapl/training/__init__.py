"""The trainer and its parts: corpora, step, objectives, validation, log."""
