"""Transcripts in JSON lines: this package's, NeMo's manifests and results, lhotse's cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from asr_emapl import storage
from asr_emapl.data.ids import derived_ids
from asr_emapl.data.lhotse_cuts import from_cut, is_cut
from asr_emapl.scoring.nist.alternatives import Marked
from asr_emapl.storage import BrokenLineError, Line, finite_number, parse_object

Role = Literal["reference", "hypothesis"]

_TEXT_ENTRIES: dict[Role, tuple[str, str]] = {
    "reference": ("text", "pred_text"),
    "hypothesis": ("pred_text", "text"),
}
_EXPECTED = "one JSON object with 'id' and 'text' per line is expected"


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """What is said in an utterance.

    Attributes:
        text: the words; of alternatives the first.
        speaker: who says them, if known.
        seconds: how long the utterance lasts, if known.
        marked: all wordings, of a text that allows several.
    """

    text: str
    speaker: str | None = None
    seconds: float | None = None
    marked: Marked | None = None


def parse_json_lines(
    place: str, lines: Sequence[Line], role: Role, *, number_lines: bool = False
) -> tuple[list[tuple[int, str, TranscriptEntry]], list[Line]]:
    """Line number, id and transcript of each line, and the findings in broken lines.

    An utterance without an id is named after its audio, as `asr_emapl.data.manifest.read_manifest` names it.

    Args:
        place: path or URL of the file, for relative audio paths and for messages.
        lines: of the file.
        role: which of `text` and `pred_text` is meant where a line has both.
        number_lines: name utterances after their lines if no line has an id or audio. Only for a file that
            is compared with itself: elsewhere ids would depend on the order of lines.
    """
    entries: list[tuple[int, dict[str, Any]]] = []
    broken: list[Line] = []
    for number, line in lines:
        try:
            entries.append((number, _entry(line)))
        except BrokenLineError as error:
            broken.append((number, f"{error}: {_EXPECTED}"))
        except ValueError as error:  # a cut that is none of ours
            broken.append((number, str(error)))
    _name(place, [entry for _, entry in entries], number_lines)
    found = []
    for number, entry in entries:
        try:
            found.append((number, *_transcript(entry, role)))
        except BrokenLineError as error:
            broken.append((number, str(error)))
    return found, broken


def _entry(line: str) -> dict[str, Any]:
    entry = parse_object(line)
    if is_cut(entry):
        return entry | from_cut(entry)
    for name, other in (("id", "utt_id"), ("audio", "audio_filepath")):
        if entry.get(name) is None:
            entry[name] = entry.get(other)
    return entry


def _name(place: str, entries: Sequence[dict[str, Any]], number_lines: bool) -> None:
    """Give each entry without an id one that its audio determines."""
    if number_lines and all(entry["id"] is None and entry["audio"] is None for entry in entries):
        for number, entry in enumerate(entries, start=1):
            entry["id"] = f"line-{number}"
    nameless = [entry for entry in entries if entry["id"] is None and isinstance(entry["audio"], str)]
    folder = storage.split(place)[0]
    stretches = [
        (storage.join(folder, entry["audio"]), _offset(finite_number(entry.get("offset"))))
        for entry in nameless
    ]
    for entry, name in zip(nameless, derived_ids(stretches), strict=True):
        entry["id"] = name


def _offset(seconds: float | None) -> float:
    return seconds if seconds is not None and 0.0 <= seconds < 1e12 else 0.0


def _transcript(entry: Mapping[str, Any], role: Role) -> tuple[str, TranscriptEntry]:
    utterance = entry["id"]
    if not isinstance(utterance, str) or not utterance:
        raise BrokenLineError("no 'id' (a text that is not empty), and no 'audio_filepath' to derive it from")
    text = _text(entry, role)
    if text is None:
        raise BrokenLineError(f"id {utterance!r} has neither 'text' nor 'pred_text'")
    speaker, duration = entry.get("speaker"), entry.get("duration")
    seconds = finite_number(duration)
    if duration is not None and seconds is None:
        raise BrokenLineError(f"id {utterance!r}: 'duration' is not a number of seconds")
    return utterance, TranscriptEntry(text, None if speaker is None else str(speaker), seconds)


def _text(entry: Mapping[str, Any], role: Role) -> str | None:
    for name in _TEXT_ENTRIES[role]:
        text = entry.get(name)
        if text is not None:
            if not isinstance(text, str):
                raise BrokenLineError(f"id {entry.get('id')!r}: {name!r} is no text")
            return text
    return None
