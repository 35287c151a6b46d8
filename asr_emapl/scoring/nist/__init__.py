"""NIST's file formats and tests: stm, ctm, alternatives, sclite's alignments, matched pairs."""
