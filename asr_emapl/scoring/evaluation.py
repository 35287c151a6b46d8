"""The result of `asr-emapl score` for one or more splits: rates, intervals and breakdowns."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from asr_emapl.errors import UserError
from asr_emapl.scoring.alignment import Alignment, Weights
from asr_emapl.scoring.bootstrap import Interval, intervals
from asr_emapl.scoring.confusions import Confusions, confusions
from asr_emapl.scoring.nist.alternatives import apply_to_wordings, best_wordings
from asr_emapl.scoring.normalisation import Normalisation
from asr_emapl.scoring.tally import Tally, joined, tally
from asr_emapl.scoring.transcripts import TranscriptEntry, read_pair
from asr_emapl.scoring.vocabulary import OutOfVocabulary, out_of_vocabulary, read_vocabulary
from asr_emapl.scoring.wer import Score
from asr_emapl.scoring.written_forms import hidden_differences

_logger = logging.getLogger(__name__)

MEASURES = {"words": "WER", "characters": "CER", "sentences": "SER"}
"""What is counted, and what its rate is called."""

Intervals = dict[str, Interval | None]
"""An interval for each of `MEASURES`."""


@dataclass(frozen=True)
class ScoringConfig:
    """How hypotheses are scored.

    Attributes:
        allow_missing: count absent hypotheses as empty, and pass over extra ones.
        speaker_in_id: take what precedes the first - or _ of an id for the speaker where none is given.
        weights: how words are aligned, as `align` takes it.
        resamples: of the bootstrap; 0 for no intervals.
        seed: of the bootstrap.
    """

    allow_missing: bool = False
    speaker_in_id: bool = False
    weights: Weights = "levenshtein"
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Split:
    """A corpus, scored.

    Attributes:
        tally: the counts of its utterances.
        score: their sums.
        by_utterance: intervals; none if no resamples were asked for.
        by_speaker: the same, drawing speakers; none unless all are known.
    """

    tally: Tally
    score: Score
    by_utterance: Intervals
    by_speaker: Intervals

    def to_dict(self) -> dict[str, Any]:
        """Score, intervals, and scores by speaker and by duration where these are known, JSON-ready."""
        found: dict[str, Any] = self.score.to_dict()
        for name, of in (("by_utterance", self.by_utterance), ("by_speaker", self.by_speaker)):
            found[name] = {key: None if value is None else value.to_dict() for key, value in of.items()}
        found["speakers"] = {name: score.to_dict() for name, score in self.tally.by_speaker().items()}
        found["durations"] = {name: score.to_dict() for name, score in self.tally.by_duration().items()}
        return found


@dataclass(frozen=True)
class Evaluation:
    """Splits, and all of them as one.

    Attributes:
        splits: by name.
        total: the only split, or all of them together.
        normalisation: what was done to the texts.
        vocabulary: the words that were known, if that was asked.
    """

    splits: dict[str, Split]
    total: Split
    normalisation: Normalisation
    vocabulary: frozenset[str] | None = None

    @cached_property
    def alignments(self) -> list[Alignment]:
        """Of all utterances, split by split."""
        return self.total.tally.alignments()

    def confusions(self, most: int) -> Confusions:
        """The most frequent confusions of all splits."""
        return confusions(self.alignments, most)

    def out_of_vocabulary(self) -> OutOfVocabulary | None:
        """What the vocabulary lacks of all references; None without a vocabulary."""
        if self.vocabulary is None:
            return None
        return out_of_vocabulary(self.alignments, self.vocabulary)

    def to_dict(self, most: int) -> dict[str, Any]:
        """The total, and each split if there are several, with `most` confusions, JSON-ready."""
        unknown = self.out_of_vocabulary()
        found = self.total.to_dict() | {
            "normalisation": self.normalisation.stated,
            "weights": self.total.tally.weights,
        }
        if most:
            found["confusions"] = self.confusions(most).to_dict()
        if unknown is not None:
            found["out_of_vocabulary"] = unknown.to_dict()
        if len(self.splits) > 1:
            found["splits"] = {name: split.to_dict() for name, split in self.splits.items()}
        return found


def evaluate(
    files: Sequence[str],
    config: ScoringConfig,
    normalisation: Normalisation,
    vocabulary: Sequence[str] = (),
) -> Evaluation:
    """Score pairs of files, a split each, named after its reference.

    Args:
        files: reference, hypothesis, reference, hypothesis and so on.
        config: how.
        normalisation: applied to both sides and to the vocabulary.
        vocabulary: word lists and manifests of the words that the recogniser was shown, if that is asked.

    Raises:
        UserError: a file without its counterpart, or one that cannot be read; ids that one side alone has.
    """
    if not files or len(files) % 2:
        raise UserError(f"{len(files)} files: name a hypothesis after each reference (REF HYP REF HYP ...)")
    names = split_names(files[::2])
    tallies: dict[str, Tally] = {}
    for name, reference, hypothesis in zip(names, files[::2], files[1::2], strict=True):
        references, hypotheses = prepared(reference, hypothesis, config, normalisation)
        try:
            tallies[name] = tally(
                references, hypotheses, allow_missing=config.allow_missing, weights=config.weights
            )
        except UserError as error:
            raise UserError(f"{reference}, {hypothesis}: {error}") from None
    known = read_vocabulary(vocabulary, normalisation.apply) if vocabulary else None
    splits = {name: _split(counts, config) for name, counts in tallies.items()}
    total = splits[names[0]] if len(names) == 1 else _split(joined(tallies), config)
    return Evaluation(splits, total, normalisation, known)


def prepared(
    reference: str, hypothesis: str, config: ScoringConfig, normalisation: Normalisation
) -> tuple[dict[str, TranscriptEntry], dict[str, str]]:
    """A pair of files as it is scored: normalised, and with speakers by their ids if that is asked.

    Raises:
        UserError: as `read_pair`; or speakers are to come from ids that have no separator.
    """
    references, hypotheses = read_pair(reference, hypothesis)
    if config.speaker_in_id:
        _check_speakers(reference, [name for name, t in references.items() if not t.speaker])
    texts: tuple[dict[str, TranscriptEntry], dict[str, str]] = ({}, {})
    for name, transcript in references.items():
        try:
            wanted, given = _wordings(transcript, hypotheses.get(name), normalisation.apply)
        except UserError as error:
            raise UserError(f"{reference}: utterance {name}: {error}") from None
        speaker = transcript.speaker or (_speaker(name) if config.speaker_in_id else None)
        texts[0][name] = replace(transcript, text=wanted, speaker=speaker, marked=None)
        if name in hypotheses:
            texts[1][name] = given
    extra = {name: transcript.text for name, transcript in hypotheses.items() if name not in references}
    texts[1].update(extra)
    alike = hidden_differences(
        (transcript.text, texts[1][name]) for name, transcript in texts[0].items() if name in texts[1]
    )
    if alike:
        _logger.warning(
            f"{reference}, {hypothesis}: {alike} utterances have words that look alike but differ "
            "in Unicode (NFC and NFD, or invisible characters), which count as errors; use --normalise plain"
        )
    return texts


def _wordings(
    reference: TranscriptEntry, hypothesis: TranscriptEntry | None, apply: Callable[[str], str]
) -> tuple[str, str]:
    """The texts to be scored, normalised; of several wordings those that align best."""
    hypothesis = hypothesis or TranscriptEntry("")
    if reference.marked is None and hypothesis.marked is None:
        return apply(reference.text), apply(hypothesis.text)
    sides = (side.marked or ((side.text,),) for side in (reference, hypothesis))
    return best_wordings(*(apply_to_wordings(side, apply) for side in sides))


def _check_speakers(place: str, names: Sequence[str]) -> None:
    """That ids have a speaker in them, of those that are to give one."""
    if names and not any(re.search("[-_]", name) for name in names):
        raise UserError(
            f"{place}: --speaker-in-id: no id has a - or _ (the first is {names[0]!r}); give speakers in the "
            "reference, or leave the option out"
        )
    if len(names) > 1 and len({_speaker(name) for name in names}) == 1:
        _logger.warning(
            f"{place}: --speaker-in-id: all {len(names)} ids begin with {_speaker(names[0])!r}, so "
            "there is only one speaker"
        )


def split_names(files: Sequence[str]) -> list[str]:
    """The files' names without endings; where two are the same, paths; where these are, numbered.

    Paths are told from where they part.
    """
    stems = [re.sub(r"(\.\w+)?(\.gz)?$", "", Path(file).name) for file in files]
    if len(set(stems)) == len(stems):
        return stems
    if len(set(files)) < len(files):
        return [f"{file} ({number})" for number, file in enumerate(files, start=1)]
    parts = [Path(file).parts for file in files]
    common = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*parts, strict=False)))
    return [str(Path(*names[common:])) for names in parts]


def _split(counts: Tally, config: ScoringConfig) -> Split:
    if not config.resamples:
        return Split(counts, counts.score, {}, {})
    words, characters = counts.words, counts.characters
    quotients = {
        "words": (words[:, :3].sum(1), words[:, 3]),
        "characters": (characters[:, :3].sum(1), characters[:, 3]),
        "sentences": (words[:, :3].any(1), np.ones(len(words))),
    }
    by_speaker: Intervals = {}
    if counts.clusters is not None:
        by_speaker = intervals(quotients, counts.clusters, config.resamples, config.seed)
    return Split(counts, counts.score, intervals(quotients, None, config.resamples, config.seed), by_speaker)


def _speaker(name: str) -> str:
    return re.split("[-_]", name, maxsplit=1)[0]
