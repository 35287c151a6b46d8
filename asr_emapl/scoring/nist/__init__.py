"""NIST formats and tests: timed marks, alternatives, sclite, matched pairs."""
