"""Error rates of several systems on the same utterances, with intervals and pairwise comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from asr_emapl.data.utterance import Utterance
from asr_emapl.errors import UserError
from asr_emapl.scoring.comparison import Comparison, compare
from asr_emapl.scoring.intervals import Interval, intervals
from asr_emapl.scoring.tally import ScoringConfig, tally
from asr_emapl.scoring.transcripts import TranscriptEntry
from asr_emapl.scoring.wer import Score

# With more systems, there are too many pairs to show.
_ALL_PAIRS = 5


@dataclass(frozen=True)
class System:
    """The hypotheses of one model of a run.

    Attributes:
        label: name of the system: the run's label, with the model if there are several per run.
        run: index of the run.
        hypotheses: id -> text.
        model: teacher or student, or "" if unknown.
    """

    label: str
    run: int
    hypotheses: Mapping[str, str]
    model: str = ""


@dataclass(frozen=True)
class Decoded:
    """Hypotheses of several systems for a set of utterances.

    Attributes:
        name: name of the set, shown on the page.
        utterances: the utterances with their transcripts.
        systems: in the order of the runs.
    """

    name: str
    utterances: Sequence[Utterance]
    systems: Sequence[System]


@dataclass(frozen=True)
class Standing:
    """Result of one system.

    Attributes:
        score: score over all utterances.
        interval: confidence interval of the WER, by speaker if all are known; None if there is only one.
    """

    system: System
    score: Score
    interval: Interval | None


def standings(decoded: Decoded) -> list[Standing]:
    """Return the result of each system, in order.

    Raises:
        UserError: the ids of a system's hypotheses do not match the utterances, or the references contain no
            words.
    """
    references = _references(decoded)
    return [_standing(system, references) for system in decoded.systems]


def comparisons(decoded: Decoded) -> list[Comparison]:
    """Compare every pair of systems of the same model, or only those with the first run if there are many."""
    references, config, systems = _references(decoded), ScoringConfig(), decoded.systems
    few = len({system.run for system in systems}) <= _ALL_PAIRS
    return [
        compare(references, one.hypotheses, other.hypotheses, (one.label, other.label), config)
        for one, other in combinations(systems, 2)
        if one.model == other.model and (few or one.run == systems[0].run)
    ]


def _references(decoded: Decoded) -> dict[str, TranscriptEntry]:
    return {u.id: TranscriptEntry(u.text or "", u.speaker, u.duration) for u in decoded.utterances}


def _standing(system: System, references: Mapping[str, TranscriptEntry]) -> Standing:
    config = ScoringConfig()
    try:
        counts = tally(references, system.hypotheses, config)
    except UserError as error:
        raise UserError(f"hypotheses of {system.label}: {error}") from None
    words = {"words": (counts.words[:, :3].sum(1), counts.words[:, 3])}
    found = intervals(words, counts.clusters, config.resamples, config.seed)
    return Standing(system, counts.score, found["words"])
