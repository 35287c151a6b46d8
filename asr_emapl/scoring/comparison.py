"""Compare two systems: difference of error rates, intervals, matched-pairs test and verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.scoring.evaluation import prepared, split_names
from asr_emapl.scoring.evaluation_report import error_columns, table_lines, unmatched_lines
from asr_emapl.scoring.intervals import LEVEL, Interval, difference
from asr_emapl.scoring.nist.matched_pairs import MatchedPairs, matched_pairs, segment_differences
from asr_emapl.scoring.normalisation import Normalisation
from asr_emapl.scoring.tally import ScoringConfig, Tally, tally
from asr_emapl.scoring.transcripts import TranscriptEntry
from asr_emapl.scoring.wer import Score
from asr_emapl.storage import finite_number

_FEW_SEGMENTS = 50
_FEW_SPEAKERS = 20


@dataclass(frozen=True)
class Comparison:
    """Comparison of two systems on the same references.

    A system is called better only if the interval (by speaker if speakers are known) excludes 0 and the
    matched-pairs test agrees. If speakers are known, the false-positive rate is at most about 5 %; with 8
    speakers (Student's t) it is 6 to 7 %. The test alone, or the by-utterance interval, treats errors of the
    same speaker as independent and reports more false differences.

    Attributes:
        names, scores: names and scores of the first and second system.
        difference: WER of the second minus WER of the first system, as a fraction.
        by_utterance, by_speaker: intervals of the difference; None if there are fewer than two units or
            speakers are unknown.
        second_better: fraction of bootstrap resamples (by speaker if speakers are known) in which the second
            system makes fewer errors, counting ties as one half.
        matched_pairs: result of the test of Gillick and Cox.
        normalisation: description of the text normalisation; empty if unknown.
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
    def is_significant(self) -> bool:
        """Whether the interval (by speaker if known) and the test both show a difference at the 5 % level."""
        return self._interval_differs and self._test_differs

    @property
    def verdict(self) -> str:
        """The result in one or two sentences."""
        first, second = (f"{100 * score.words.rate:.2f} %" for score in self.scores)
        if self.scores[0].words.errors == self.scores[1].words.errors:
            return f"No difference: {self.names[0]} and {self.names[1]} both have a WER of {first}."
        ahead, behind = (0, 1) if self.difference > 0 else (1, 0)
        better, worse = (first, second) if ahead == 0 else (second, first)
        lead = f"{self.names[ahead]} ({better}) vs. {self.names[behind]} ({worse})"
        evidence = f"{self._describe_interval()}; {self._describe_test()}"
        if self.is_significant:
            return f"{self.names[ahead]} is better: WER {lead}. {evidence}.{self._caveat()}"
        if self._interval_differs != self._test_differs:
            only = "the interval" if self._interval_differs else "the matched pairs test"
            return f"Undecided: WER {lead}; only {only} shows a difference. {evidence}."
        return f"No significant difference: WER {lead}. {evidence}."

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes and the verdict as a JSON-serializable dict."""
        return {
            **asdict(self),
            "scores": [score.to_dict() for score in self.scores],
            "difference": finite_number(self.difference),
            "shown": self.is_significant,
            "verdict": self.verdict,
        }

    def lines(self) -> Iterator[str]:
        """Yield the verdict and the counts of both systems."""
        named = list(zip(self.names, self.scores, strict=True))
        rows = [[name, f"{100 * s.words.rate:.2f}", *error_columns(s.words)] for name, s in named]
        yield from (self.verdict, "")
        yield from table_lines(["", "WER %", "errors", "sub", "del", "ins", "N"], rows)
        share = f"{100 * self.second_better:.1f} % of the bootstrap resamples (ties count one half)"
        yield from ("", f"{self.names[1]} makes fewer errors in {share}")
        if self.normalisation:
            yield f"normalisation: {self.normalisation}"
        for name, score in named:
            yield from unmatched_lines(score, f"{name}: ")

    @property
    def _interval(self) -> Interval | None:
        return self.by_speaker or self.by_utterance

    @property
    def _interval_differs(self) -> bool:
        return self._interval is not None and (self._interval.low > 0 or self._interval.high < 0)

    @property
    def _test_differs(self) -> bool:
        return self.matched_pairs.p is not None and self.matched_pairs.p < 1.0 - LEVEL

    def _caveat(self) -> str:
        if self.by_speaker is None:
            return (
                " Speakers are unknown, so utterances are treated as independent; add speakers to the "
                "reference, or derive them from ids with --speaker-in-id."
            )
        drawn = self.by_speaker.drawn
        if drawn >= _FEW_SPEAKERS:
            return ""
        return f" Only {drawn} speakers; confirm the result with {_FEW_SPEAKERS} or more."

    def _describe_interval(self) -> str:
        found = self._interval
        if found is None:
            return "There are too few utterances to resample"
        how = "bootstrap" if found.method == "percentiles" else "Student's t"
        points = f"points (95 % interval, {how} over {found.drawn:,} {found.units})"
        low, high = 100 * found.low, 100 * found.high
        if self._interval_differs:
            low, high = sorted((abs(low), abs(high)))
            return f"The difference is {low:.2f} to {high:.2f} {points}"
        return f"The difference {self.names[1]} - {self.names[0]} is {low:.2f} to {high:.2f} {points}"

    def _describe_test(self) -> str:
        test = self.matched_pairs
        if test.p is None:
            return f"the matched pairs test has too little data (segments: {test.segments})"
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
    """Compare the hypotheses of two systems, matched by id.

    Args:
        references: id -> transcript.
        first, second: id -> hypothesis of each system.
        names: names of the systems.
        config: scoring options.
        second_references: references for the second system, if alternatives were resolved per system.

    Raises:
        UserError: see `tally` and `resampled_sums`; also if the references contain no words.
    """
    a = tally(references, first, config, names[0])
    b = tally(second_references or references, second, config, names[1])
    scores = (a.score, b.score)
    if scores[0].words.reference_length == 0:
        raise UserError("the references contain no words; there is nothing to compare")
    counts = (a.words[:, :3].sum(1), b.words[:, :3].sum(1), a.words[:, 3])
    by_speaker = None
    by_utterance, better = difference(*counts, None, config.resamples, config.seed)
    if a.clusters is not None:
        by_speaker, better = difference(*counts, a.clusters, config.resamples, config.seed)
    pairs = matched_pairs(list(_error_differences(a, b)))
    gap = scores[1].words.rate - scores[0].words.rate
    return Comparison(names, scores, gap, by_utterance, by_speaker, better, pairs)


def compare_files(
    reference: str, first: str, second: str, config: ScoringConfig, normalisation: Normalisation
) -> Comparison:
    """Compare two hypothesis files; each system is named after its file.

    Raises:
        UserError: see `read_pair` and `compare`.
    """
    references, a = prepared(reference, first, config, normalisation)
    second_references, b = prepared(reference, second, config, normalisation)
    one, other = split_names([first, second])
    result = compare(references, a, b, (one, other), config, second_references)
    return replace(result, normalisation=normalisation.stated)


def _error_differences(a: Tally, b: Tally) -> Iterator[int]:
    """Yield the error difference of each segment. An utterance with two references is one segment."""
    for one, other in zip(a.alignments, b.alignments, strict=True):
        if one.reference == other.reference:
            yield from segment_differences(one, other)
        elif one.counts.errors or other.counts.errors:
            yield one.counts.errors - other.counts.errors
