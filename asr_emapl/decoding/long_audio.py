"""Transcribe audio of any length, with times: long files are cut at pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from asr_emapl.audio.decode import probe
from asr_emapl.audio.segmentation import SegmentConfig
from asr_emapl.audio.voice_activity import Detector
from asr_emapl.data.recordings import Recording, cut_recording
from asr_emapl.data.utterance import Utterance
from asr_emapl.decoding.recognizer import Recognizer
from asr_emapl.decoding.spans import Timed
from asr_emapl.decoding.transcribe import timed_hypotheses
from asr_emapl.errors import UserError

MIN_SECONDS = 0.4
"""No speech is left out: the edges that are kept around it make this much by themselves."""
_TURN_SECONDS = 120.0


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
    advance: Callable[[float, Sequence[Segment]], None] = lambda seconds, segments: None,
) -> Transcript:
    """Transcribe one file.

    Args:
        detector: of speech; asked only if the file is longer than `max_seconds`.
        max_seconds: what is longer is cut, so that no segment is.
        search: as for `timed_hypotheses`.
        advance: called with seconds of audio as they are done and the segments found in them, in order of
            time.

    Raises:
        UserError: the file cannot be decoded.
    """
    seconds = probe(audio)[0]
    segments: list[Segment] = []
    done = 0.0
    for turn in _turns(_utterances(audio, seconds, detector, max_seconds)):
        found = sorted(_segments(recognizer, turn, search), key=lambda segment: segment.begin)
        segments += found
        end = turn[-1].offset + turn[-1].duration
        advance(end - done, found)
        done = end
    advance(seconds - done, [])
    return Transcript(str(audio), seconds, tuple(segments))


def _turns(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    """A batch's worth of utterances after the other, in order of time, so that a reader need not wait."""
    turn: list[Utterance] = []
    for utterance in utterances:
        if turn and sum(u.duration for u in turn) + utterance.duration > _TURN_SECONDS:
            yield turn
            turn = []
        turn.append(utterance)
    if turn:
        yield turn


def _segments(
    recognizer: Recognizer, utterances: Sequence[Utterance], search: Callable[[Tensor], Tensor] | None
) -> Iterator[Segment]:
    """What was said in each, where something was."""
    of = {utterance.id: utterance for utterance in utterances}
    for batch in recognizer.posteriors(utterances):
        for h in timed_hypotheses(batch, recognizer.tokenizer, recognizer.frame_seconds, search):
            begin = of[h.id].offset
            end = begin + of[h.id].duration
            words = tuple(_within(word.shifted(begin), end) for word in h.words)
            if h.text:
                yield Segment(begin, end, h.text, h.confidence, words)


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
