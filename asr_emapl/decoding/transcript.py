"""Transcripts of audio files, and their formats: text, JSON, and the subtitles SubRip and WebVTT."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from asr_emapl.decoding.spans import TimedText

# Typical broadcast limits for subtitles.
_LINE_CHARACTERS = 42
_MAX_LINES = 2
_CUE_SECONDS = 7.0
_PAUSE_SECONDS = 1.5  # a longer pause ends a subtitle


@dataclass(frozen=True)
class TranscriptSegment:
    """A part of a file that was decoded as one utterance. Times are in seconds from the start of the file."""

    begin: float
    end: float
    text: str
    confidence: float
    words: tuple[TimedText, ...]


@dataclass(frozen=True)
class Transcript:
    """Non-empty segments of an audio file, in time order."""

    audio: str
    seconds: float
    segments: tuple[TranscriptSegment, ...]

    @property
    def text(self) -> str:
        """The text of all segments."""
        return " ".join(segment.text for segment in self.segments)


def to_text(transcript: Transcript) -> str:
    """One line per segment."""
    return "".join(f"{segment.text}\n" for segment in transcript.segments)


def to_json(transcript: Transcript) -> str:
    """One line: file, length, text, and the segments with their words; times in seconds."""
    content = {
        "audio": transcript.audio,
        "seconds": round(transcript.seconds, 3),
        "text": transcript.text,
        "segments": [
            {
                "begin": round(segment.begin, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                "confidence": round(segment.confidence, 4),
                "words": [word_record(word) for word in segment.words],
            }
            for segment in transcript.segments
        ],
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def to_srt(transcript: Transcript) -> str:
    """SubRip."""
    return "".join(
        f"{number}\n{_clock(begin, ',')} --> {_clock(end, ',')}\n{text}\n\n"
        for number, (begin, end, text) in enumerate(_cues(transcript), start=1)
    )


def to_vtt(transcript: Transcript) -> str:
    """WebVTT."""
    cues = (
        f"{_clock(begin, '.')} --> {_clock(end, '.')}\n{_escaped(text)}\n\n"
        for begin, end, text in _cues(transcript)
    )
    return "WEBVTT\n\n" + "".join(cues)


FORMATS: dict[str, tuple[str, Callable[[Transcript], str]]] = {
    "text": (".txt", to_text),
    "json": (".json", to_json),
    "srt": (".srt", to_srt),
    "vtt": (".vtt", to_vtt),
}
"""Name -> file ending, and the function that formats a transcript."""


def word_record(word: TimedText, seconds: float = math.inf) -> dict[str, object]:
    """A word for JSON. Times are limited to `seconds`, because the last frame may end after the audio."""
    begin, end = (round(min(time, seconds), 3) for time in (word.begin, word.end))
    return {"word": word.text, "begin": begin, "end": end, "confidence": round(word.confidence, 4)}


def _cues(transcript: Transcript) -> Iterator[tuple[float, float, str]]:
    """Begin, end and text of each subtitle.

    A subtitle has at most two lines unless a word is longer than a line.
    """
    words: list[TimedText] = []
    for word in (word for segment in transcript.segments for word in segment.words):
        if words and not _fits(words, word):
            yield _cue(words)
            words = []
        words.append(word)
    if words:
        yield _cue(words)


def _fits(words: Sequence[TimedText], word: TimedText) -> bool:
    text = " ".join(w.text for w in [*words, word])
    return (
        len(text) <= _MAX_LINES * _LINE_CHARACTERS
        and len(_lines(text)) <= _MAX_LINES
        and word.end - words[0].begin <= _CUE_SECONDS
        and word.begin - words[-1].end <= _PAUSE_SECONDS
    )


def _cue(words: Sequence[TimedText]) -> tuple[float, float, str]:
    return words[0].begin, words[-1].end, "\n".join(_lines(" ".join(w.text for w in words)))


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, _LINE_CHARACTERS, break_long_words=False)


def _clock(seconds: float, point: str) -> str:
    minutes, rest = divmod(round(1000.0 * seconds), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
