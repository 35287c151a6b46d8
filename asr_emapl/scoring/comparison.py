"""Compare two systems: which one is better, and whether the difference is significant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.cells import cell_len

from asr_emapl.errors import UserError
from asr_emapl.scoring.bootstrap import LEVEL, Interval, difference
from asr_emapl.scoring.evaluation import ScoringConfig, prepared, split_names
from asr_emapl.scoring.nist.matched_pairs import MatchedPairs, matched_pairs
from asr_emapl.scoring.normalisation import Normalisation
from asr_emapl.scoring.tally import Tally, tally
from asr_emapl.scoring.transcripts import TranscriptEntry
from asr_emapl.scoring.wer import Score

_FEW_SEGMENTS = 50
_FEW_SPEAKERS = 20


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same references.

    One is called better only if the interval (by speaker where speakers are known) excludes 0 and the
    matched-pairs test agrees. With known speakers, equally good systems are called different in at most about
    5 of 100 corpora; with 8 speakers, where the interval is Student's, in 6 to 7. The test alone and the
    interval by utterance treat the errors of one speaker as independent, and give more false claims.

    Attributes:
        names: of the first and of the second.
        scores: theirs.
        difference: WER of the second less that of the first, as a fraction: below 0 the second is better.
        by_utterance, by_speaker: intervals of the difference (`asr_emapl.scoring.bootstrap.difference`). None
            with fewer than two to draw, or unknown speakers.
        second_better: share of the draws on which the second makes fewer errors, half of those on which they
            make as many included; of speakers where these are known.
        matched_pairs: the test of Gillick and Cox.
        normalisation: what was done to the texts, in words; empty if `compare` was given them.
    """

    names: tuple[str, str]
    scores: tuple[Score, Score]
    difference: float
    by_utterance: Interval | None
    by_speaker: Interval | None
    second_better: float
    matched_pairs: MatchedPairs
    normalisation: str = ""

    @property
    def shown(self) -> bool:
        """Whether both tell the systems apart, at 5 %: the interval (by speaker where known) and the test."""
        return self._by_bootstrap and self._by_pairs

    @property
    def verdict(self) -> str:
        """One or two sentences."""
        first, second = (f"{100 * score.words.rate:.2f} %" for score in self.scores)
        if self.scores[0].words.errors == self.scores[1].words.errors:
            return f"No difference: {self.names[0]} and {self.names[1]} both have a WER of {first}."
        ahead, behind = (0, 1) if self.difference > 0 else (1, 0)
        better, worse = (first, second) if ahead == 0 else (second, first)
        lead = f"{self.names[ahead]} ({better}) against {self.names[behind]} ({worse})"
        evidence = f"{self._interval_words()}; {self._pairs_words()}"
        if self.shown:
            return f"{self.names[ahead]} is better: WER {lead}. {evidence}.{self._caveat}"
        if self._by_bootstrap != self._by_pairs:
            says = "the bootstrap" if self._by_bootstrap else "the matched pairs test"
            return f"Undecided: WER {lead}, but only {says} shows a difference. {evidence}."
        return f"No difference shown: WER {lead} may be chance. {evidence}."

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "names": list(self.names),
            "scores": [score.to_dict() for score in self.scores],
            "difference": self.difference if np.isfinite(self.difference) else None,
            "by_utterance": None if self.by_utterance is None else self.by_utterance.to_dict(),
            "by_speaker": None if self.by_speaker is None else self.by_speaker.to_dict(),
            "second_better": self.second_better,
            "matched_pairs": asdict(self.matched_pairs),
            "shown": self.shown,
            "verdict": self.verdict,
            "normalisation": self.normalisation,
        }

    def lines(self) -> Iterator[str]:
        """The verdict, and the counts that it is about."""
        yield self.verdict
        yield ""
        width = max(map(cell_len, self.names))
        yield f"{'':{width}}{'WER %':>8}{'errors':>9}{'sub':>8}{'del':>8}{'ins':>8}{'N':>9}"
        for name, score in zip(self.names, self.scores, strict=True):
            c = score.words
            counts = f"{c.substitutions:8d}{c.deletions:8d}{c.insertions:8d}{c.reference_length:9d}"
            yield f"{name + ' ' * (width - cell_len(name))}{100 * c.rate:8.2f}{c.errors:9d}{counts}"
        yield ""
        yield (
            f"{self.names[1]} makes fewer errors on {100 * self.second_better:.1f} % of the draws, half of "
            "the ties included"
        )
        if self.normalisation:
            yield f"normalisation: {self.normalisation}"
        for name, score in zip(self.names, self.scores, strict=True):
            if score.missing or score.extra:
                yield f"{name}: {score.missing} missing (counted as empty), {score.extra} extra (passed over)"

    @property
    def _caveat(self) -> str:
        if self.by_speaker is None:
            return (
                " Speakers are unknown, so utterances count as independent: give speakers in the reference, "
                "or take them from ids with --speaker-in-id."
            )
        if self.by_speaker.drawn < _FEW_SPEAKERS:
            return (
                f" {self.by_speaker.drawn} speakers are few: confirm it with more ({_FEW_SPEAKERS} or more)."
            )
        return ""

    @property
    def _interval(self) -> Interval | None:
        return self.by_speaker or self.by_utterance

    @property
    def _by_bootstrap(self) -> bool:
        found = self._interval
        return found is not None and (found.low > 0 or found.high < 0)

    @property
    def _by_pairs(self) -> bool:
        return self.matched_pairs.p is not None and self.matched_pairs.p < 1.0 - LEVEL

    def _interval_words(self) -> str:
        found = self._interval
        if found is None:
            return "There is too little to resample"
        how = "resampling" if found.method == "percentiles" else "Student's t over"
        resampled = f"points (95 %, {how} {found.drawn:,} {found.units})"
        if self._by_bootstrap:
            low, high = sorted(100 * abs(end) for end in (found.low, found.high))
            return f"The lead is {low:.2f} to {high:.2f} {resampled}"
        low, high = 100 * found.low, 100 * found.high
        return f"{self.names[1]} less {self.names[0]} is {low:.2f} to {high:.2f} {resampled}"

    def _pairs_words(self) -> str:
        test = self.matched_pairs
        if test.p is None:
            return f"the matched pairs test has nothing to go by (segments: {test.segments})"
        p = "p < 0.0001" if test.p < 1e-4 else f"p = {test.p:.4f}"
        doubt = ", too few to rely on" if test.segments < _FEW_SEGMENTS else ""
        return f"matched pairs test {p} ({test.segments:,} segments{doubt})"


def compare(
    references: Mapping[str, TranscriptEntry],
    first: Mapping[str, str],
    second: Mapping[str, str],
    names: tuple[str, str],
    config: ScoringConfig,
    second_references: Mapping[str, TranscriptEntry] | None = None,
) -> Comparison:
    """Compare two systems' hypotheses, matched by id, both of them in the same way.

    Args:
        references: id -> what is said.
        first, second: id -> what each system recognised.
        names: of the systems.
        config: how to score.
        second_references: of the same utterances for the second system, if their references allow several
            wordings and another one fits it better. An utterance whose references differ is one segment of
            the matched-pairs test.

    Raises:
        UserError: as `tally` and `resampled_sums`; or the references have no words.
    """
    a = _tally(references, first, names[0], config)
    b = _tally(references if second_references is None else second_references, second, names[1], config)
    scores = (a.score, b.score)
    if scores[0].words.reference_length == 0:
        raise UserError("the references have no words: there is nothing to compare by")
    by_utterance, better = _difference(a, b, False, config)
    by_speaker = None
    if a.clusters is not None:
        by_speaker, better = _difference(a, b, True, config)
    return Comparison(
        names,
        scores,
        scores[1].words.rate - scores[0].words.rate,
        by_utterance,
        by_speaker,
        better,
        _matched_pairs(a, b),
    )


def compare_files(
    reference: str, first: str, second: str, config: ScoringConfig, normalisation: Normalisation
) -> Comparison:
    """Compare two files of hypotheses, each named after its file.

    Raises:
        UserError: as `read_pair` and `compare`.
    """
    references, a = prepared(reference, first, config, normalisation)
    others, b = prepared(reference, second, config, normalisation)
    one, other = split_names([first, second])
    result = compare(
        references,
        a,
        b,
        (one, other),
        config,
        others,
    )
    return replace(result, normalisation=normalisation.stated)


def _tally(
    references: Mapping[str, TranscriptEntry], hypotheses: Mapping[str, str], name: str, config: ScoringConfig
) -> Tally:
    try:
        return tally(references, hypotheses, allow_missing=config.allow_missing, weights=config.weights)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _matched_pairs(a: Tally, b: Tally) -> MatchedPairs:
    pairs = list(zip(a.alignments(), b.alignments(), strict=True))
    same = [pair for pair in pairs if pair[0].reference == pair[1].reference]
    whole = [
        one.counts.errors - other.counts.errors
        for one, other in pairs
        if one.reference != other.reference and one.counts.errors + other.counts.errors > 0
    ]
    return matched_pairs([one for one, _ in same], [other for _, other in same], whole)


def _difference(a: Tally, b: Tally, by_speaker: bool, config: ScoringConfig) -> tuple[Interval | None, float]:
    clusters = a.clusters if by_speaker else None
    errors = (a.words[:, :3].sum(1), b.words[:, :3].sum(1))
    return difference(*errors, a.words[:, 3], clusters, config.resamples, config.seed)
