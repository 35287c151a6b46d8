"""Evaluate one or more splits: scores, intervals, breakdowns, confusions and vocabulary."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from asr_emapl.errors import UserError
from asr_emapl.scoring.intervals import Interval, intervals
from asr_emapl.scoring.nist.alternatives import apply_to_wordings, best_wordings
from asr_emapl.scoring.normalisation import Normalisation, differs_invisibly
from asr_emapl.scoring.tally import ScoringConfig, Tally, joined, tally
from asr_emapl.scoring.transcripts import TranscriptEntry, read_pair
from asr_emapl.scoring.wer import Score
from asr_emapl.scoring.word_counts import OutOfVocabulary, confusions, out_of_vocabulary, read_vocabulary

_logger = logging.getLogger(__name__)

MEASURES = {"words": "WER", "characters": "CER", "sentences": "SER"}
"""Counted unit -> name of its error rate."""

Intervals = dict[str, Interval | None]
"""An interval for each of `MEASURES`."""


@dataclass(frozen=True)
class SplitResult:
    """Per-utterance counts, totals and confidence intervals of a split.

    `by_utterance` is empty if `resamples` is 0. `by_speaker` is also empty if any speaker is unknown.
    """

    tally: Tally
    score: Score
    by_utterance: Intervals
    by_speaker: Intervals

    def to_dict(self) -> dict[str, Any]:
        """Return the score, the intervals and the scores by speaker and duration, for JSON."""
        return {
            **self.score.to_dict(),
            "by_utterance": {key: found and found.to_dict() for key, found in self.by_utterance.items()},
            "by_speaker": {key: found and found.to_dict() for key, found in self.by_speaker.items()},
            "speakers": {name: score.to_dict() for name, score in self.tally.by_speaker().items()},
            "durations": {name: score.to_dict() for name, score in self.tally.by_duration().items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """The scores of each split and of all splits together.

    Attributes:
        splits: results by split name.
        total: the only split, or all of them joined.
        normalisation: the text normalisation.
        unknown_words: out-of-vocabulary reference words, if a vocabulary is given.
    """

    splits: dict[str, SplitResult]
    total: SplitResult
    normalisation: Normalisation
    unknown_words: OutOfVocabulary | None = None

    def to_dict(self, most: int) -> dict[str, Any]:
        """Return the total, the `most` most frequent confusions and, if there are several, the splits."""
        found = self.total.to_dict()
        found |= {"normalisation": self.normalisation.stated, "weights": self.total.tally.weights}
        if most:
            found["confusions"] = asdict(confusions(self.total.tally.alignments, most))
        if self.unknown_words is not None:
            found["out_of_vocabulary"] = self.unknown_words.to_dict()
        if len(self.splits) > 1:
            found["splits"] = {name: split.to_dict() for name, split in self.splits.items()}
        return found


def evaluate(
    files: Sequence[str], config: ScoringConfig, normalisation: Normalisation, vocabulary: Sequence[str] = ()
) -> Evaluation:
    """Score pairs of files. Each pair is a split, named after its reference.

    Args:
        files: alternating reference and hypothesis paths.
        config: scoring options.
        normalisation: applied to references, hypotheses and vocabulary.
        vocabulary: word lists and manifests with the known words.

    Raises:
        UserError: the number of files is odd or 0, a file cannot be read, or ids do not match.
    """
    if not files or len(files) % 2:
        raise UserError(
            f"got {len(files)} files; expected pairs of reference and hypothesis (REF HYP REF HYP ...)"
        )
    names = split_names(files[::2])
    tallies: dict[str, Tally] = {}
    for name, reference, hypothesis in zip(names, files[::2], files[1::2], strict=True):
        texts = prepared(reference, hypothesis, config, normalisation)
        tallies[name] = tally(*texts, config, f"{reference}, {hypothesis}")
    known = read_vocabulary(vocabulary, normalisation.apply)
    splits = {name: _with_intervals(counts, config) for name, counts in tallies.items()}
    total = splits[names[0]] if len(names) == 1 else _with_intervals(joined(tallies), config)
    unknown = out_of_vocabulary(total.tally.alignments, known) if vocabulary else None
    return Evaluation(splits, total, normalisation, unknown)


def prepared(
    reference: str, hypothesis: str, config: ScoringConfig, normalisation: Normalisation
) -> tuple[dict[str, TranscriptEntry], dict[str, str]]:
    """Read a pair of files, normalise the texts, and add speakers from ids if configured.

    Raises:
        UserError: see `read_pair`; also if speakers come from ids and no id contains a separator.
    """
    references, hypotheses = read_pair(reference, hypothesis)
    if config.speaker_in_id:
        references = _with_speakers(reference, references)
    wanted: dict[str, TranscriptEntry] = {}
    recognised = {name: entry.text for name, entry in hypotheses.items()}
    for name, entry in references.items():
        try:
            text, recognised_text = _wordings(entry, hypotheses.get(name), normalisation)
        except UserError as error:
            raise UserError(f"{reference}: utterance {name}: {error}") from None
        wanted[name] = replace(entry, text=text, marked=None)
        if name in hypotheses:
            recognised[name] = recognised_text
    hidden = sum(differs_invisibly(e.text, recognised[n]) for n, e in wanted.items() if n in recognised)
    if hidden:
        _logger.warning(
            f"{reference}, {hypothesis}: {hidden} utterances have words that look alike but differ in "
            "Unicode (NFC and NFD, or invisible characters) and count as errors; use --normalise plain"
        )
    return wanted, recognised


def split_names(files: Sequence[str]) -> list[str]:
    """Return unique names: stems, else paths relative to the common folder; repeated files are numbered."""
    stems = [re.sub(r"(\.\w+)?(\.gz)?$", "", Path(file).name) for file in files]
    if len(set(stems)) == len(stems):
        return stems
    if len(set(files)) < len(files):
        return [f"{file} ({number})" for number, file in enumerate(files, start=1)]
    parts = [Path(file).parts for file in files]
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False)))
    return [str(Path(*names[common:])) for names in parts]


def _wordings(
    reference: TranscriptEntry, hypothesis: TranscriptEntry | None, normalisation: Normalisation
) -> tuple[str, str]:
    """Return the normalised texts; if there are alternatives, those with the best alignment."""
    sides = (reference, hypothesis or TranscriptEntry(""))
    if all(side.marked is None for side in sides):
        return normalisation.apply(sides[0].text), normalisation.apply(sides[1].text)
    marked = (side.marked or ((side.text,),) for side in sides)
    return best_wordings(*(apply_to_wordings(parts, normalisation.apply) for parts in marked))


def _with_speakers(place: str, entries: Mapping[str, TranscriptEntry]) -> dict[str, TranscriptEntry]:
    """Fill in missing speakers from ids. Raise UserError if no id has one; warn if all have the same."""
    speakers = {name: re.split("[-_]", name, maxsplit=1)[0] for name, e in entries.items() if not e.speaker}
    names = list(speakers)
    if names and all(name == speaker for name, speaker in speakers.items()):
        raise UserError(
            f"{place}: --speaker-in-id: no id contains '-' or '_' (first id: {names[0]!r}); add speakers to "
            "the reference, or omit the option"
        )
    if len(names) > 1 and len(set(speakers.values())) == 1:
        _logger.warning(
            f"{place}: --speaker-in-id: all {len(names)} ids start with {speakers[names[0]]!r}, so there is "
            "only one speaker"
        )
    return {
        name: replace(entry, speaker=speakers[name]) if name in speakers else entry
        for name, entry in entries.items()
    }


def _with_intervals(counts: Tally, config: ScoringConfig) -> SplitResult:
    if not config.resamples:
        return SplitResult(counts, counts.score, {}, {})
    words, characters = counts.words, counts.characters
    quotients = {
        "words": (words[:, :3].sum(1), words[:, 3]),
        "characters": (characters[:, :3].sum(1), characters[:, 3]),
        "sentences": (words[:, :3].any(1), np.ones(len(words))),
    }
    speakers = counts.clusters
    by_utterance = intervals(quotients, None, config.resamples, config.seed)
    by_speaker = {} if speakers is None else intervals(quotients, speakers, config.resamples, config.seed)
    return SplitResult(counts, counts.score, by_utterance, by_speaker)
