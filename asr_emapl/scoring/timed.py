"""NIST's time-marked formats: stm, stretches of recordings and what is said in them, and ctm, single words.

    stm: talk 1 alice 12.30 17.85 <o,f0,female> AND SO IT BEGAN
    ctm: talk 1 12.41 0.22 AND 0.98

Lines that start with ";;" are comments. The formats are described in the manual of NIST's sclite.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_emapl.audio import MAX_SECONDS
from asr_emapl.text_files import BrokenLineError, Line, parse_lines

COMMENT = ";;"
_IGNORED = "IGNORE_TIME_SEGMENT_IN_SCORING"
_ALTERNATIVES = ("<ALT_BEGIN>", "<ALT>", "<ALT_END>")


@dataclass(frozen=True, slots=True)
class Segment:
    """A line of an stm file; times in seconds. `text` is None where nothing is to be scored."""

    recording: str
    channel: str
    speaker: str
    begin: float
    end: float
    text: str | None


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A line of a ctm file; times in seconds."""

    recording: str
    channel: str
    begin: float
    duration: float
    word: str


def parse_stm(place: str | Path, lines: Sequence[Line]) -> list[Segment]:
    """The segments of an stm file.

    Raises:
        UserError: lines that are none; alternatives (`{ a / b }`).
    """
    return [segment for _, segment in parse_lines(place, _content(lines), _segment)]


def parse_ctm(place: str | Path, lines: Sequence[Line]) -> list[TimedWord]:
    """The words of a ctm file.

    Raises:
        UserError: lines that are none; alternatives (`<ALT_BEGIN>`).
    """
    return [word for _, word in parse_lines(place, _content(lines), _word)]


def segment_ids(segments: Sequence[Segment]) -> list[str]:
    """A recording's name where it is one segment, else with the channel and the times in milliseconds."""
    count = Counter(segment.recording for segment in segments)
    return [
        s.recording
        if count[s.recording] == 1
        else f"{s.recording}-{s.channel}-{round(1000 * s.begin):07d}-{round(1000 * s.end):07d}"
        for s in segments
    ]


def texts_of_recordings(words: Sequence[TimedWord]) -> dict[str, str]:
    """What is said in each recording, in the order of time; a channel has its own where there are several."""
    channels: dict[str, set[str]] = defaultdict(set)
    for word in words:
        channels[word.recording].add(word.channel)
    said: dict[str, list[str]] = defaultdict(list)
    for word in sorted(words, key=lambda w: w.begin):
        several = len(channels[word.recording]) > 1
        said[f"{word.recording}-{word.channel}" if several else word.recording].append(word.word)
    return {name: " ".join(spoken) for name, spoken in said.items()}


def texts_of_segments(segments: Sequence[Segment], words: Sequence[TimedWord]) -> dict[str, str]:
    """What is said in each segment: the words whose middle lies in it, or nearer to it than to the others.

    Words in a segment that is not scored are left out. A recording of which there is no word at all has no
    entry; one that no segment is about, or none of that channel, has one under its own name.
    """
    spoken: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for word in words:
        spoken[word.recording, word.channel].append((word.begin + word.duration / 2, word.word))
    placed: dict[tuple[str, str], list[tuple[Segment, str]]] = defaultdict(list)
    for segment, name in zip(segments, segment_ids(segments), strict=True):
        placed[segment.recording, segment.channel].append((segment, name))
    said: dict[str, list[str]] = {}
    for place, marks in spoken.items():
        if place not in placed:
            said["-".join(place)] = [mark[1] for mark in sorted(marks)]
            continue
        here = sorted(placed[place], key=lambda pair: pair[0].begin)
        begins = [segment.begin for segment, _ in here]
        said.update({name: [] for segment, name in here if segment.text is not None})
        for middle, spoken_word in sorted(marks):
            after = bisect.bisect_right(begins, middle)
            near = here[max(after - 1, 0) : after + 1]
            segment, name = min(near, key=lambda pair: _distance(pair[0], middle))
            if segment.text is not None:
                said[name].append(spoken_word)
    return {name: " ".join(parts) for name, parts in said.items()}


def _distance(segment: Segment, moment: float) -> float:
    """Seconds between a moment and a segment; 0 inside it."""
    return max(segment.begin - moment, moment - segment.end, 0.0)


def _content(lines: Sequence[Line]) -> list[Line]:
    return [(number, line) for number, line in lines if not line.startswith(COMMENT)]


def _segment(line: str) -> Segment:
    fields = line.split(maxsplit=5)
    if len(fields) < 5:
        raise BrokenLineError("no stm line: recording, channel, speaker, begin, end and words are expected")
    recording, channel, speaker, *times = fields[:5]
    begin, end = (_seconds(field) for field in times)
    if end < begin:
        raise BrokenLineError(f"the segment ends ({end:g} s) before it begins ({begin:g} s)")
    text = fields[5].strip() if len(fields) == 6 else ""
    if text.startswith("<") and ">" in text:
        text = text.partition(">")[2].strip()
    check_words(text)
    return Segment(recording, channel, speaker, begin, end, None if _IGNORED in text.upper() else text)


def _word(line: str) -> TimedWord:
    fields = line.split()
    if len(fields) not in (5, 6, 7, 8):
        raise BrokenLineError(
            "no ctm line: recording, channel, begin, duration, word and confidence are expected"
        )
    recording, channel, begin, duration, word = fields[:5]
    if word in _ALTERNATIVES:
        raise BrokenLineError("alternatives are not scored: keep one of them")
    return TimedWord(recording, channel, _seconds(begin), _seconds(duration), word)


def check_words(text: str) -> None:
    """BrokenLineError if a text of one of NIST's formats holds alternatives, which are no words."""
    if "{" in text.split():
        raise BrokenLineError("alternatives ('{ a / b }') are not scored: keep one of them")


def _seconds(field: str) -> float:
    try:
        seconds = float(field)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds <= MAX_SECONDS:
        raise BrokenLineError(f"{field!r} is no time in seconds")
    return seconds
