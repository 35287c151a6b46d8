"""Formats of transcripts: text, JSON, and the subtitles SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence

from asr_emapl.decoding.long_audio import Transcript
from asr_emapl.decoding.spans import Timed

# Of a subtitle, as broadcasters have them: two lines of 42 letters, 7 s at most.
_LINE_LETTERS = 42
_CUE_LETTERS = 2 * _LINE_LETTERS
_CUE_SECONDS = 7.0
_PAUSE_SECONDS = 1.5  # a longer one ends a subtitle


def to_text(transcript: Transcript) -> str:
    """A line for each segment."""
    return "".join(f"{segment.text}\n" for segment in transcript.segments)


def to_json(transcript: Transcript) -> str:
    """One line: file, length, text, and the segments with their words; times in seconds."""
    return (
        json.dumps(
            {
                "audio": transcript.audio,
                "seconds": round(transcript.seconds, 3),
                "text": transcript.text,
                "segments": [
                    {
                        "begin": round(segment.begin, 3),
                        "end": round(segment.end, 3),
                        "text": segment.text,
                        "confidence": round(segment.confidence, 4),
                        "words": [
                            {
                                "word": word.text,
                                "begin": round(word.begin, 3),
                                "end": round(word.end, 3),
                                "confidence": round(word.confidence, 4),
                            }
                            for word in segment.words
                        ],
                    }
                    for segment in transcript.segments
                ],
            },
            ensure_ascii=False,
        )
        + "\n"
    )


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
"""Name -> the ending of its files, and what makes one."""


def _cues(transcript: Transcript) -> Iterator[tuple[float, float, str]]:
    """Subtitles: begin, end, and text of two lines at most (more only if a word is longer than a line)."""
    words: list[Timed] = []
    for word in (word for segment in transcript.segments for word in segment.words):
        if words and not _fits(words, word):
            yield _cue(words)
            words = []
        words.append(word)
    if words:
        yield _cue(words)


def _fits(words: Sequence[Timed], word: Timed) -> bool:
    text = " ".join(w.text for w in [*words, word])
    return (
        len(text) <= _CUE_LETTERS
        and len(_lines(text)) <= 2
        and word.end - words[0].begin <= _CUE_SECONDS
        and word.begin - words[-1].end <= _PAUSE_SECONDS
    )


def _cue(words: Sequence[Timed]) -> tuple[float, float, str]:
    return words[0].begin, words[-1].end, "\n".join(_lines(" ".join(w.text for w in words)))


def _lines(text: str) -> list[str]:
    return textwrap.wrap(text, _LINE_LETTERS, break_long_words=False)


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000.0 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
