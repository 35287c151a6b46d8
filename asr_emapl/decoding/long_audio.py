"""Audio files of any length to transcripts with times: long ones are cut where nobody speaks, and joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from asr_emapl.audio.decode import probe
from asr_emapl.audio.segmentation import SegmentConfig
from asr_emapl.audio.voice_activity import Detector
from asr_emapl.data.manifest import Utterance
from asr_emapl.data.recordings import Recording, cut_recording
from asr_emapl.decoding.recognizer import Recognizer
from asr_emapl.decoding.spans import Timed
from asr_emapl.decoding.transcribe import timed_hypotheses
from asr_emapl.errors import UserError

MIN_SECONDS = 0.4
"""No speech is left out: the edges that are kept around it make this much by themselves."""


@dataclass(frozen=True)
class Segment:
    """What was decoded at once; times in seconds from the file's begin."""

    begin: float
    end: float
    text: str
    confidence: float
    words: tuple[Timed, ...]


@dataclass(frozen=True)
class Transcript:
    """A file's segments, in order of time, without those in which the model wrote nothing."""

    audio: str
    seconds: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(segment.text for segment in self.segments)


def transcribe_file(
    recognizer: Recognizer,
    audio: Path,
    detector: Detector,
    *,
    max_seconds: float,
    search: Callable[[Tensor], Tensor] | None = None,
    advance: Callable[[float], None] = lambda seconds: None,
) -> Transcript:
    """Transcribe one file.

    Args:
        detector: of speech; asked only if the file is longer than `max_seconds`.
        max_seconds: what is longer is cut, so that no segment is.
        search: as for `timed_hypotheses`.
        advance: called with seconds of audio as they are done.

    Raises:
        UserError: the file cannot be decoded.
    """
    seconds = probe(audio)[0]
    utterances = _utterances(audio, seconds, detector, max_seconds)
    begin = {utterance.id: utterance.offset for utterance in utterances}
    length = {utterance.id: utterance.duration for utterance in utterances}
    segments: list[Segment] = []
    for batch in recognizer.posteriors(utterances):
        for h in timed_hypotheses(batch, recognizer.tokenizer, recognizer.frame_seconds, search):
            start, end = begin[h.id], begin[h.id] + length[h.id]
            words = tuple(_within(word.shifted(start), end) for word in h.words)
            if h.text:
                segments.append(Segment(start, end, h.text, h.confidence, words))
            advance(length[h.id])
    advance(seconds - sum(length.values()))  # where nobody speaks
    return Transcript(str(audio), seconds, tuple(sorted(segments, key=lambda s: s.begin)))


def _utterances(audio: Path, seconds: float, detector: Detector, max_seconds: float) -> Sequence[Utterance]:
    if seconds <= max_seconds:
        return [Utterance("0", str(audio), seconds)]
    limits = SegmentConfig(
        min_seconds=MIN_SECONDS, max_seconds=max_seconds, target_seconds=max(MIN_SECONDS, max_seconds / 2.0)
    )
    cut = cut_recording(Recording("0", str(audio)), limits, detector)
    if cut.fault:
        raise UserError(cut.fault)
    return cut.utterances


def _within(word: Timed, end: float) -> Timed:
    """The last frame of a model may reach beyond the audio."""
    return Timed(word.text, min(word.begin, end), min(word.end, end), word.confidence)
