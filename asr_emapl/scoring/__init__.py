"""Scoring: error rates with their counts, alignments, and transcript files. Does not import torch."""

from asr_emapl.scoring.alignment import Alignment, align
from asr_emapl.scoring.transcripts import read_transcripts, write_hypotheses
from asr_emapl.scoring.wer import ErrorCounts, Score, score

__all__ = ["Alignment", "ErrorCounts", "Score", "align", "read_transcripts", "score", "write_hypotheses"]
