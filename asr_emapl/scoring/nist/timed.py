"""NIST's time-marked formats: stm (segments with transcripts) and ctm (single words).

    stm: talk 1 alice 12.30 17.85 <o,f0,female> AND SO IT BEGAN
    ctm: talk 1 12.41 0.22 AND 0.98

Lines that start with ";;" are comments. As in NIST's sclite, whose manual describes the formats, names of
recordings and channels are not case-sensitive. Tags (from ";" to the end of a word) and a "*" at the end of a
word are removed. Fragments ("wor-") are words.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr_emapl.audio import MAX_SECONDS
from asr_emapl.errors import UserError
from asr_emapl.scoring.formats import without_comments
from asr_emapl.scoring.nist.alternatives import parse_marked
from asr_emapl.storage import BrokenLineError, Line, parse_lines

_IGNORED = ("IGNORE_TIME_SEGMENT_IN_SCORING", "IGNORETIMESEGMENTINSCORING")
_BEGIN, _OR, _END = "<ALT_BEGIN>", "<ALT>", "<ALT_END>"
_TAG = re.compile(r"(?<!\\);\S*")


@dataclass(frozen=True, slots=True)
class StmSegment:
    """One line of an stm file, with times in seconds. `text` is None if the segment is not scored."""

    recording: str
    channel: str
    speaker: str
    begin: float
    end: float
    text: str | None


@dataclass(frozen=True, slots=True)
class CtmWord:
    """One word of a ctm file, or alternatives as "{ a / b }", with times in seconds."""

    recording: str
    channel: str
    begin: float
    duration: float
    word: str


def parse_stm(place: str | Path, lines: Sequence[Line]) -> list[StmSegment]:
    """Parse the lines of an stm file.

    Raises:
        UserError: a line is invalid, or alternatives are not closed.
    """
    return [segment for _, segment in parse_lines(place, without_comments(lines), _segment)]


def parse_ctm(place: str | Path, lines: Sequence[Line]) -> list[CtmWord]:
    """Parse the lines of a ctm file.

    Each set of alternatives becomes one word, centred at the midpoint of its latest word.

    Raises:
        UserError: a line is invalid, or alternatives are nested or lack a start or end mark.
    """
    words: list[CtmWord] = []
    group: list[CtmWord] | None = None
    for number, word in parse_lines(place, without_comments(lines), _word):
        mark = word.word.upper()
        if mark == _BEGIN and group is None:
            group = [word]
        elif group is None and mark not in (_OR, _END):
            words.append(word)
        elif group is None or mark == _BEGIN:
            raise UserError(
                f"{place}:{number}: unexpected {word.word}; alternatives start with {_BEGIN}, end with "
                f"{_END} and cannot be nested"
            )
        elif mark == _END:
            words += _alternatives(group)
            group = None
        else:
            group.append(word)
    if group is not None:
        raise UserError(f"{place}: unclosed alternatives; add {_END}")
    return words


def segment_ids(segments: Sequence[StmSegment]) -> list[str]:
    """Return one id per segment: recording-channel-start-end, with times in milliseconds.

    The id of a recording's only segment is the recording's name. Segments with equal times (simultaneous
    speakers) are numbered from the second on.
    """
    count = Counter(segment.recording for segment in segments)
    seen: Counter[str] = Counter()
    names = []
    for s in segments:
        name = s.recording
        if count[name] > 1:
            name += f"-{s.channel}-{round(1000 * s.begin):07d}-{round(1000 * s.end):07d}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def texts_of_recordings(words: Sequence[CtmWord]) -> dict[str, str]:
    """Return the text of each recording (or channel, if a recording has several), ordered by time."""
    channels = Counter(recording for recording, _ in {(word.recording, word.channel) for word in words})
    texts: dict[str, list[str]] = defaultdict(list)
    for word in sorted(words, key=lambda w: w.begin):
        name = word.recording if channels[word.recording] == 1 else f"{word.recording}-{word.channel}"
        texts[name].append(word.word)
    return {name: " ".join(spoken) for name, spoken in texts.items()}


def texts_of_segments(segments: Sequence[StmSegment], words: Sequence[CtmWord]) -> dict[str, str]:
    """Assign words to segments as sclite does, and return the text of each segment.

    The segments of a recording and channel are processed by start time. Each takes the remaining words up to
    the first whose midpoint is at or after the segment's end; the last takes all remaining words. A word in a
    gap therefore belongs to the next segment. Words in segments that are not scored are dropped. A recording
    without words has no entry; the words of a recording without segments form one entry.
    """
    spoken: dict[tuple[str, str], list[CtmWord]] = defaultdict(list)
    for word in words:
        spoken[_key(word)].append(word)
    placed: dict[tuple[str, str], list[tuple[StmSegment, str]]] = defaultdict(list)
    for segment, name in zip(segments, segment_ids(segments), strict=True):
        placed[_key(segment)].append((segment, name))
    texts: dict[str, str] = {}
    for place, found in spoken.items():
        remaining = deque(sorted(found, key=lambda word: word.begin))
        if place not in placed:
            texts[f"{found[0].recording}-{found[0].channel}"] = " ".join(word.word for word in remaining)
            continue
        here = sorted(placed[place], key=lambda pair: pair[0].begin)
        for number, (segment, name) in enumerate(here, start=1):
            taken = []
            # sclite rounds the end of a segment to single precision, but not the midpoint of a word.
            end = math.inf if number == len(here) else float(np.float32(segment.end))
            while remaining and remaining[0].begin + remaining[0].duration / 2 < end:
                taken.append(remaining.popleft().word)
            if segment.text is not None:
                texts[name] = " ".join(taken)
    return texts


def _key(entry: StmSegment | CtmWord) -> tuple[str, str]:
    return entry.recording.casefold(), entry.channel.casefold()


def _alternatives(group: Sequence[CtmWord]) -> list[CtmWord]:
    """Merge alternatives into one word; return an empty list if none of them has a time."""
    timed = [word for word in group if not math.isnan(word.begin)]
    if not timed:
        return []
    wordings = " ".join("/" if word.word.upper() == _OR else word.word for word in group[1:])
    text = " / ".join(wording.strip() or "@" for wording in wordings.split("/"))
    begin, middle = min(w.begin for w in timed), max(w.begin + w.duration / 2 for w in timed)
    return [CtmWord(group[0].recording, group[0].channel, begin, 2 * (middle - begin), f"{{ {text} }}")]


def _segment(line: str) -> StmSegment:
    fields = line.split(maxsplit=5)
    if len(fields) < 5:
        raise BrokenLineError("not an stm line; expected recording, channel, speaker, start, end, words")
    recording, channel, speaker = fields[:3]
    begin, end = map(_seconds, fields[3:5])
    if end < begin:
        raise BrokenLineError(f"the segment ends ({end:g} s) before it starts ({begin:g} s)")
    text = fields[5].strip() if len(fields) == 6 else ""
    if text.startswith("<"):
        text = text.partition(" ")[2].strip()
    if any(mark in text.upper() for mark in _IGNORED):
        return StmSegment(recording, channel, speaker, begin, end, None)
    text = untagged(text)
    parse_marked(text)  # raises if the line is invalid
    return StmSegment(recording, channel, speaker, begin, end, text)


def _word(line: str) -> CtmWord:
    fields = line.split()
    if not 5 <= len(fields) <= 8:
        raise BrokenLineError(
            "not a ctm line; expected recording, channel, start, duration, word and optionally confidence"
        )
    recording, channel, begin, duration, word = fields[:5]
    if word.upper() in (_BEGIN, _OR, _END):
        return CtmWord(recording, channel, math.nan, math.nan, word)
    return CtmWord(recording, channel, _seconds(begin), _seconds(duration), untagged(word))


def untagged(text: str) -> str:
    """Remove tags ("read;verb;past") and a "*" at the end of each word."""
    words = (_TAG.sub("", word) for word in text.split())
    return " ".join(word[:-1] if len(word) > 1 and word.endswith("*") else word for word in words if word)


def _seconds(field: str) -> float:
    try:
        seconds = float(field)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds <= MAX_SECONDS:
        raise BrokenLineError(f"{field!r} is not a time in seconds")
    return seconds
