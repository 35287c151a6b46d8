"""Detect the format of a transcript file from its name or content, and detect lines without ids."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from asr_emapl.errors import UserError
from asr_emapl.storage import Line

# Greedy, because searching for the first parenthesis takes quadratic time on a line of spaces.
TRN_LINE = re.compile(r"(?P<text>.*)\((?P<id>[^()\s]+)\)\s*")

MissingIds = Literal["none", "suspected", "certain"]

_FORMATS = {"jsonl": "jsonl", "json": "jsonl", "ndjson": "jsonl", "trn": "trn", "stm": "stm", "ctm": "ctm"}
_TIME = re.compile(r"\d*\.?\d+")
_SUBTITLE_TIME = re.compile(r"\s*[\d:]+[.,]\d+ --> ")
_RTTM = re.compile(r"(SPEAKER|LEXEME|SEGMENT|SPKR-INFO|NOSCORE|NO_RT_METADATA)\s")

_PUNCTUATION = "'\u2019.,;:?!\"\u201c\u201d\u00ab\u00bb\u00bf\u00a1"
_RECURRING_FRACTION = 0.2


def without_comments(lines: Sequence[Line]) -> list[Line]:
    """Return the lines that do not start with ";;"."""
    return [(number, line) for number, line in lines if not line.lstrip().startswith(";;")]


def named_format(path: str | os.PathLike[str]) -> str | None:
    """Return the format given by the file name (a.jsonl, a.trn.gz, a.stm.filt, ctm); None if unknown."""
    name = Path(os.fspath(path).lower()).name.removesuffix(".gz").removesuffix(".filt")
    return _FORMATS.get(name.rpartition(".")[2])


def sniffed_format(place: str, lines: Sequence[Line]) -> str:
    """Return the detected format: "jsonl", "trn", "stm", "ctm" or "plain".

    stm and ctm require decimal times on every line.

    Raises:
        UserError: the format is not supported (TextGrid, SRT, WebVTT, RTTM).
    """
    content = [line for _, line in without_comments(lines)]
    if not content:
        return "plain"
    if content[0].lstrip().startswith(("{", "[{")) or content[0].strip() == "[":
        return "jsonl"
    _refuse_other_formats(place, content)
    if all(map(TRN_LINE.fullmatch, content)):
        return "trn"
    fields = [line.split() for line in content]
    if all(map(_is_stm, fields)):
        return "stm"
    return "ctm" if all(map(_is_ctm, fields)) else "plain"


def lines_without_ids(firsts: Sequence[str], rests: Sequence[str]) -> MissingIds:
    """Return whether lines appear to start with words instead of ids.

    Ids contain digits or separators (1272-128104-0000, sp1_utt2, 17); words contain neither. The result is
    "suspected" if at least half of the first fields are words of two or more letters, unless these fields are
    in lower case and the text is in upper case, or vice versa. It is "certain" if, in addition, first fields
    repeat, at least a fifth of them also occur in the text, or no line has more than one word.

    Args:
        firsts: the first field of each line, which should be an id.
        rests: the remainder of each line.
    """
    words = [first for first in firsts if _is_word(first)]
    if not words or len(words) < len(firsts) / 2:
        return "none"
    text = " ".join(rests)
    distinct = set(words)
    recurring = len(distinct & set(text.split())) / len(distinct)
    if len(distinct) < len(words) or not text.strip() or recurring >= _RECURRING_FRACTION:
        return "certain"
    joined = "".join(words)
    if (joined.islower() and text.isupper()) or (joined.isupper() and text.islower()):
        return "none"
    return "suspected"


def _is_word(first: str) -> bool:
    characters = [character for character in first if character not in _PUNCTUATION]
    return len(characters) > 1 and all(unicodedata.category(c)[0] in "LM" for c in characters)


def _is_stm(fields: Sequence[str]) -> bool:
    return len(fields) >= 5 and _are_times(fields[3:5]) and float(fields[3]) <= float(fields[4])


def _is_ctm(fields: Sequence[str]) -> bool:
    return 5 <= len(fields) <= 8 and (_are_times(fields[2:4]) or fields[2:4] == ["*", "*"])


def _are_times(fields: Sequence[str]) -> bool:
    # Integers alone may be words: "utt1 7 8 9 10".
    return all(map(_TIME.fullmatch, fields)) and any("." in field for field in fields)


def _refuse_other_formats(place: str, lines: Sequence[str]) -> None:
    if re.search("ooTextFile|TextGrid", " ".join(lines[:3])):
        found = "Praat TextGrid"
    elif lines[0].startswith("WEBVTT") or any(map(_SUBTITLE_TIME.match, lines[:5])):
        found = "subtitles (SRT or WebVTT)"
    elif all(map(_RTTM.match, lines)):
        found = "RTTM"
    else:
        return
    raise UserError(f"{place}: unsupported format: {found}; convert it to stm, ctm, trn or lines 'id words'")
