"""Transcripts as text, JSON, SubRip and WebVTT."""

from __future__ import annotations

import json
import re

from hypothesis import example, given
from hypothesis import strategies as st

from asr_emapl.decoding.spans import TimedText
from asr_emapl.decoding.transcript import (
    FORMATS,
    Transcript,
    TranscriptSegment,
    to_json,
    to_srt,
    to_text,
    to_vtt,
)

WORDS = (
    TimedText("R&D", 0.5, 0.75, 0.9),
    TimedText("WENT", 1.0, 1.5, 0.8),
    TimedText("ON", 3661.0, 3661.25, 0.7),
)
TWO = Transcript(
    "talk.flac",
    3700.0,
    (
        TranscriptSegment(0.0, 2.0, "R&D WENT", 0.85, WORDS[:2]),
        TranscriptSegment(3660.0, 3662.0, "ON", 0.7, WORDS[2:]),
    ),
)


def test_text_has_one_line_per_segment():
    assert to_text(TWO) == "R&D WENT\nON\n"


def test_srt_and_vtt():
    assert to_srt(TWO) == (
        "1\n00:00:00,500 --> 00:00:01,500\nR&D WENT\n\n2\n01:01:01,000 --> 01:01:01,250\nON\n\n"
    )
    assert to_vtt(TWO).startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nR&amp;D WENT\n\n")


def test_json_is_one_line_with_all_segments():
    content = to_json(TWO)
    assert content.count("\n") == 1
    found = json.loads(content)
    assert (found["audio"], found["seconds"], found["text"]) == ("talk.flac", 3700.0, "R&D WENT ON")
    assert found["segments"][1]["words"] == [
        {"word": "ON", "begin": 3661.0, "end": 3661.25, "confidence": 0.7}
    ]


def test_an_empty_transcript():
    silence = Transcript("a", 5.0, ())
    assert to_text(silence) == to_srt(silence) == ""
    assert set(FORMATS) == {"text", "json", "srt", "vtt"}
    assert to_vtt(silence) == "WEBVTT\n\n"


words = st.tuples(st.text("AB", min_size=1, max_size=60), st.floats(0.01, 3.0), st.floats(0.0, 3.0))


@given(st.lists(words, max_size=60))
@example([("A", 1.0, 0.0), (43 * "A", 1.0, 0.0), ("A", 1.0, 0.0)])
def test_subtitles_hold_all_words_in_order_and_fit_a_screen(spoken):
    time, timed = 0.0, []
    for text, seconds, pause in spoken:
        timed.append(TimedText(text, time + pause, time + pause + seconds, 1.0))
        time += pause + seconds
    segment = TranscriptSegment(0.0, time, " ".join(w.text for w in timed), 1.0, tuple(timed))
    cues = re.findall(r"(\S+) --> (\S+)\n(.*?)\n\n", to_srt(Transcript("a", time, (segment,))), re.DOTALL)
    assert " ".join(text for *_, text in cues).split() == [w.text for w in timed]
    for begin, end, text in cues:
        assert begin <= end
        lines = text.split("\n")
        assert len(lines) <= 2
        assert all(len(line) <= 42 or " " not in line for line in lines)
    assert sorted(end for _, end, _ in cues) == [end for _, end, _ in cues]
