"""Read transcript files of recognisers and corpora, and write hypotheses.

Files are UTF-8, optionally gzipped, given by path or URL, with one utterance per line:

- jsonl: `{"id": "1272-128104-0000", "text": "MISTER QUILTER"}`, optionally with `speaker` and `duration`
  (seconds). This includes manifests and hypotheses of this package, manifests and results of NeMo (ids are
  derived from `audio_filepath`) and cuts of lhotse. `pred_text` is a hypothesis; `text` may then be missing.
- trn: `MISTER QUILTER (1272-128104-0000)`, sclite's format.
- stm and ctm: see `asr_emapl.scoring.nist.timed`.
- plain: `1272-128104-0000 MISTER QUILTER`, LibriSpeech's trans.txt and Kaldi's text.

trn, stm and ctm may contain alternatives, `{ UM / UH / @ }`, and optional words, `(UM)`: see
`asr_emapl.scoring.nist.alternatives`. Lines that start with `;;` are comments, except in JSON.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from asr_emapl import storage
from asr_emapl.data.ids import derived_ids
from asr_emapl.data.lhotse_cuts import from_cut, is_cut
from asr_emapl.errors import UserError
from asr_emapl.scoring import formats
from asr_emapl.scoring.nist import timed
from asr_emapl.scoring.nist.alternatives import Marked, first_wording, parse_marked
from asr_emapl.storage import BrokenLineError, Line, Place

_logger = logging.getLogger(__name__)

Role = Literal["reference", "hypothesis"]

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """The transcript of an utterance, and its speaker, duration and confidence if known.

    If there are alternatives, `text` contains the first of each and `marked` contains all.
    """

    text: str
    speaker: str | None = None
    seconds: float | None = None
    marked: Marked | None = None
    confidence: float | None = None


_Numbered = list[tuple[int, tuple[str, TranscriptEntry]]]
"""Line number, id and transcript of each line."""


def read_transcripts(path: Place, *, role: Role = "reference") -> dict[str, str]:
    """Read id -> text; see `read_utterances`."""
    return {name: entry.text for name, entry in read_utterances(path, role=role).items()}


def read_utterances(path: Place, *, role: Role = "reference") -> dict[str, TranscriptEntry]:
    """Read id -> transcript, in the order of the file. A line with only an id is an empty transcript.

    The format is determined by the file extension (.jsonl, .json, .ndjson, .trn, .stm, .ctm, optionally
    followed by .filt and .gz), or else by the content. A byte order mark, CRLF and empty lines are allowed.
    Texts are not normalised. A ctm file yields one transcript per recording; `read_pair` splits it by the
    segments of an stm file.

    Args:
        path: path or URL of the file.
        role: which key of a JSON line takes precedence: `text` for "reference", `pred_text` for "hypothesis".

    Raises:
        UserError: the file cannot be read or has no transcripts, lines are invalid, or ids are repeated. One
            error reports all problems, one per line, as `path:line: problem`.
    """
    place = os.fspath(path)
    return _parse(place, list(storage.read_lines(place)), role)


def read_pair(
    reference: Place, hypothesis: Place
) -> tuple[dict[str, TranscriptEntry], dict[str, TranscriptEntry]]:
    """Read references and hypotheses by id.

    A ctm hypothesis is split by an stm reference, as in sclite (`timed.texts_of_segments`).

    Raises:
        UserError: see `read_utterances`.
    """
    first, second = os.fspath(reference), os.fspath(hypothesis)
    lines, others = list(storage.read_lines(first)), list(storage.read_lines(second))
    if _format(first, lines) == "stm" and _format(second, others) == "ctm":
        segments, words = timed.parse_stm(first, lines), timed.parse_ctm(second, others)
        texts = timed.texts_of_segments(segments, words)
        return _require_entries(first, _of_segments(segments)), _of_texts(texts)
    # In a single file, line numbers can serve as ids, because text and pred_text of a line belong together.
    is_same = first == second
    references = _parse(first, lines, "reference", number_lines=is_same)
    return references, _parse(second, others, "hypothesis", number_lines=is_same)


def write_hypotheses(path: Place, hypotheses: Mapping[str, str]) -> None:
    """Write id -> text as JSONL (`id`, `text`), atomically.

    Raises:
        UserError: the file cannot be written.
    """
    entries = ({"id": utterance, "text": text} for utterance, text in hypotheses.items())
    storage.write(path, (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))


def _format(place: str, lines: Sequence[Line]) -> str:
    return formats.named_format(place) or formats.sniffed_format(place, lines)


def _parse(
    place: str, lines: Sequence[Line], role: Role, *, number_lines: bool = False
) -> dict[str, TranscriptEntry]:
    form = _format(place, lines)
    if form == "ctm":
        entries = _of_texts(timed.texts_of_recordings(timed.parse_ctm(place, lines)))
    elif form == "stm":
        entries = _of_segments(timed.parse_stm(place, lines))
    elif form == "jsonl":
        entries = _by_id(place, *_parse_json_lines(place, lines, role, number_lines))
    else:
        content = formats.without_comments(lines)
        parsed, broken = _collect(content, _parse_trn if form == "trn" else _parse_plain)
        if form == "plain":
            _require_ids(place, parsed)
        entries = _by_id(place, parsed, broken)
    return _require_entries(place, entries)


def _collect(
    lines: Iterable[tuple[int, _Value]], parse: Callable[[_Value], _Result]
) -> tuple[list[tuple[int, _Result]], list[Line]]:
    """Parse each line; return the numbered results and the errors of invalid lines."""
    parsed: list[tuple[int, _Result]] = []
    broken: list[Line] = []
    for number, line in lines:
        try:
            parsed.append((number, parse(line)))
        except ValueError as finding:  # BrokenLineError, or a cut that is not supported
            broken.append((number, str(finding)))
    return parsed, broken


def _by_id(place: str, parsed: _Numbered, broken: list[Line]) -> dict[str, TranscriptEntry]:
    """Map ids to transcripts; raise one UserError for all invalid lines and repeated ids."""
    found: dict[str, TranscriptEntry] = {}
    first: dict[str, int] = {}
    findings = list(broken)
    for number, (name, entry) in parsed:
        if name in found:
            findings.append((number, f"id {name!r} is repeated (first in line {first[name]}); keep one"))
        else:
            found[name], first[name] = entry, number
    storage.raise_broken(place, sorted(findings))
    return found


def _require_ids(place: str, parsed: _Numbered) -> None:
    """Raise UserError if lines start with words instead of ids; warn if this is only suspected."""
    firsts = [name for _, (name, _) in parsed]
    finding = formats.lines_without_ids(firsts, [entry.text for _, (_, entry) in parsed])
    if finding == "none":
        return
    shown = ", ".join(repr(first) for first in firsts[:3])
    remedy = "put an id before each line, or number the lines of both files with nl -ba -w1 FILE"
    if finding == "certain":
        raise UserError(f"{place}: lines start with words ({shown}), not with ids; {remedy}")
    _logger.warning(f"{place}: lines seem to start with words ({shown}), not with ids; if so, {remedy}")


def _require_entries(place: str, entries: dict[str, TranscriptEntry]) -> dict[str, TranscriptEntry]:
    if not entries:
        raise UserError(f"{place}: no transcripts; check that this is the right file and that it is complete")
    return entries


def _of_segments(segments: Sequence[timed.StmSegment]) -> dict[str, TranscriptEntry]:
    return {
        name: _marked(s.text, s.speaker, s.end - s.begin)
        for name, s in zip(timed.segment_ids(segments), segments, strict=True)
        if s.text is not None
    }


def _of_texts(texts: Mapping[str, str]) -> dict[str, TranscriptEntry]:
    return {name: _marked(text) for name, text in texts.items()}


def _marked(text: str, speaker: str | None = None, seconds: float | None = None) -> TranscriptEntry:
    return TranscriptEntry(first_wording(text), speaker, seconds, parse_marked(text))


def _parse_plain(line: str) -> tuple[str, TranscriptEntry]:
    utterance, *words = line.split(maxsplit=1)
    return utterance, TranscriptEntry(words[0].rstrip() if words else "")


def _parse_trn(line: str) -> tuple[str, TranscriptEntry]:
    match = formats.TRN_LINE.fullmatch(line)
    if match is None:
        raise BrokenLineError("no '(id)' at the end of the line; trn files require it")
    return match["id"], _marked(timed.untagged(match["text"].rstrip()))


def _parse_json_lines(
    place: str, lines: Sequence[Line], role: Role, number_lines: bool
) -> tuple[_Numbered, list[Line]]:
    """Parse lines of JSON; `number_lines` uses line numbers as ids if no line has an id or audio."""
    storage.check_json_lines(place, lines)
    objects, broken = _collect(lines, _parse_object)
    _add_ids(place, [entry for _, entry in objects], number_lines)
    parsed, incomplete = _collect(objects, lambda entry: _json_transcript(entry, role))
    return parsed, broken + incomplete


def _parse_object(line: str) -> dict[str, Any]:
    try:
        entry = storage.parse_object(line)
    except BrokenLineError as error:
        raise BrokenLineError(f"{error}; expected one JSON object with 'id' and 'text' per line") from error
    if is_cut(entry):
        return entry | from_cut(entry)
    for name, other in (("id", "utt_id"), ("audio", "audio_filepath")):
        if entry.get(name) is None:
            entry[name] = entry.get(other)
    return entry


def _add_ids(place: str, entries: Sequence[dict[str, Any]], number_lines: bool) -> None:
    """Derive missing ids from the audio, as in `asr_emapl.data.manifest.read_manifest`."""
    if number_lines and all(entry["id"] is None and entry["audio"] is None for entry in entries):
        for number, entry in enumerate(entries, start=1):
            entry["id"] = f"line-{number}"
    nameless = [entry for entry in entries if entry["id"] is None and isinstance(entry["audio"], str)]
    folder = storage.split(place)[0]
    sources = []
    for entry in nameless:
        offset = storage.finite_number(entry.get("offset")) or 0.0
        sources.append((storage.join(folder, entry["audio"]), offset if 0.0 <= offset < 1e12 else 0.0))
    for entry, name in zip(nameless, derived_ids(sources), strict=True):
        entry["id"] = name


def _json_transcript(entry: Mapping[str, Any], role: Role) -> tuple[str, TranscriptEntry]:
    utterance = entry["id"]
    if not isinstance(utterance, str) or not utterance:
        raise BrokenLineError("no 'id' (a non-empty string), and no 'audio_filepath' to derive it from")
    keys = ("text", "pred_text") if role == "reference" else ("pred_text", "text")
    key = next((key for key in keys if entry.get(key) is not None), None)
    if key is None:
        raise BrokenLineError(f"id {utterance!r} has neither 'text' nor 'pred_text'")
    if not isinstance(entry[key], str):
        raise BrokenLineError(f"id {utterance!r}: {key!r} is not a string")
    speaker, seconds = entry.get("speaker"), storage.finite_number(entry.get("duration"))
    if seconds is None and entry.get("duration") is not None:
        raise BrokenLineError(f"id {utterance!r}: 'duration' is not a number of seconds")
    return utterance, TranscriptEntry(
        entry[key],
        None if speaker in (None, "") else str(speaker),
        seconds,
        confidence=storage.finite_number(entry.get("confidence")),
    )
