"""Detect the format of a file of transcripts by its name or content."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from asr_emapl.errors import UserError

COMMENT = ";;"

# Greedy, since a search for the first parenthesis takes the square of a line's length in spaces.
TRN_LINE = re.compile(r"(?P<text>.*)\((?P<id>[^()\s]+)\)\s*")

_FORMAT_OF_ENDING = {
    "jsonl": "jsonl",
    "json": "jsonl",
    "ndjson": "jsonl",
    "trn": "trn",
    "stm": "stm",
    "ctm": "ctm",
}
_TIME = re.compile(r"\d*\.?\d+")
_STAMP = re.compile(r"\s*[\d:]+[.,]\d+ --> ")


def named_format(path: str | os.PathLike[str]) -> str | None:
    """The format that the name tells, if it does: a.jsonl, a.trn.gz, a.stm.filt, or just ctm."""
    name = Path(os.fspath(path).lower()).name.removesuffix(".gz").removesuffix(".filt")
    return _FORMAT_OF_ENDING.get(name.rpartition(".")[2])


def sniffed_format(place: str, lines: Sequence[str]) -> str:
    """The format of these lines: "jsonl", "trn", "stm", "ctm", or "plain" if they are none of them.

    stm and ctm are recognised by decimal times in every line.

    Raises:
        UserError: they are times with words in a format that is not read (TextGrid, SRT, WebVTT, RTTM).
    """
    content = [line for line in lines if not line.lstrip().startswith(COMMENT)]
    if not content:
        return "plain"
    if content[0].lstrip().startswith(("{", "[{")) or content[0].strip() == "[":
        return "jsonl"
    _refuse_other_times(place, content)
    if all(TRN_LINE.fullmatch(line) for line in content):
        return "trn"
    fields = [line.split() for line in content]
    if all(map(_is_stm, fields)):
        return "stm"
    if all(map(_is_ctm, fields)):
        return "ctm"
    return "plain"


def _is_stm(fields: Sequence[str]) -> bool:
    return len(fields) >= 5 and _are_times(fields[3:5]) and float(fields[3]) <= float(fields[4])


def _is_ctm(fields: Sequence[str]) -> bool:
    return 5 <= len(fields) <= 8 and (_are_times(fields[2:4]) or fields[2:4] == ["*", "*"])


def _are_times(fields: Sequence[str]) -> bool:
    # Whole numbers alone may be words: "utt1 7 8 9 10".
    return all(map(_TIME.fullmatch, fields)) and any("." in field for field in fields)


def _refuse_other_times(place: str, lines: Sequence[str]) -> None:
    head = " ".join(lines[:3])
    found = None
    if "ooTextFile" in head or "TextGrid" in head:
        found = "a Praat TextGrid"
    elif lines[0].startswith("WEBVTT") or any(map(_STAMP.match, lines[:5])):
        found = "subtitles (SRT or WebVTT)"
    elif all(
        re.match(r"(SPEAKER|LEXEME|SEGMENT|SPKR-INFO|NOSCORE|NO_RT_METADATA)\s", line) for line in lines
    ):
        found = "RTTM"
    if found is not None:
        raise UserError(
            f"{place}: {found}, which is not read; convert it to stm, ctm, trn or lines of 'id words'"
        )
