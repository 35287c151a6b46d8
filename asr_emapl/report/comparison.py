"""Error rates of several runs on the same utterances, with intervals, and each pair of runs compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.report.run import Run
from asr_emapl.scoring.comparison import Comparison, compare
from asr_emapl.scoring.intervals import Interval, intervals
from asr_emapl.scoring.tally import ScoringConfig, tally
from asr_emapl.scoring.transcripts import TranscriptEntry
from asr_emapl.scoring.wer import Score

# With more runs, pairs are too many to read.
_ALL_PAIRS = 5


@dataclass(frozen=True)
class Decoded:
    """What runs made of a set of utterances.

    Attributes:
        name: of the set, and by which model if that is known: said on the page.
        utterances: with their transcripts.
        hypotheses: for each run, in their order, id -> text.
    """

    name: str
    utterances: Sequence[Utterance]
    hypotheses: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Standing:
    """How well a run does.

    Attributes:
        score: of all utterances.
        interval: of the WER, by speaker if all are known; None if there is only one to draw.
    """

    score: Score
    interval: Interval | None


def standings(runs: Sequence[Run], decoded: Decoded) -> list[Standing]:
    """One for each run, in their order.

    Raises:
        UserError: a run's hypotheses are not of these utterances; these have no words.
    """
    references = _references(decoded)
    return [_standing(run, texts, references) for run, texts in zip(runs, decoded.hypotheses, strict=True)]


def comparisons(runs: Sequence[Run], decoded: Decoded) -> list[Comparison]:
    """Every pair of runs; with more than five runs, each with the first."""
    references, config = _references(decoded), ScoringConfig()
    pairs = combinations(range(len(runs)), 2)
    return [
        compare(
            references, decoded.hypotheses[i], decoded.hypotheses[j], (runs[i].label, runs[j].label), config
        )
        for i, j in pairs
        if i == 0 or len(runs) <= _ALL_PAIRS
    ]


def _references(decoded: Decoded) -> dict[str, TranscriptEntry]:
    return {u.id: TranscriptEntry(u.text or "", u.speaker, u.duration) for u in decoded.utterances}


def _standing(run: Run, texts: Mapping[str, str], references: Mapping[str, TranscriptEntry]) -> Standing:
    config = ScoringConfig()
    try:
        counts = tally(references, texts, config)
    except UserError as error:
        raise UserError(f"hypotheses of {run.label}: {error}") from None
    words = {"words": (counts.words[:, :3].sum(1), counts.words[:, 3])}
    found = intervals(words, counts.clusters, config.resamples, config.seed)
    return Standing(counts.score, found["words"])
