"""The report on runs, as a self-contained page."""
