"""NIST's time-marked formats: stm (segments of recordings with their texts) and ctm (single words).

    stm: talk 1 alice 12.30 17.85 <o,f0,female> AND SO IT BEGAN
    ctm: talk 1 12.41 0.22 AND 0.98

Lines that start with ";;" are comments. The formats are described in the manual of NIST's sclite. Names of
recordings and channels match without regard to case, as sclite takes them. A word is read without what
follows a ";" in it (a tag) and without a "*" at its end. Fragments ("wor-") are words.
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
from asr_emapl.scoring.nist.alternatives import parse_marked
from asr_emapl.scoring.recognised_formats import COMMENT
from asr_emapl.storage import BrokenLineError, Line, parse_lines

_IGNORED = ("IGNORE_TIME_SEGMENT_IN_SCORING", "IGNORETIMESEGMENTINSCORING")
_BEGIN, _OR, _END = "<ALT_BEGIN>", "<ALT>", "<ALT_END>"
_TAG = re.compile(r"(?<!\\);\S*")


@dataclass(frozen=True, slots=True)
class StmSegment:
    """A line of an stm file; times in seconds. `text` may hold alternatives; None: not to be scored."""

    recording: str
    channel: str
    speaker: str
    begin: float
    end: float
    text: str | None


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word of a ctm file, or several wordings as "{ a / b }"; times in seconds."""

    recording: str
    channel: str
    begin: float
    duration: float
    word: str


def parse_stm(place: str | Path, lines: Sequence[Line]) -> list[StmSegment]:
    """The segments of an stm file.

    Raises:
        UserError: lines that are none; alternatives without an end.
    """
    return [segment for _, segment in parse_lines(place, _content(lines), _segment)]


def parse_ctm(place: str | Path, lines: Sequence[Line]) -> list[TimedWord]:
    """The words of a ctm file; alternatives are one word, whose middle is that of their latest word.

    Raises:
        UserError: lines that are none; alternatives without an end.
    """
    words: list[TimedWord] = []
    group: list[TimedWord] | None = None
    for number, word in parse_lines(place, _content(lines), _word):
        mark = word.word.upper()
        if mark == _BEGIN and group is None:
            group = [word]
        elif group is None and mark not in (_OR, _END):
            words.append(word)
        elif group is None or mark == _BEGIN:
            raise UserError(
                f"{place}:{number}: {word.word} outside alternatives, or inside: they do not nest"
            )
        elif mark == _END:
            words += _alternatives(group)
            group = None
        else:
            group.append(word)
    if group is not None:
        raise UserError(f"{place}: alternatives without an end ({_END}); add it")
    return words


def segment_ids(segments: Sequence[StmSegment]) -> list[str]:
    """A recording's name where it is one segment, else with the channel and the times in milliseconds.

    Segments of the same times, of two speakers at once, are numbered from the second one on.
    """
    count = Counter(segment.recording for segment in segments)
    names = [
        s.recording
        if count[s.recording] == 1
        else f"{s.recording}-{s.channel}-{round(1000 * s.begin):07d}-{round(1000 * s.end):07d}"
        for s in segments
    ]
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[i] = f"{name}-{seen[name]}"
    return names


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


def texts_of_segments(segments: Sequence[StmSegment], words: Sequence[TimedWord]) -> dict[str, str]:
    """What is said in each segment, as sclite cuts it.

    Of the segments of a recording and channel, in the order of their beginnings, each takes the words that
    are left until one has its middle at or after the segment's end; the last takes all that are left. So a
    word in a gap belongs to the segment after it. Words in a segment that is not scored are left out.
    A recording without any word has no entry; one without a segment has one under its own name.
    """
    spoken: dict[tuple[str, str], list[TimedWord]] = defaultdict(list)
    for word in words:
        spoken[_key(word)].append(word)
    placed: dict[tuple[str, str], list[tuple[StmSegment, str]]] = defaultdict(list)
    for segment, name in zip(segments, segment_ids(segments), strict=True):
        placed[_key(segment)].append((segment, name))
    said: dict[str, str] = {}
    for place, found in spoken.items():
        left = deque(sorted(found, key=lambda word: word.begin))
        if place not in placed:
            said[f"{found[0].recording}-{found[0].channel}"] = " ".join(word.word for word in left)
            continue
        here = sorted(placed[place], key=lambda pair: pair[0].begin)
        for number, (segment, name) in enumerate(here, start=1):
            taken = []
            # sclite keeps the ends of segments, not the times of words, in single precision: that decides
            # where a word belongs whose middle is at an end.
            end = math.inf if number == len(here) else float(np.float32(segment.end))
            while left and left[0].begin + left[0].duration / 2 < end:
                taken.append(left.popleft().word)
            if segment.text is not None:
                said[name] = " ".join(taken)
    return said


def _key(entry: StmSegment | TimedWord) -> tuple[str, str]:
    return entry.recording.casefold(), entry.channel.casefold()


def _alternatives(group: Sequence[TimedWord]) -> list[TimedWord]:
    """The wordings between marks as one word; none if there are no times in them."""
    timed = [word for word in group if not math.isnan(word.begin)]
    if not timed:
        return []
    wordings = " ".join("/" if word.word.upper() == _OR else word.word for word in group[1:])
    # An empty alternative is no word.
    text = " / ".join(wording.strip() or "@" for wording in wordings.split("/"))
    begin, middle = min(w.begin for w in timed), max(w.begin + w.duration / 2 for w in timed)
    return [TimedWord(group[0].recording, group[0].channel, begin, 2 * (middle - begin), f"{{ {text} }}")]


def _content(lines: Sequence[Line]) -> list[Line]:
    return [(number, line) for number, line in lines if not line.lstrip().startswith(COMMENT)]


def _segment(line: str) -> StmSegment:
    fields = line.split(maxsplit=5)
    if len(fields) < 5:
        raise BrokenLineError("no stm line: recording, channel, speaker, begin, end and words are expected")
    recording, channel, speaker, *times = fields[:5]
    begin, end = (_seconds(field) for field in times)
    if end < begin:
        raise BrokenLineError(f"the segment ends ({end:g} s) before it begins ({begin:g} s)")
    text = fields[5].strip() if len(fields) == 6 else ""
    if text.startswith("<"):
        text = text.partition(" ")[2].strip()
    if any(mark in text.upper() for mark in _IGNORED):
        return StmSegment(recording, channel, speaker, begin, end, None)
    text = untagged(text)
    parse_marked(text)
    return StmSegment(recording, channel, speaker, begin, end, text)


def _word(line: str) -> TimedWord:
    fields = line.split()
    if len(fields) not in (5, 6, 7, 8):
        raise BrokenLineError(
            "no ctm line: recording, channel, begin, duration, word and confidence are expected"
        )
    recording, channel, begin, duration, word = fields[:5]
    if word.upper() in (_BEGIN, _OR, _END):
        return TimedWord(recording, channel, math.nan, math.nan, word)
    return TimedWord(recording, channel, _seconds(begin), _seconds(duration), untagged(word))


def untagged(text: str) -> str:
    """The words without tags ("read;verb;past") and without a "*" at the end of each."""
    words = (_TAG.sub("", word) for word in text.split())
    return " ".join(word[:-1] if len(word) > 1 and word.endswith("*") else word for word in words if word)


def _seconds(field: str) -> float:
    try:
        seconds = float(field)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds <= MAX_SECONDS:
        raise BrokenLineError(f"{field!r} is no time in seconds")
    return seconds
