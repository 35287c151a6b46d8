"""Error rates of several runs on the same utterances, with intervals, compared with the first run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.report.run import Run
from asr_emapl.scoring.comparison import Comparison, compare
from asr_emapl.scoring.intervals import Interval, intervals
from asr_emapl.scoring.tally import ScoringConfig, tally
from asr_emapl.scoring.transcripts import TranscriptEntry
from asr_emapl.scoring.wer import Score


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
        interval: of the WER, by speaker where all are known; None where there is but one to draw.
        against_first: the comparison with the first run; None for the first run itself.
    """

    score: Score
    interval: Interval | None
    against_first: Comparison | None


def standings(runs: Sequence[Run], decoded: Decoded) -> list[Standing]:
    """One for each run, in their order.

    Raises:
        UserError: a run's hypotheses are not of these utterances; these have no words.
    """
    references = {u.id: TranscriptEntry(u.text or "", u.speaker, u.duration) for u in decoded.utterances}
    return [_standing(runs, decoded.hypotheses, number, references) for number in range(len(runs))]


def _standing(
    runs: Sequence[Run],
    hypotheses: Sequence[Mapping[str, str]],
    number: int,
    references: Mapping[str, TranscriptEntry],
) -> Standing:
    config = ScoringConfig()
    try:
        counts = tally(references, hypotheses[number], config)
    except UserError as error:
        raise UserError(f"hypotheses of {runs[number].label}: {error}") from None
    words = {"words": (counts.words[:, :3].sum(1), counts.words[:, 3])}
    found = intervals(words, counts.clusters, config.resamples, config.seed)
    comparison = None
    if number > 0:
        names = (runs[0].label, runs[number].label)
        comparison = compare(references, hypotheses[0], hypotheses[number], names, config)
    return Standing(counts.score, found["words"], comparison)
