"""Transcripts from the files that recognisers and corpora write, and hypotheses to such a file.

UTF-8, gzip or not, by path or URL, one utterance a line:

- jsonl: `{"id": "1272-128104-0000", "text": "MISTER QUILTER"}`, with `speaker` and `duration` (seconds) if
  known: this package's manifests and hypotheses; `pred_text` in place of or beside `text` is a hypothesis.
  NeMo's manifests and lhotse's cuts are read as `asr_emapl.data.manifest` reads them.
- trn: `MISTER QUILTER (1272-128104-0000)`, as sclite reads; lines starting with `;;` are comments.
- stm and ctm, as `asr_emapl.scoring.timed` says.
- plain: `1272-128104-0000 MISTER QUILTER`, LibriSpeech's trans.txt and Kaldi's text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from asr_emapl.data.foreign import is_cut
from asr_emapl.errors import UserError
from asr_emapl.json_text import finite_number, parse_object
from asr_emapl.outputs import write
from asr_emapl.scoring import timed
from asr_emapl.text_files import BrokenLineError, Line, raise_broken, read_lines

Role = Literal["reference", "hypothesis"]
Place = str | os.PathLike[str]

_FORMAT_OF_EXTENSION = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".trn": "trn",
    ".stm": "stm",
    ".ctm": "ctm",
}
_TEXT_ENTRIES: dict[Role, tuple[str, str]] = {
    "reference": ("text", "pred_text"),
    "hypothesis": ("pred_text", "text"),
}
_TRN_LINE = re.compile(r"(?P<text>.*?)\s*\((?P<id>[^()\s]+)\)\s*")


@dataclass(frozen=True, slots=True)
class Transcript:
    """What is said in an utterance.

    Attributes:
        text: the words.
        speaker: who says them, if known.
        seconds: how long the utterance lasts, if known.
    """

    text: str
    speaker: str | None = None
    seconds: float | None = None


def read_transcripts(path: Place, *, role: Role = "reference") -> dict[str, str]:
    """Read id -> text; `read_utterances` without speakers and durations."""
    return {name: transcript.text for name, transcript in read_utterances(path, role=role).items()}


def read_utterances(path: Place, *, role: Role = "reference") -> dict[str, Transcript]:
    """Read id -> transcript, in the order of the file. A line with an id and no words is an empty transcript.

    The extension tells the format (.jsonl, .json, .ndjson, .trn, .stm, .ctm; .gz after it); of any other file
    the content does. A byte order mark, CRLF line ends and empty lines are tolerated. Texts are not
    normalised. A ctm file is taken recording by recording (`read_pair` has it cut by an stm file).

    Args:
        path: the file, or its URL.
        role: which entry of a JSON line with both `text` and `pred_text` is meant: the first for
            "reference", the second for "hypothesis".

    Raises:
        UserError: the file cannot be read or has no transcripts; or broken lines and repeated ids, all of
            them in one error, a line each: `path:line: what`.
    """
    lines = list(read_lines(os.fspath(path)))
    form = _form(path) or _sniff([line for _, line in lines])
    if form == "ctm":
        texts = timed.texts_of_recordings(timed.parse_ctm(os.fspath(path), lines))
        return _filled(path, {name: Transcript(text) for name, text in texts.items()})
    if form == "stm":
        return _filled(path, _of_segments(timed.parse_stm(os.fspath(path), lines)))
    if form == "jsonl" and lines and _is_manifest(lines[0][1]):
        return _of_manifest(path, lines, role)
    if form == "trn":
        lines = [(number, line) for number, line in lines if not line.startswith(timed.COMMENT)]
    found: dict[str, Transcript] = {}
    first: dict[str, int] = {}
    broken: list[Line] = []
    for number, line in lines:
        try:
            name, transcript = _parse(line, form, role)
            if name in found:
                raise BrokenLineError(f"id {name!r} again, first in line {first[name]}: keep one")
            found[name], first[name] = transcript, number
        except BrokenLineError as finding:
            broken.append((number, str(finding)))
    raise_broken(os.fspath(path), broken)
    return _filled(path, found)


def read_pair(reference: Place, hypothesis: Place) -> tuple[dict[str, Transcript], dict[str, str]]:
    """References with what is known of them, and the texts of hypotheses, each by id.

    A ctm hypothesis of an stm reference is cut by it: a word belongs to the segment that its middle lies in
    or nearest to.

    Raises:
        UserError: as `read_utterances`.
    """
    if _form(reference) != "stm" or _form(hypothesis) != "ctm":
        return read_utterances(reference), read_transcripts(hypothesis, role="hypothesis")
    segments = timed.parse_stm(os.fspath(reference), list(read_lines(os.fspath(reference))))
    words = timed.parse_ctm(os.fspath(hypothesis), list(read_lines(os.fspath(hypothesis))))
    return _filled(reference, _of_segments(segments)), timed.texts_of_segments(segments, words)


def write_hypotheses(path: Place, hypotheses: Mapping[str, str]) -> None:
    """Write id -> text as JSONL (`id`, `text`); a reader sees the old file or the new one, never a part.

    Raises:
        UserError: the file cannot be written.
    """
    write(
        path,
        (
            json.dumps({"id": utterance, "text": text}, ensure_ascii=False) + "\n"
            for utterance, text in hypotheses.items()
        ),
    )


def _form(path: Place) -> str | None:
    """The format that the name tells, if it tells one."""
    return _FORMAT_OF_EXTENSION.get(Path(os.fspath(path).lower().removesuffix(".gz")).suffix)


def _sniff(lines: Sequence[str]) -> str:
    if lines and lines[0].lstrip().startswith("{"):
        return "jsonl"
    if lines and all(_TRN_LINE.fullmatch(line) or line.startswith(timed.COMMENT) for line in lines):
        return "trn"
    return "plain"


def _filled(path: Place, transcripts: dict[str, Transcript]) -> dict[str, Transcript]:
    if not transcripts:
        raise UserError(
            f"{os.fspath(path)}: no transcripts in it: is it the right file, and was it written to the end?"
        )
    return transcripts


def _of_segments(segments: Sequence[timed.Segment]) -> dict[str, Transcript]:
    names = timed.segment_ids(segments)
    return {
        name: Transcript(s.text, s.speaker, s.end - s.begin)
        for name, s in zip(names, segments, strict=True)
        if s.text is not None
    }


def _is_manifest(line: str) -> bool:
    """Whether it is a line of another toolkit's manifest, without an id or with its text inside."""
    try:
        entry = parse_object(line)
    except BrokenLineError:
        return False
    return is_cut(entry) or ("id" not in entry and ("audio_filepath" in entry or "audio" in entry))


def _of_manifest(path: Place, lines: Sequence[Line], role: Role) -> dict[str, Transcript]:
    from asr_emapl.data.manifest import read_manifest

    utterances = read_manifest(os.fspath(path))
    found: dict[str, Transcript] = {}
    broken: list[Line] = []
    # read_manifest has found every line to be an utterance.
    for (number, line), utterance in zip(lines, utterances, strict=True):
        entry = {"pred_text": parse_object(line).get("pred_text"), "text": utterance.text, "id": utterance.id}
        try:
            text = _text(entry, role)
            if text is None:
                raise BrokenLineError(f"id {utterance.id!r} has neither 'text' nor 'pred_text'")
            found[utterance.id] = Transcript(text, utterance.speaker, utterance.duration)
        except BrokenLineError as finding:
            broken.append((number, str(finding)))
    raise_broken(os.fspath(path), broken)
    return found


def _parse(line: str, form: str, role: Role) -> tuple[str, Transcript]:
    if form == "jsonl":
        return _parse_json(line, role)
    if form == "trn":
        return _parse_trn(line)
    utterance, *words = line.split(maxsplit=1)
    return utterance, Transcript(words[0].rstrip() if words else "")


def _parse_json(line: str, role: Role) -> tuple[str, Transcript]:
    try:
        entry = parse_object(line)
    except BrokenLineError as error:
        raise BrokenLineError(f"{error}: one JSON object with 'id' and 'text' per line is expected") from None
    utterance = entry.get("id")
    if not isinstance(utterance, str) or not utterance:
        raise BrokenLineError("no 'id' (a text that is not empty)")
    text = _text(entry, role)
    if text is None:
        raise BrokenLineError(f"id {utterance!r} has neither 'text' nor 'pred_text'")
    speaker, duration = entry.get("speaker"), entry.get("duration")
    seconds = finite_number(duration)
    if duration is not None and seconds is None:
        raise BrokenLineError(f"id {utterance!r}: 'duration' is not a number of seconds")
    return utterance, Transcript(text, None if speaker is None else str(speaker), seconds)


def _text(entry: Mapping[str, Any], role: Role) -> str | None:
    for name in _TEXT_ENTRIES[role]:
        text = entry.get(name)
        if text is not None:
            if not isinstance(text, str):
                raise BrokenLineError(f"id {entry.get('id')!r}: {name!r} is no text")
            return text
    return None


def _parse_trn(line: str) -> tuple[str, Transcript]:
    match = _TRN_LINE.fullmatch(line)
    if match is None:
        raise BrokenLineError("no '(id)' at the end of the line, as trn files have it")
    timed.check_words(match["text"])
    return match["id"], Transcript(match["text"].strip())
